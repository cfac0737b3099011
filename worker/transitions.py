"""The ledger's transitions, put away in the object store before they leave Redis.

Rule: nothing is dropped that is not archived, byte for byte. What is to be archived next is cut off
in Redis, so that any number of workers write the same part under the same name, once; each of the
three moves (cut, write, forget) may be done twice and by somebody else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import structlog

from worker.core import keys
from worker.errors import Misconfigured
from worker.ports import Transition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from worker.ports import Account, Artifacts, TransitionLog

__all__ = ["AGE_MS", "MANY", "PART", "LedgerWatch", "archive", "lines", "read_part"]

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

#: So many transitions make a part: some 250 KB, and 2 ms of the server to cut.
PART = 1_000
#: With fewer, the first of them waits this long.
AGE_MS = 60_000
#: More than so many waiting ones are an alarm: at 500,000 the ledger holds nothing new.
MANY = 100_000

_JSON_LINES = "application/x-ndjson"


def archive(
    log: TransitionLog,
    artifacts: Artifacts,
    *,
    most: int = PART,
    age_ms: int = AGE_MS,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Put away every part that is ready; return how many transitions this call wrote.

    Raises:
        Unavailable: Redis or the object store did not answer; nothing is lost, say it again.
        Misconfigured: Another part lies under the name of one; nothing was dropped.
    """
    written = 0
    while not stopped() and (part := log.next_part(most=most, age_ms=age_ms)) is not None:
        written += _put_away(log, artifacts, *part)
        log.forget_part(part[1])
    return written


class LedgerWatch:
    """Notices what somebody should be woken for, and says it in the log once, not every round."""

    def __init__(self) -> None:
        self._frozen: frozenset[str] = frozenset()
        self._many = False

    def look(self, log: TransitionLog, accounts: Iterable[Account]) -> dict[str, int]:
        """Return how the ledger stands, as `Metrics.ledger` takes it.

        Raises:
            Unavailable: Redis did not answer.
        """
        known = tuple(accounts)
        unarchived = log.unarchived()
        frozen = frozenset(account.scope for account in known if account.frozen)
        breach_nusd = max((account.breach_nusd for account in known), default=0)
        if frozen - self._frozen:
            _log.error("accounts frozen", scopes=sorted(frozen), breach_nusd=breach_nusd)
        if unarchived > MANY and not self._many:
            _log.error("the ledger's archive falls behind", unarchived=unarchived)
        self._frozen, self._many = frozen, unarchived > MANY
        return {"unarchived": unarchived, "frozen": len(frozen), "breach_nusd": breach_nusd}


def lines(transitions: Iterable[Transition]) -> bytes:
    """Return transitions as JSON lines: each one's id, then its fields as its script wrote them."""
    rows = ({"transition": one.transition_id, **one.fields} for one in transitions)
    return b"".join(
        json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for row in rows
    )


def read_part(raw: bytes) -> tuple[Transition, ...]:
    """Return the transitions of an archived part."""
    rows: Iterable[dict[str, str]] = (json.loads(line) for line in raw.splitlines())
    return tuple(Transition(transition_id=row.pop("transition"), fields=row) for row in rows)


def _put_away(log: TransitionLog, artifacts: Artifacts, first: str, last: str) -> int:
    transitions = log.transitions(first, last)
    if not transitions:
        return 0  # Another worker has written and dropped them since.
    key, body = keys.transitions(first, last), lines(transitions)
    if artifacts.put_new(key, body, content_type=_JSON_LINES):
        return len(transitions)
    if artifacts.get(key) != body:
        raise Misconfigured(
            f"{key} holds other transitions than Redis does: two fleets write to one bucket, or "
            "Redis was restored from an old copy. Nothing is dropped; move the object away",
            key=key,
        )
    return 0
