"""Calls at half the price: one request in a batch of the provider, which may take up to a day.

Rule: what is next for such a call follows from its newest reservation alone, so any worker goes on
from where another one died, and no call is bought twice. A batch holds one request: more of them in
one are no cheaper, and would be asked about together.

| the newest reservation           | batch known | next                                              |
|----------------------------------|-------------|---------------------------------------------------|
| none                             |             | buy                                               |
| held                             |             | drop it: it was never sent; then buy another      |
| void                             | no          | buy another: the provider never had it            |
| void                             | yes         | an ordinary call: the batch brought no answer     |
| sent, charged unknown            | no          | find it: it may have been sent                    |
| sent, charged unknown, settled   | yes         | ask about it                                      |
| refunded                         |             | an ordinary call                                  |

An answer is at the provider for 29 days, so a settled call whose step was not committed is only read
again.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Literal

__all__ = [
    "ASKED_AT_MOST_MS",
    "CLOSE_PATIENCE_MS",
    "FIND_MS",
    "HELD_MS",
    "Answered",
    "Next",
    "custom_id",
    "fate_of",
    "is_batched",
    "next_of",
    "poll_ms",
]

_HOUR_MS = 3_600_000
#: A batch ends within 24 hours. Its money is held for longer, and longer still it is asked about.
HELD_MS = 25 * _HOUR_MS
ASKED_AT_MOST_MS = 26 * _HOUR_MS
#: How long after its reservation a batch may yet appear among the provider's: the longest a request
#: to make one takes, and clocks that are apart.
FIND_MS = 600_000
#: How long the end of a session waits for batches that it has cancelled.
CLOSE_PATIENCE_MS = 600_000
#: The longest pause between two questions, in first pauses.
_LONGEST = 10
#: A batch is asked about again after a quarter of the time that it has taken.
_PART = 4

#: Kinds of calls that are made in batches end so.
_KIND = "_batch"


class Next(StrEnum):
    """What to do for a call."""

    BUY = "buy"
    DROP = "drop"
    FIND = "find"
    ASK = "ask"
    #: Make an ordinary call.
    ALONE = "alone"


class Answered(StrEnum):
    """How a request in a batch ended, as the provider says it."""

    SUCCEEDED = "succeeded"
    ERRORED = "errored"
    CANCELED = "canceled"
    EXPIRED = "expired"


def next_of(state: str | None, *, batch_id: str) -> Next:
    """Return what is next.

    Args:
        state: The `EntryState` of the call's newest reservation; None where it has none.
        batch_id: The provider's id of its batch; empty where that is not known.
    """
    match state:
        case None:
            return Next.BUY
        case "held":
            return Next.DROP
        case "void":
            return Next.ALONE if batch_id else Next.BUY
        case "refunded":
            return Next.ALONE
        case _:
            return Next.ASK if batch_id else Next.FIND


def fate_of(answered: Answered) -> Literal["settle", "void"]:
    """Return what the ledger is told: only what succeeded is billed."""
    return "settle" if answered is Answered.SUCCEEDED else "void"


def poll_ms(waited_ms: int, *, first_ms: int) -> int:
    """Return how long to wait before a batch is asked about again.

    Args:
        waited_ms: How long ago it was bought.
        first_ms: The first, and shortest, pause.
    """
    return min(max(waited_ms // _PART, first_ms), _LONGEST * first_ms)


def is_batched(kind: str) -> bool:
    """Whether a reservation of this kind is of a call in a batch."""
    return kind.endswith(_KIND)


def custom_id(reservation: str) -> str:
    """Return the name of a call within its batch: what the provider takes, and no two share it."""
    return f"d-{hashlib.sha256(reservation.encode()).hexdigest()[:48]}"
