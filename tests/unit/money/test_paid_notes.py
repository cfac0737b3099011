"""A paid request is noted outside of the ledger's server before it goes out, or does not go out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.unit.money.test_paid import (
    BOUND,
    PROMPT_BOUND,
    REQUEST,
    SCOPES,
    OneCallTeacher,
    SilentLedger,
)
from worker.errors import Misconfigured, Unavailable
from worker.paid import PaidTeacher
from worker.ports import EntryState

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.ports import Entry

KEPT_MS = 60_000


class Clock:
    """This process's clock, in the test's hand."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def call(ledger: SilentLedger, note: Callable[[Entry], None], clock: Clock | None = None) -> int:
    """Make a call; return how many requests went out."""
    sent: list[str] = []
    teacher = OneCallTeacher(meanwhile=lambda: sent.append("sent"))
    paid = PaidTeacher(
        teacher, ledger, patience_ms=0, kept_ms=KEPT_MS, now_s=clock or Clock(), note=note
    )
    paid.call(
        REQUEST,
        reservation_id="s/turn/1/1.1",
        scopes=SCOPES,
        kind="explore",
        step_id="turn/1",
        prompt_bound_tokens=PROMPT_BOUND,
        stopped=lambda: False,
    )
    return len(sent)


def test_the_bound_is_noted_once_it_is_held_and_before_anything_is_sent() -> None:
    ledger = SilentLedger()
    noted: list[tuple[Entry, EntryState]] = []

    assert call(ledger, lambda entry: noted.append((entry, ledger.only_entry.state))) == 1

    ((entry, state),) = noted
    assert state is EntryState.HELD
    settled = ledger.only_entry
    assert entry == replace(
        settled,
        state=EntryState.SENT,
        amount_nusd=BOUND,
        actual_nusd=0,
        created_ms=0,
        usage=None,
        request_id="",
        message_id="",
    )


@pytest.mark.parametrize("error", [Unavailable("the store is away"), Misconfigured("no bucket")])
def test_what_cannot_be_noted_is_not_sent_and_not_held(error: Exception) -> None:
    ledger = SilentLedger()

    def away(_: Entry) -> None:
        raise error

    with pytest.raises(type(error)):
        call(ledger, away)

    assert ledger.only_entry.state is EntryState.VOID
    assert ledger.asked["sent"] == 0


def test_a_hold_is_kept_while_the_notes_are_slow() -> None:
    ledger, clock = SilentLedger(), Clock()

    def slow(_: Entry) -> None:
        clock.now_s += KEPT_MS / 1000 / 2

    assert call(ledger, slow, clock) == 1
    assert ledger.asked["extend"] == 1


def test_a_call_whose_hold_ended_while_the_notes_were_slow_is_not_sent() -> None:
    ledger, clock = SilentLedger(), Clock()

    def too_slow(entry: Entry) -> None:
        clock.now_s += KEPT_MS / 1000 * 2
        ledger.void(entry.reservation_id, "never sent")

    with pytest.raises(Unavailable, match="hold ended meanwhile"):
        call(ledger, too_slow, clock)

    assert ledger.asked["sent"] == 0
