"""A session that can wait gives its step back; its end waits for no batch for long."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.unit.core.strategies import spec_with
from tests.unit.runner.desk import SESSION, Desk
from worker.batched import BatchedTeacher
from worker.core.batches import CLOSE_PATIENCE_MS, HELD_MS, Answered
from worker.core.commands import TakeTurn
from worker.core.events import BundlePrepared, SessionOpened, TeacherReplied
from worker.core.machine import fold, wanted
from worker.core.teaching import TeacherRequest
from worker.core.values import Ending, Limits, Purpose, Text, Usage
from worker.errors import InBatch, Misconfigured, NotYet
from worker.paid import PaidReply
from worker.ports import EntryState
from worker.steps.conclude import conclude
from worker.steps.context import Step
from worker.steps.turn import take_turn
from worker.testing import MemoryBatches, says

if TYPE_CHECKING:
    from worker.core.events import Event
    from worker.core.values import CallKind
    from worker.ports import Entry
    from worker.steps.context import Ports

REQUEST = TeacherRequest(model="claude-opus-4-6", max_tokens=10, system=[], messages=[])
ORDINARY = PaidReply(reply=says("at once"), cost_nusd=2, max_tokens=10)
DAY_MS = 86_400_000


class OrdinaryPayer:
    """Pays for ordinary calls."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def call(self, request: TeacherRequest, *, reservation_id: str, **more: Any) -> PaidReply:
        self.asked.append(reservation_id)
        return ORDINARY


class Session:
    """A session that can wait, a provider of batches, and one step that is tried again and again."""

    def __init__(self, *, can_wait: bool = True) -> None:
        self.desk = Desk()
        self.clock, self.ledger = self.desk.clock, self.desk.ledger
        self.spec = replace(spec_with(Limits()), batches=can_wait)
        for scope in self.spec.scopes:
            self.ledger.open_account(scope, 10**10)
        self.desk.runner.open(self.spec, {})
        self.provider = MemoryBatches(self.clock, says("later", usage=Usage(output_tokens=3)))
        self.provider.takes_ms = DAY_MS
        self.payer = OrdinaryPayer()
        self.attempt = 0

    @property
    def ports(self) -> Ports:
        batched = batched_by(self)
        return replace(
            self.desk.runner._ports,
            teachers={self.spec.judge: cast("Any", self.payer)},
            batches={self.spec.judge: batched},
        )

    def step(self, ports: Ports | None = None) -> Step:
        self.attempt += 1
        return Step(
            session=fold([SessionOpened(spec=self.spec)]),
            step_id="judge/1.0.0",
            attempt=self.attempt,
            stopped=lambda: False,
            ports=ports or self.ports,
        )

    def pay(self, batch_kind: CallKind | None = "judge_batch") -> PaidReply:
        return self.step().pay(
            REQUEST,
            kind="judge",
            account=self.spec.judge,
            prompt_bound_tokens=100,
            batch_kind=batch_kind,
        )

    @property
    def entry(self) -> Entry:
        return self.ledger.entries(SESSION)[-1]


def batched_by(session: Session) -> BatchedTeacher:
    return BatchedTeacher(session.provider, session.ledger, session.clock, first_poll_ms=30_000)


def test_the_session_waits_and_then_has_its_reply() -> None:
    session = Session()
    for _ in range(3):
        with pytest.raises(InBatch):
            session.pay()
    session.clock.advance(DAY_MS)

    paid = session.pay()

    assert paid.reply.content == says("later").content
    assert (session.entry.state, session.entry.kind) == (EntryState.SETTLED, "judge_batch")
    assert len(session.provider.made) == 1
    assert session.payer.asked == []


def test_where_no_batch_brings_an_answer_the_call_is_made_at_once() -> None:
    session = Session()
    session.provider.ends = Answered.EXPIRED
    with pytest.raises(InBatch):
        session.pay()
    session.clock.advance(DAY_MS)

    assert session.pay() is ORDINARY
    assert session.payer.asked == [f"{SESSION}/judge/1.0.0/2.1"]


def test_a_session_that_cannot_wait_and_a_call_that_need_not_use_no_batch() -> None:
    for session, kind in ((Session(can_wait=False), "judge_batch"), (Session(), None)):
        assert session.pay(cast("Any", kind)) is ORDINARY
        assert session.provider.made == {}


def test_a_teacher_that_takes_no_batches_is_called_at_once() -> None:
    session = Session()
    step = session.step(replace(session.ports, batches={}))

    paid = step.pay(
        REQUEST,
        kind="judge",
        account=session.spec.judge,
        prompt_bound_tokens=100,
        batch_kind="judge_batch",
    )

    assert paid is ORDINARY


def test_the_extraction_waits_too_and_the_turns_before_it_do_not() -> None:
    session = Session()
    spec = replace(session.spec, teacher_model="claude-opus-4-6")
    past: list[Event] = [
        SessionOpened(spec=spec),
        BundlePrepared(brief=Text(text="brief"), traces=1, tasks=1),
    ]
    ports = replace(session.ports, batches=dict.fromkeys([spec.teacher], batched_by(session)))
    ports = replace(ports, teachers={spec.teacher: cast("Any", session.payer)})
    (explore,) = wanted(fold(past))
    unread = Ending(diagnosis=Text(text="It fails at dates."), clusters=())
    past.append(
        TeacherReplied(
            turn=1,
            purpose=Purpose.EXPLORE,
            content=Text(text='[{"type": "text", "text": "It fails at dates."}]'),
            stop_reason="end_turn",
            ending=unread,
        )
    )
    (extract,) = wanted(fold(past))

    assert isinstance(explore, TakeTurn)
    assert isinstance(extract, TakeTurn)
    assert extract.purpose is Purpose.EXTRACT
    take_turn(replace(session.step(ports), session=fold(past[:2]), step_id="turn/1"), explore)
    assert session.provider.made == {}
    with pytest.raises(InBatch):
        take_turn(replace(session.step(ports), session=fold(past), step_id="extract"), extract)
    assert len(session.provider.made) == 1
    assert session.entry.kind == "extract_batch"

    concluding = replace(session.step(ports), session=fold(past))
    with pytest.raises(Exception, match="opens"):
        conclude(concluding)
    assert session.entry.state is EntryState.VOID


# ------------------------------------------------------------------------------------------ the end


def accounts_are_settled(session: Session, ports: Ports | None = None) -> None:
    """Conclude as far as the money: what comes then has no bundle here."""
    with pytest.raises((AssertionError, NotYet)) as ended:
        conclude(session.step(ports))
    if isinstance(ended.value, NotYet):
        raise ended.value


def test_the_end_cancels_what_nobody_waits_for() -> None:
    session = Session()
    with pytest.raises(InBatch):
        session.pay()

    accounts_are_settled(session)

    assert session.entry.state is EntryState.VOID
    assert [made[2] for made in session.provider.made.values()] == [Answered.CANCELED]


class Stubborn(MemoryBatches):
    """Cancels nothing."""

    def cancel(self, batch_id: str) -> None:
        del batch_id


def test_a_batch_that_does_not_end_is_charged_after_ten_minutes() -> None:
    session = Session()
    session.provider = Stubborn(session.clock, says("later"), takes_ms=DAY_MS)
    with pytest.raises(InBatch):
        session.pay()
    bound_nusd = session.entry.amount_nusd

    with pytest.raises(NotYet):
        accounts_are_settled(session)
    session.clock.advance(CLOSE_PATIENCE_MS + 1)
    accounts_are_settled(session)

    assert HELD_MS > CLOSE_PATIENCE_MS
    assert (session.entry.state, session.entry.actual_nusd) == (EntryState.EXPIRED, bound_nusd)


class Keyless(dict[str, Any]):
    """A worker without the provider's key."""

    def __getitem__(self, name: str) -> Any:
        raise Misconfigured(f"no key of {name!r}")


def test_a_worker_without_the_key_waits_for_one_that_has_it_but_not_for_ever() -> None:
    session = Session()
    with pytest.raises(InBatch):
        session.pay()
    keyless = replace(session.ports, batches=Keyless({session.spec.judge: None}))

    with pytest.raises(Misconfigured):
        conclude(session.step(keyless))
    session.clock.advance(CLOSE_PATIENCE_MS + 1)
    accounts_are_settled(session, keyless)

    assert session.entry.state is EntryState.EXPIRED
