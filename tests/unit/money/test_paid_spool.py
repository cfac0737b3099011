"""A reply that was heard on this machine is not bought again, and its money is exact."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.unit.money.test_paid import (
    COST,
    MAX_TOKENS,
    PROMPT_BOUND,
    REPLY,
    REQUEST,
    SCOPES,
    OneCallTeacher,
    SilentLedger,
    fault,
)
from worker.errors import TeacherFault, Unavailable
from worker.paid import PaidReply, PaidTeacher
from worker.ports import EntryState
from worker.spool import Spool
from worker.spool.memory import MemoryFolder
from worker.testing import ManualClock
from worker.wire.spool import decode_spooled

if TYPE_CHECKING:
    from worker.core.teaching import TeacherRequest

PAID = PaidReply(reply=REPLY, cost_nusd=COST, max_tokens=MAX_TOKENS)


class Machine:
    """A ledger, a disk, and one process after the other."""

    def __init__(self) -> None:
        self.ledger = SilentLedger()
        self.folder = MemoryFolder()
        self.attempts = 0

    def call(
        self, teacher: OneCallTeacher, request: TeacherRequest = REQUEST, *, patience_ms: int = 0
    ) -> PaidReply:
        """Make the call of the step's next attempt, in a new process."""
        self.attempts += 1
        spool = Spool(
            self.folder,
            self.ledger,
            ManualClock(),
            fleet="",
            max_bytes=100_000,
            max_age_ms=1_000,
        )
        return PaidTeacher(teacher, self.ledger, patience_ms=patience_ms, spool=spool).call(
            request,
            reservation_id=f"s/turn/1/{self.attempts}.1",
            scopes=SCOPES,
            kind="explore",
            step_id="turn/1",
            prompt_bound_tokens=PROMPT_BOUND,
            stopped=lambda: False,
        )

    def states(self) -> list[tuple[EntryState, int]]:
        return [(entry.state, entry.actual_nusd) for entry in self.ledger.entries("s")]


@pytest.fixture
def machine() -> Machine:
    return Machine()


def never() -> OneCallTeacher:
    return OneCallTeacher(AssertionError("it was heard before"))


def test_a_reply_is_on_the_disk_before_it_is_paid_for(machine: Machine) -> None:
    machine.ledger.silent["settle"] = 1

    with pytest.raises(Unavailable):
        machine.call(OneCallTeacher())

    ((name, _),) = machine.folder.list().items()
    spooled = decode_spooled(machine.folder.read(name) or b"")
    assert (spooled.session_id, spooled.step_id) == ("s", "turn/1")
    assert (spooled.reservation_id, spooled.cost_nusd) == ("s/turn/1/1.1", COST)
    assert spooled.reply == REPLY
    assert machine.states() == [(EntryState.SENT, 0)]


@pytest.mark.parametrize("is_expired", [False, True])
def test_whoever_takes_over_pays_for_it_exactly_and_asks_nobody(
    machine: Machine, *, is_expired: bool
) -> None:
    machine.ledger.silent["settle"] = 1
    with pytest.raises(Unavailable):
        machine.call(OneCallTeacher())
    if is_expired:
        machine.ledger.charge_unknown("s/turn/1/1.1", "deadline")

    assert machine.call(never()) == PAID
    assert machine.call(never()) == PAID

    assert machine.states() == [(EntryState.SETTLED, COST)]
    assert machine.ledger.session.posted_nusd == COST


def test_it_is_adopted_where_there_is_no_money_for_another_call(machine: Machine) -> None:
    machine.call(OneCallTeacher())
    machine.ledger.kill(on=True)
    machine.ledger.set_cap("session:s", 0)

    assert machine.call(never()) == PAID


def test_the_output_limit_is_the_one_that_was_sent(machine: Machine) -> None:
    machine.call(OneCallTeacher(), replace(REQUEST, max_tokens=5_000))

    assert machine.call(never()).max_tokens == 5_000


def test_other_words_are_bought(machine: Machine) -> None:
    machine.call(OneCallTeacher())

    asked = OneCallTeacher()
    machine.call(asked, replace(REQUEST, system=[]))

    assert len(asked.requests) == 1
    assert [state for state, _ in machine.states()] == [EntryState.SETTLED] * 2


def test_what_was_not_whole_is_bought_again(machine: Machine) -> None:
    with pytest.raises(TeacherFault):
        machine.call(OneCallTeacher(fault("unknown")))
    with pytest.raises(TeacherFault):
        machine.call(OneCallTeacher(replace(REPLY, stop_reason="")))

    assert dict(machine.folder.list()) == {}
    assert machine.call(OneCallTeacher()) == PAID


def test_a_reply_whose_ledger_was_lost_is_dropped_and_bought_under_its_own_name(
    machine: Machine,
) -> None:
    machine.call(OneCallTeacher())
    machine.ledger, machine.attempts = SilentLedger(), 0

    with capture_logs() as logs:
        assert machine.call(OneCallTeacher(replace(REPLY, message_id="msg_2"))).cost_nusd == COST

    assert [log["event"] for log in logs] == ["a spooled reply is dropped"]
    assert [entry.message_id for entry in machine.ledger.entries("s")] == ["msg_2"]
    assert len(machine.folder.list()) == 1


def test_a_ledger_that_is_away_keeps_the_reply_for_the_next_attempt(machine: Machine) -> None:
    machine.ledger.silent["settle"] = 2
    for teacher in (OneCallTeacher(), never()):
        with pytest.raises(Unavailable):
            machine.call(teacher)

    assert machine.call(never()) == PAID


def test_a_breach_is_told_by_whoever_adopts_it_too(machine: Machine) -> None:
    dear = replace(REPLY, usage=replace(REPLY.usage, output_tokens=1_000_000))
    assert machine.call(OneCallTeacher(dear)).breach

    assert machine.call(never()).breach
