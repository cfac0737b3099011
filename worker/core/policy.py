"""The numbers that decide: leases, back-off, give-up limits, the closing reserve.

Rule: a decision is a value returned; carrying it out is someone else's job. Chance is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from worker.core.commands import (
    AwaitResume,
    CallTool,
    Command,
    Conclude,
    JudgeRun,
    Prepare,
    RunStudent,
    TakeTurn,
)
from worker.core.values import Purpose
from worker.errors import (
    BudgetDenied,
    DiagnosisError,
    Misconfigured,
    NotYet,
    RateLimited,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.core.values import Limits, SessionSpec

__all__ = [
    "GiveUp",
    "Patience",
    "TryAgain",
    "after_fault",
    "closing_hold_ms",
    "is_ours",
    "patience_for",
    "pauses",
]

#: How long a claim lives without a beat. A dead worker's step is free again after this long; a live
#: worker that stalls longer loses its step. Four beats fit in.
LEASE_MS = 4_000
#: How often leases are renewed.
BEAT_MS = 1_000
#: How long a direct announcement has before the sweep repeats it, and the longest such wait.
GRACE_MS = 2_000
LONGEST_GRACE_MS = 60_000
#: How often every worker looks for overdue steps; half of it is jitter.
SWEEP_MS = 400
#: A step whose worker died this often under it is given up: it is the step that kills.
POISON_DEATHS = 3
#: How long `conclude` waits for a step that was told to stop.
CONCLUDE_WAIT_MS = 300
#: The closing call's hold outlives the time that a session has by this much, for queues and retries.
HOLD_GRACE_MS = 1_800_000
#: How often a worker looks whether sessions that wait for money can go on.
WAKE_MS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often and how long a kind of step is tried when what it calls fails."""

    #: Tries after the first one.
    retries: int
    base_ms: int
    longest_ms: int


#: Teacher and judge calls wait out a provider's bad minutes: 8 tries over 1.5 to 3 minutes.
_PAID = Patience(retries=8, base_ms=1_000, longest_ms=60_000)
#: A student's server that fails five times in 4 to 8 seconds is recorded as a fault.
_STUDENT = Patience(retries=4, base_ms=500, longest_ms=8_000)
#: Local work and S3: an outage is waited out; only the session's own deadline ends it.
_OURS = Patience(retries=1_000_000, base_ms=500, longest_ms=15_000)
#: Something of ours that ends by itself, mostly within a second.
_SOON = Patience(retries=1_000_000, base_ms=200, longest_ms=2_000)
#: Somebody else's rate or room: the limits know when it is the step's turn, and spread the waits.
_TURN = Patience(retries=1_000_000, base_ms=1, longest_ms=1)
#: An exception that nobody expected.
_BUG = Patience(retries=2, base_ms=500, longest_ms=2_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class TryAgain:
    """Give the step back; it is due again after `delay_ms`."""

    delay_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Record the failure as the step's outcome."""


def patience_for(command: Command, fault: Exception) -> Patience:
    """Return how long to keep trying this kind of step after this fault.

    An outage of our own servers is waited out whatever the step; a bug is tried a few times, since
    what looks like one is now and then the machine's.
    """
    if isinstance(fault, NotYet):
        return _SOON
    if isinstance(fault, RateLimited):
        return _TURN
    if is_ours(fault):
        return _OURS
    if not isinstance(fault, DiagnosisError):
        return _BUG
    match command:
        case TakeTurn() | JudgeRun() | CallTool():
            return _PAID
        case RunStudent():
            return _STUDENT
        case Prepare() | AwaitResume() | Conclude():
            return _OURS
    assert_never(command)


def is_ours(fault: Exception) -> bool:
    """Whether a server or a rule of ours kept the step from working: it is waited out.

    So is a step that was sent away before it began, since its call had to wait for its turn.
    """
    return isinstance(fault, (NotYet, RateLimited, Unavailable, Misconfigured))


def pauses(spec: SessionSpec, command: Command, denied: BudgetDenied) -> bool:
    """Whether a session stands still where money said no, instead of going on without the call.

    Not for what no money can mend (an account that is closed or missing), and not for the closing
    call and the extraction: theirs was held from the start, and what is left is to be said.
    """
    closes = isinstance(command, TakeTurn) and command.purpose is not Purpose.EXPLORE
    mendable = denied.why in {"cap", "frozen", "killed"}
    return spec.when_money_lacks == "pause" and mendable and not closes


def closing_hold_ms(limits: Limits, *, paused: bool = False) -> int:
    """Return for how long the closing call's money is held; longer for a session that stands still."""
    longest_ms = limits.max_duration_ms + HOLD_GRACE_MS
    return longest_ms + limits.max_pause_ms if paused else longest_ms


def after_fault(
    patience: Patience,
    *,
    retries: int,
    retryable: bool,
    retry_after_ms: int | None,
    chance: float,
) -> TryAgain | GiveUp:
    """Return what to do after a failed try.

    Args:
        patience: Of the step's kind.
        retries: How often the step was given back before.
        retryable: Whether the same request may succeed later.
        retry_after_ms: What the server asked for; it is never undercut, None where it did not say.
        chance: 0..1; full jitter over the upper half, so that a fleet does not come back at once.
    """
    if not retryable or retries >= patience.retries:
        return GiveUp()
    ceiling_ms = min(patience.base_ms * 2 ** min(retries, 20), patience.longest_ms)
    delay_ms = int(ceiling_ms * (0.5 + chance / 2))
    return TryAgain(delay_ms=max(delay_ms, retry_after_ms or 0))


#: Field -> the environment's word, for messages about limits.
LIMIT_WORDS: Mapping[str, str] = {
    "turns": "the limit of teacher turns",
    "tool_calls": "the limit of tool calls",
    "budget": "the budget",
    "time": "the time limit",
    "context": "the teacher's context window",
    "cancelled": "a cancel request",
}
