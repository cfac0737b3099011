"""The real thing: process groups of real workers, and Valkey, killed under load.

Rule: what must hold is read from the stores and from the provider's own bill, never from a worker.
"""

from __future__ import annotations

import hashlib
import json
import random
import statistics
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.real import HELD_QUERY, RealFleet, real_fleet, until
from worker.core import keys
from worker.ports import EntryState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.figures import Figures
    from worker.ports import Entry, Record, StepRow

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout("900")]

SESSIONS = 40
WORKERS = 4
KILL_EVERY_S = 3.0
KILLING_S = 40.0
#: How long Valkey stays away in the middle of it.
VALKEY_AWAY_S = 1.5
#: Two busy cores, and restarts of workers, take their time; nothing is asked of speed here.
QUIET_S = 400.0

KILLS = 10
RESTART_MEDIAN_S, RESTART_WORST_S = 5.0, 8.0

_TASKS = tuple(f"What is {number} + {number + 1}?" for number in range(12))


# ---------------------------------------------------------------------------------- random kills


@dataclass
class Storm:
    """What was done to a fleet."""

    kills: int = 0
    #: Requests that had to be enqueued once more: their message went down with a worker.
    asked_again: set[str] = field(default_factory=set[str])


@pytest.fixture(scope="module")
def stormy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealFleet, Storm]]:
    """A fleet that has been through it, with all sessions ended and nothing of it left running."""
    with real_fleet(
        tmp_path_factory.mktemp("storm"),
        workers=WORKERS,
        tasks=_TASKS,
        teacher_options=["--first-ms", "400"],
    ) as real:
        storm = Storm()
        _rage(real, storm)
        real.wait_ready()
        _wait_for_all(real, storm)
        until("an empty due set", lambda: not real.system.journal.overdue(), seconds=60)
        yield real, storm


def _names() -> list[str]:
    return [f"storm-{number}" for number in range(SESSIONS)]


def _rage(real: RealFleet, storm: Storm) -> None:
    """Kill a worker every few seconds, start another one; kill Valkey once in between.

    Half of the sessions are there at once, the others come in the middle of it.
    """
    draw = random.Random(11)  # noqa: S311 - chance of a test
    tick, began_s = threading.Event(), time.monotonic()
    valkey_dies_s = began_s + KILLING_S / 2
    waiting = _names()
    while time.monotonic() < began_s + KILLING_S:
        late = len(waiting) <= SESSIONS // 2
        for _ in range(min(len(waiting), 2 if late else SESSIONS // 2)):
            real.enqueue(waiting.pop())
        tick.wait(KILL_EVERY_S)
        real.kill(draw.choice(real.workers))
        storm.kills += 1
        real.begin_worker()
        if valkey_dies_s and time.monotonic() > valkey_dies_s:
            valkey_dies_s = 0
            real.stack.valkey.kill()
            tick.wait(VALKEY_AWAY_S)
            real.stack.valkey.start()


def _wait_for_all(real: RealFleet, storm: Storm) -> None:
    """Wait for every session's end; what has no session is asked for again, as a scheduler would."""
    tick, end_s = threading.Event(), time.monotonic() + QUIET_S
    ask_s = time.monotonic() + 15
    while left := [name for name in _names() if not real.ended(name)]:
        assert time.monotonic() < end_s, f"{len(left)} sessions have not ended: {left[:5]}"
        if time.monotonic() > ask_s:
            ask_s = time.monotonic() + 30
            lost = [name for name in left if not real.opened(name)]
            storm.asked_again.update(lost)
            for name in lost:
                real.enqueue(name)
        tick.wait(0.5)


def test_every_session_ended_once_with_all_that_its_manifest_lists(
    stormy: tuple[RealFleet, Storm], figures: Figures
) -> None:
    real, storm = stormy
    outcomes: Counter[str] = Counter()

    for name in _names():
        records = real.system.journal.load(name).records
        assert [record.key for record in records].count("conclude") == 1, name
        assert records[-1].key == "conclude"
        session = real.system.runner.session(name)
        assert session is not None
        assert session.ended is not None
        assert session.ended.reason
        manifest = _checked_manifest(real, name)
        assert session.ended.manifest_sha256 == hashlib.sha256(manifest).hexdigest()
        result = real.client.result(name, timeout_s=10)
        assert result is not None
        assert result.manifest_sha256 == session.ended.manifest_sha256
        outcomes[session.ended.outcome] += 1

    how = (
        f"{WORKERS} workers x 8 slots, {storm.kills} process groups killed, one every "
        f"{KILL_EVERY_S:g} s, Valkey killed once; tests/chaos/test_real_kills.py"
    )
    figures.least("random kills: sessions ended once", sum(outcomes.values()), "", SESSIONS, how)
    figures.most(
        "random kills: requests asked for again", len(storm.asked_again), "", SESSIONS, how
    )
    figures.show(f"random kills: {storm.kills} kills, sessions by outcome: {dict(outcomes)}")
    assert storm.kills >= 10


def _checked_manifest(real: RealFleet, name: str) -> bytes:
    place = {"tenant": "default", "campaign": "default", "session_id": name}
    manifest = real.system.artifacts.get(keys.manifest(**place))
    assert manifest is not None, f"{name} has no manifest"
    for file in json.loads(manifest)["files"].values():
        body = real.system.artifacts.get(file["key"])
        assert body is not None, file
        assert hashlib.sha256(body).hexdigest() == file["sha256"], file
    return manifest


def test_no_committed_step_ran_again(stormy: tuple[RealFleet, Storm], figures: Figures) -> None:
    real, _ = stormy
    again: list[str] = []
    taken_over = 0

    for name in _names():
        records = {record.key: record for record in real.system.journal.load(name).records}
        assert len(records) == real.system.journal.load(name).length, "a key stands twice"
        taken_over += sum(record.attempt > 1 for record in records.values())
        again += [
            f"{name} {entry.step_id}"
            for entry in real.system.ledger.entries(name)
            if _paid_after_its_commit(entry, records)
        ]

    figures.most(
        "random kills: finished steps paid again",
        len(again),
        "steps",
        0,
        f"{taken_over} taken over",
    )
    assert not again
    assert taken_over > 0, "nothing was taken over: the kills hit nobody"


def _paid_after_its_commit(entry: Entry, records: dict[str, Record]) -> bool:
    done = records.get(entry.step_id)
    return done is not None and entry.state is not EntryState.VOID and entry.created_ms > done.at_ms


def test_the_ledger_covers_the_bill_and_says_what_is_unknown(
    stormy: tuple[RealFleet, Storm], figures: Figures
) -> None:
    real, _ = stormy
    bill = real.bill()
    entries = [entry for name in _names() for entry in real.system.ledger.entries(name)]
    by_request = {line["request_id"]: line["amount_nano_usd"] for line in bill}
    settled = [entry for entry in entries if entry.state is EntryState.SETTLED]
    unknown = [entry for entry in entries if entry.state is EntryState.EXPIRED]
    billed = sum(by_request.values())
    fleet = real.system.ledger.account("fleet")
    assert fleet is not None

    wrong = [e.reservation_id for e in settled if by_request.get(e.request_id) != e.actual_nusd]
    known = {entry.request_id for entry in settled}
    nobody_heard = sum(amount for request, amount in by_request.items() if request not in known)

    assert not wrong, "a call is settled at another price than it was billed"
    assert nobody_heard <= sum(entry.actual_nusd for entry in unknown)
    assert billed <= fleet.posted_nusd <= fleet.cap_nusd
    figures.least(
        "random kills: ledger above the bill",
        (fleet.posted_nusd - billed) / 1e9,
        "US dollars",
        0,
        f"{len(unknown)} calls of unknown outcome of {len(bill)}, charged at their bounds",
    )
    figures.show(_unknown_table(unknown))


def _unknown_table(unknown: list[Entry]) -> str:
    kinds: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for entry in unknown:
        kinds[entry.kind, entry.why].append(entry.actual_nusd)
    lines = [
        f"  {kind:10} {why:40} {len(amounts):4} calls, ${sum(amounts) / 1e9:.4f}"
        for (kind, why), amounts in sorted(kinds.items())
    ]
    return "\n".join(["calls of unknown outcome:", *(lines or ["  none"])])


def test_slots_and_leases_are_back_to_zero(
    stormy: tuple[RealFleet, Storm], figures: Figures
) -> None:
    real, _ = stormy
    client: Any = real.system.client
    prefix = real.system.settings.key_prefix

    rows = list(client.scan_iter(match=f"{{{prefix}}}:t:*"))
    open_sets = list(client.scan_iter(match=f"{{{prefix}}}:o:*"))
    held = [account for account in real.system.ledger.accounts() if account.held_nusd]
    open_reservations = client.zcard(f"{{{prefix}}}:bud:open")

    left = len(rows) + len(open_sets) + len(held) + open_reservations
    figures.most("random kills: leases, slots and holds left", left, "", 0, "keys in Valkey")
    assert (rows, open_sets, held, open_reservations) == ([], [], [], 0)


# ---------------------------------------------------------------------------------- one kill


def test_a_step_starts_again_within_seconds_of_its_workers_death(
    tmp_path: Path, figures: Figures
) -> None:
    tasks = (HELD_QUERY, *_TASKS[:3])
    options = ["--repeats", "1"]
    with real_fleet(tmp_path, workers=2, tasks=tasks, teacher_options=options) as real:
        waits_s = [_restart_s(real, f"held-{number}") for number in range(KILLS)]

    shown = ", ".join(f"{wait:.2f}" for wait in sorted(waits_s))
    how = f"SIGKILL of the process group in mid-step, one worker standing by: {shown}"
    median_s, worst_s = statistics.median(waits_s), max(waits_s)
    figures.most("kill to restart, median of 10", round(median_s, 2), "s", RESTART_MEDIAN_S, how)
    figures.most("kill to restart, worst", round(worst_s, 2), "s", RESTART_WORST_S, how)
    assert (median_s <= RESTART_MEDIAN_S, worst_s <= RESTART_WORST_S) == (True, True), shown


def _restart_s(real: RealFleet, session_id: str) -> float:
    """Kill the worker of a run that is under way; return how long it took to begin again."""
    real.student.hold()
    real.enqueue(session_id, limits={"max_turns": 4})
    until("the run", lambda: real.student.held, seconds=60, every_s=0.01)
    (step,) = until("only the held run left", lambda: _the_only_run(real, session_id), seconds=30)
    killed_s = real.kill(real.worker_of(step.owner))
    until("its restart", lambda: len(real.student.held) > 1, seconds=60, every_s=0.01)
    wait_s = real.student.held[1] - killed_s
    real.student.go_on()
    real.begin_worker()
    until(f"the end of {session_id}", lambda: real.ended(session_id), seconds=120)
    real.wait_ready()
    return wait_s


def _the_only_run(real: RealFleet, session_id: str) -> list[StepRow]:
    """Return the run that is under way, once all others are done; until then, nothing."""
    runs = [s for s in real.system.journal.steps(session_id) if s.step_id.startswith("run/")]
    return runs if len(runs) == 1 and runs[0].state == "leased" else []
