"""Two hundred sessions of four tenants under one cap of $20, while their workers are killed.

Rule: what was billed is asked of the provider, what was charged of the ledger, and neither of a worker.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.chaos.real import RealFleet, real_fleet
from tests.waiting import until
from worker.core import keys
from worker.core.costs import summed, total, unknown
from worker.core.prices import usd
from worker.core.values import Stop
from worker.costs import collect
from worker.ports import EntryState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.figures import Figures
    from worker.costs import Collected
    from worker.ports import Account

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout("900")]

SESSIONS = 200
CAMPAIGN, CAP_USD = "one-cap", 20.0
TENANTS = ("north", "east", "south", "west")
WORKERS = 3
KILL_EVERY_S = 5.0
#: The kills go on until this share of the sessions has ended, or for so long.
KILL_UNTIL, KILLING_S = 0.8, 150.0
QUIET_S = 500.0
SCOPES = ("fleet", f"campaign:{CAMPAIGN}", *(f"tenant:{tenant}" for tenant in TENANTS))

_TASKS = tuple(f"What is {number} + {number + 1}?" for number in range(3))
#: Dear enough that the closing calls of all sessions hold $16.60 of the $20; the rest is fought for.
_MODEL = "claude-sonnet-5"
_LIMITS = {"max_cost_usd": 0.4, "max_turns": 3, "max_student_runs": 6}


@dataclass
class Storm:
    """What was done, and what was seen while it was done."""

    kills: int = 0
    looks: int = 0
    #: The most that was ever posted and held of the campaign, and where more was billed than that.
    most_nusd: int = 0
    uncovered: list[str] = field(default_factory=list[str])


def _names() -> dict[str, str]:
    """Return session -> tenant."""
    return {f"capped-{n}": TENANTS[n % len(TENANTS)] for n in range(SESSIONS)}


@pytest.fixture(scope="module")
def stormy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealFleet, Storm]]:
    """A fleet whose two hundred sessions have ended."""
    with real_fleet(
        tmp_path_factory.mktemp("cap"),
        workers=WORKERS,
        concurrency=16,
        tasks=_TASKS,
        teacher_options=["--first-ms", "600", "--repeats", "1"],
        budgets={**dict.fromkeys(SCOPES, 1000.0), f"campaign:{CAMPAIGN}": CAP_USD},
        settings={"TEACHERS__DEFAULT__MODEL": _MODEL},
    ) as real:
        storm = Storm()
        for name, tenant in _names().items():
            real.enqueue(name, tenant=tenant, campaign=CAMPAIGN, limits=_LIMITS)
        _rage(real, storm)
        real.wait_ready()
        _wait_for_all(real, storm)
        until("nothing held", lambda: not _account(real, SCOPES[1]).held_nusd, seconds=60)
        yield real, storm


def _rage(real: RealFleet, storm: Storm) -> None:
    draw = random.Random(20)  # noqa: S311 - chance of a test
    tick, began_s = threading.Event(), time.monotonic()
    while time.monotonic() < began_s + KILLING_S:
        tick.wait(KILL_EVERY_S)
        real.kill(draw.choice(real.workers))
        storm.kills += 1
        real.begin_worker()
        _look(real, storm)
        if sum(real.ended(name) for name in _names()) >= KILL_UNTIL * SESSIONS:
            return


def _wait_for_all(real: RealFleet, storm: Storm) -> None:
    """Wait for every end; a request whose message went down with a worker is sent again."""
    tick, end_s = threading.Event(), time.monotonic() + QUIET_S
    ask_s = time.monotonic() + 10
    while left := [name for name in _names() if not real.ended(name)]:
        assert time.monotonic() < end_s, f"{len(left)} sessions have not ended: {left[:5]}"
        if time.monotonic() > ask_s:
            ask_s = time.monotonic() + 30
            for name in left:
                if not real.opened(name):
                    real.enqueue(name, tenant=_names()[name], campaign=CAMPAIGN, limits=_LIMITS)
        _look(real, storm)
        tick.wait(1)


def _look(real: RealFleet, storm: Storm) -> None:
    """Hold the bill of this instant against the ledger; what is held after it is not in it."""
    billed = sum(line["amount_nano_usd"] for line in real.bill())
    account = _account(real, SCOPES[1])
    total_nusd = account.posted_nusd + account.held_nusd
    storm.looks += 1
    storm.most_nusd = max(storm.most_nusd, total_nusd)
    if billed > total_nusd:
        storm.uncovered.append(f"{billed} billed, {total_nusd} posted and held")


def _account(real: RealFleet, scope: str) -> Account:
    account = real.system.ledger.account(scope)
    assert account is not None
    return account


def _collected(real: RealFleet) -> Collected:
    parts = real.system
    return collect(parts.journal, parts.ledger, parts.artifacts, campaign=CAMPAIGN)


def test_every_session_ended_with_its_artifacts(
    stormy: tuple[RealFleet, Storm], figures: Figures
) -> None:
    real, storm = stormy
    outcomes: Counter[str] = Counter()
    out_of_money = 0

    for name, tenant in _names().items():
        place = {"tenant": tenant, "campaign": CAMPAIGN, "session_id": name}
        manifest = real.system.artifacts.get(keys.manifest(**place))
        assert manifest is not None, f"{name} has no manifest"
        for file in json.loads(manifest)["files"].values():
            body = real.system.artifacts.get(file["key"])
            assert body is not None, file
            assert hashlib.sha256(body).hexdigest() == file["sha256"], file
        session = real.system.runner.session(name)
        assert session is not None
        assert session.ended is not None
        assert session.ended.reason
        outcomes[session.ended.outcome] += 1
        out_of_money += session.stop is Stop.BUDGET

    how = (
        f"{SESSIONS} sessions of {len(TENANTS)} tenants under one cap of ${CAP_USD:g}, {_MODEL}, "
        f"{WORKERS} workers, {storm.kills} times one of them killed, every {KILL_EVERY_S:g} s"
    )
    figures.least("one cap: sessions ended", outcomes.total(), "", SESSIONS, how)
    figures.show(
        f"one cap: {storm.kills} kills, sessions by outcome: {dict(outcomes)}, {out_of_money} of them at "
        "the end of their money"
    )
    assert outcomes.total() == SESSIONS
    assert storm.kills >= 5


def test_the_bill_is_within_the_ledger_and_the_ledger_within_the_cap(
    stormy: tuple[RealFleet, Storm], figures: Figures
) -> None:
    real, storm = stormy
    billed = sum(line["amount_nano_usd"] for line in real.bill())
    account = _account(real, SCOPES[1])

    assert storm.uncovered == []
    assert storm.most_nusd <= account.cap_nusd == CAP_USD * 1e9
    assert billed <= account.posted_nusd <= account.cap_nusd
    assert (account.held_nusd, account.breach_nusd, account.frozen) == (0, 0, False)
    tenants = [_account(real, f"tenant:{tenant}") for tenant in TENANTS]
    assert sum(tenant.posted_nusd for tenant in tenants) == account.posted_nusd
    assert _account(real, "fleet").posted_nusd == account.posted_nusd
    how = (
        f"billed {usd(billed)}, charged {usd(account.posted_nusd)}, never above "
        f"{usd(storm.most_nusd)} posted and held, in {storm.looks} looks"
    )
    figures.most("one cap: overshoot", max(storm.most_nusd - account.cap_nusd, 0), "nano$", 0, how)


def test_each_call_is_charged_as_it_was_billed_and_the_unknown_are_listed(
    stormy: tuple[RealFleet, Storm], figures: Figures
) -> None:
    real, _ = stormy
    by_request = {line["request_id"]: line["amount_nano_usd"] for line in real.bill()}
    entries = [entry for name in _names() for entry in real.system.ledger.entries(name)]
    settled = [entry for entry in entries if entry.state is EntryState.SETTLED]
    expired = {e.reservation_id: e.actual_nusd for e in entries if e.state is EntryState.EXPIRED}
    found = _collected(real)
    listed = unknown(found.charges)

    assert not [e for e in settled if by_request.get(e.request_id) != e.actual_nusd]
    assert {charge.reservation_id: charge.actual_nusd for charge in listed} == expired
    whole = total(found.charges)
    assert whole.cost_nusd == _account(real, SCOPES[1]).posted_nusd
    assert len(found.ended) == SESSIONS
    heard = sum(entry.actual_nusd for entry in settled)
    assert sum(by_request.values()) - heard <= whole.unknown_nusd
    lines = [
        f"  {kind:10} {one.calls:5} calls, {usd(one.cost_nusd)}, of it unknown "
        f"{usd(one.unknown_nusd)} ({one.unknown_calls})"
        for one in summed(found.charges, ("kind",))
        for (kind,) in (one.key,)
    ]
    figures.show("\n".join(["one cap: what was charged:", *lines]))
    figures.most(
        "one cap: ledger minus bill, known outcomes",
        abs(heard - sum(by_request[entry.request_id] for entry in settled)),
        "nano$",
        0,
        f"{len(settled)} settled calls; {len(listed)} of unknown outcome, {usd(whole.unknown_nusd)}",
    )
