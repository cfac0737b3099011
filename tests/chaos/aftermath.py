"""What must hold of a real fleet that has been struck and has come to rest.

Rule: it is read from the stores and from the provider's own bill, never from a worker. A function
says what it saw; the test says what may be.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.core import keys
from worker.ports import EntryState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.chaos.real import RealFleet
    from worker.ports import Entry, Record

__all__ = [
    "Books",
    "balanced",
    "committed_twice",
    "ended_once",
    "left_over",
    "paid_again",
    "taken_over",
    "wait_for_all",
]

#: Key kinds that a session leaves on purpose, after `{prefix}:`; all else is under way or a leak.
_REMAINS = ("s:", "j:", "k:", "a:", "sessions", "dead", "bud:a:", "bud:r:", "bud:s:")
_REMAINS_TOO = ("bud:names", "bud:meta", "bud:j")
#: When what was enqueued and has no session is asked for again: first, and from then on.
_ASK_S, _ASK_AGAIN_S = 15.0, 30.0


def wait_for_all(real: RealFleet, names: Sequence[str], *, quiet_s: float) -> set[str]:
    """Wait for every session's end and an empty `due`; return what had to be enqueued again.

    A request is a message, and its sender asks again where nothing came of it, as schedulers do.

    Raises:
        AssertionError: Some have not ended after `quiet_s`.
    """
    tick, end_s = threading.Event(), time.monotonic() + quiet_s
    ask_s = time.monotonic() + _ASK_S
    asked: set[str] = set()
    left = list(names)
    while left := [name for name in left if not real.ended(name)]:
        assert time.monotonic() < end_s, f"{len(left)} sessions have not ended: {left[:5]}"
        if time.monotonic() > ask_s:
            ask_s = time.monotonic() + _ASK_AGAIN_S
            lost = [name for name in left if not real.opened(name)]
            asked.update(lost)
            for name in lost:
                real.enqueue(name)
        tick.wait(0.5)
    while due := real.system.journal.overdue():
        assert time.monotonic() < end_s, f"still due: {due[:5]}"
        tick.wait(0.1)
    return asked


def ended_once(real: RealFleet, names: Sequence[str]) -> Counter[str]:
    """Return how many sessions ended with each outcome.

    Raises:
        AssertionError: One has no end, two, no reason, or lacks an artifact or its result.
    """
    outcomes: Counter[str] = Counter()
    for name in names:
        records = real.system.journal.load(name).records
        assert [record.key for record in records].count("conclude") == 1, name
        assert records[-1].key == "conclude", name
        session = real.system.runner.session(name)
        assert session is not None
        assert session.ended is not None
        assert session.ended.reason, name
        sha256 = hashlib.sha256(_checked_manifest(real, name)).hexdigest()
        assert session.ended.manifest_sha256 == sha256, name
        result = real.client.result(name, timeout_s=10)
        assert result is not None, name
        assert result.manifest_sha256 == sha256, name
        outcomes[session.ended.outcome] += 1
    return outcomes


def _checked_manifest(real: RealFleet, name: str) -> bytes:
    place = {"tenant": "default", "campaign": "default", "session_id": name}
    manifest = real.system.artifacts.get(keys.manifest(**place))
    assert manifest is not None, f"{name} has no manifest"
    for file in json.loads(manifest)["files"].values():
        body = real.system.artifacts.get(file["key"])
        assert body is not None, file
        assert hashlib.sha256(body).hexdigest() == file["sha256"], file
    return manifest


# ----------------------------------------------------------------------------------------- steps


def _records(real: RealFleet, name: str) -> dict[str, Record]:
    return {record.key: record for record in real.system.journal.load(name).records}


def taken_over(real: RealFleet, names: Iterable[str]) -> int:
    """Return how many steps were committed by another attempt than their first."""
    return sum(record.attempt > 1 for name in names for record in _records(real, name).values())


def committed_twice(real: RealFleet, names: Iterable[str]) -> list[str]:
    """Return the sessions with a key that stands twice."""
    return [n for n in names if len(_records(real, n)) != real.system.journal.load(n).length]


def paid_again(real: RealFleet, names: Iterable[str]) -> list[str]:
    """Return the steps for which a call was paid after they had been committed."""
    return [
        f"{name} {entry.step_id}"
        for name in names
        for records in [_records(real, name)]
        for entry in real.system.ledger.entries(name)
        if _paid_after_its_commit(entry, records)
    ]


def _paid_after_its_commit(entry: Entry, records: dict[str, Record]) -> bool:
    done = records.get(entry.step_id)
    return done is not None and entry.state is not EntryState.VOID and entry.created_ms > done.at_ms


# ----------------------------------------------------------------------------------------- money


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The provider's bill and the ledger, side by side."""

    calls: int
    billed_nusd: int
    posted_nusd: int
    unknown: tuple[Entry, ...]

    @property
    def table(self) -> str:
        """The calls of unknown outcome, by kind and reason, for people."""
        kinds: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for entry in self.unknown:
            kinds[entry.kind, entry.why].append(entry.actual_nusd)
        lines = [
            f"  {kind:10} {why:40} {len(amounts):4} calls, ${sum(amounts) / 1e9:.4f}"
            for (kind, why), amounts in sorted(kinds.items())
        ]
        return "\n".join(["calls of unknown outcome:", *(lines or ["  none"])])


def balanced(real: RealFleet, names: Iterable[str]) -> Books:
    """Return the books of the whole fleet, whose sessions are `names`.

    Raises:
        AssertionError: A call is settled at another price than it was billed, or what the provider
            billed is more than what is charged.
    """
    bill = real.bill()
    entries = [entry for name in names for entry in real.system.ledger.entries(name)]
    by_request = {line["request_id"]: line["amount_nano_usd"] for line in bill}
    settled = [entry for entry in entries if entry.state is EntryState.SETTLED]
    unknown = tuple(entry for entry in entries if entry.state is EntryState.EXPIRED)
    fleet = real.system.ledger.account("fleet")
    assert fleet is not None

    wrong = [e.reservation_id for e in settled if by_request.get(e.request_id) != e.actual_nusd]
    assert not wrong, f"settled at another price than billed: {wrong[:5]}"
    known = {entry.request_id for entry in settled}
    unheard = sum(amount for request, amount in by_request.items() if request not in known)
    assert unheard <= sum(entry.actual_nusd for entry in unknown)
    billed = sum(by_request.values())
    assert billed <= fleet.posted_nusd <= fleet.cap_nusd
    return Books(
        calls=len(bill), billed_nusd=billed, posted_nusd=fleet.posted_nusd, unknown=unknown
    )


# ------------------------------------------------------------------------------------- left over


def left_over(real: RealFleet) -> list[str]:
    """Return what still stands in Redis that no session at rest may leave: leases, slots, holds."""
    client: Any = real.system.client
    prefix = f"{{{real.system.settings.key_prefix}}}:"
    size_of = {"zset": client.zcard, "set": client.scard, "list": client.llen, "hash": client.hlen}
    left = [f"{a.scope} holds {a.held_nusd}" for a in real.system.ledger.accounts() if a.held_nusd]
    for key in client.scan_iter(match=f"{prefix}*", count=1_000):
        name = key.removeprefix(prefix)
        if name.startswith(_REMAINS) or name in _REMAINS_TOO:
            continue
        kind: str = client.type(key)
        if kind in size_of:
            left.append(f"{name}: {size_of[kind](key)}")
    return left
