"""A call in a batch is bought once, whoever dies where, and the ledger is what the provider bills."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from worker.batched import BatchedTeacher
from worker.core.batches import ASKED_AT_MOST_MS, FIND_MS, HELD_MS, Answered
from worker.core.prices import cost_nusd, halved, price_of
from worker.core.teaching import TeacherRequest
from worker.core.values import Usage
from worker.errors import Cancelled, InBatch, TeacherFault
from worker.ledger.memory import MemoryLedger
from worker.ports import EntryState
from worker.testing import ManualClock, MemoryBatches, says

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.paid import PaidReply
    from worker.ports import Account, Batch, BatchAnswer, Entry

MODEL = "claude-haiku-4-5"
SCOPES = ("fleet", "session:s")
STEP = "judge/1.0.0"
CAP = 1_000_000_000
USAGE = Usage(input_tokens=1_001, output_tokens=57)
#: Half of 1,001 x $1 + 57 x $5, per million.
COST = 643_000
PROMPT_BOUND = 2_000
#: Half of 2,000 x $1 + 1,024 x $5, per million.
BOUND = 3_560_000
TAKES_MS = 3_600_000
REQUEST = TeacherRequest(
    model=MODEL,
    max_tokens=1_024,
    system=[],
    messages=[{"role": "user", "content": [{"type": "text", "text": "score it"}]}],
)


class Crash(BaseException):
    """The process dies here."""


class Dying:
    """Passes everything on to another object, until its turn to die has come."""

    def __init__(self, inner: Any, trip: Callable[[], bool]) -> None:
        self._inner = inner
        self._trip = trip

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)

        def act(*args: Any, **kwargs: Any) -> Any:
            if self._trip():
                raise Crash
            done = inner(*args, **kwargs)
            if self._trip():
                raise Crash
            return done

        return act


@dataclass
class Bench:
    """A provider, a ledger, and a worker that may die and be followed by another one."""

    clock: ManualClock = field(default_factory=ManualClock)
    attempt: int = 0

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self.clock)
        for scope in SCOPES:
            self.ledger.open_account(scope, CAP)
        self.provider = MemoryBatches(self.clock, says("yes", usage=USAGE), takes_ms=TAKES_MS)
        self.notes: list[Entry] = []

    def call(
        self, *, dies_at: int = 0, check: Callable[[], None] = lambda: None
    ) -> PaidReply | None:
        """Attempt the call once; die at the nth moment."""
        self.attempt += 1
        moments: Iterator[int] = iter(range(1, 10**6))

        def trip() -> bool:
            return next(moments) == dies_at

        batches: Any = Dying(self.provider, trip)
        ledger: Any = Dying(self.ledger, trip)
        teacher = BatchedTeacher(
            batches,
            ledger,
            self.clock,
            first_poll_ms=30_000,
            note=Dying(self, trip).note,
            sleep=lambda s: self.clock.advance(round(s * 1000)),
        )
        return teacher.call(
            REQUEST,
            reservation_id=f"s/{STEP}/{self.attempt}.1-batch",
            session_id="s",
            scopes=SCOPES,
            kind="judge_batch",
            step_id=STEP,
            prompt_bound_tokens=PROMPT_BOUND,
            check=check,
            fresh=self.attempt == 1,
        )

    def note(self, entry: Entry) -> None:
        self.notes.append(entry)

    def to_the_end(self) -> PaidReply | None:
        """Attempt it until it comes to something, sweeping meanwhile."""
        for _ in range(400):
            self.ledger.expire_overdue(limit=100)
            try:
                return self.call()
            except InBatch as waits:
                self.clock.advance(waits.retry_after_ms)
        raise AssertionError("it never ends")

    @property
    def account(self) -> Account:
        account = self.ledger.account("session:s")
        assert account is not None
        return account

    @property
    def entry(self) -> Entry:
        return self.ledger.entries("s")[-1]

    def check_paid_once(self) -> None:
        assert len(self.provider.made) == 1
        assert self.provider.succeeded == 1
        assert (self.account.posted_nusd, self.account.held_nusd) == (COST, 0)
        assert [one.actual_nusd for one in self.ledger.entries("s") if one.actual_nusd] == [COST]


def test_a_call_in_a_batch_costs_half() -> None:
    bench = Bench()

    with pytest.raises(InBatch) as waits:
        bench.call()
    held = bench.entry
    paid = bench.to_the_end()

    assert waits.value.retry_after_ms == 30_000
    assert (held.state, held.amount_nusd, held.request_id) == (EntryState.SENT, BOUND, "msgbatch_1")
    assert paid is not None
    assert (paid.cost_nusd, paid.reply.usage, paid.breach) == (COST, USAGE, False)
    assert cost_nusd(halved(price_of(MODEL)), USAGE) == COST
    bench.check_paid_once()
    assert [note.reservation_id for note in bench.notes] == [held.reservation_id]


#: Dies between saying that the request goes out and sending it: nobody can tell it from one that went.
UNSENT = {6, 7}


@pytest.mark.parametrize("dies_at", range(1, 17))
def test_whoever_dies_while_buying_it_is_bought_once(dies_at: int) -> None:
    bench = Bench()
    died = False
    try:
        bench.call(dies_at=dies_at)
    except Crash:
        died = True
    except InBatch:
        pass

    assert died == (dies_at <= 12), "reserve, note, sent, create, narrow, extend: before and after"
    paid = bench.to_the_end()
    if dies_at in UNSENT:
        assert paid is None
        assert bench.provider.made == {}
        assert (bench.account.posted_nusd, bench.account.held_nusd) == (BOUND, 0)
    else:
        assert paid is not None
        bench.check_paid_once()


@pytest.mark.parametrize("dies_at", range(1, 11))
def test_whoever_dies_while_reading_it_is_bought_once(dies_at: int) -> None:
    bench = Bench()
    with pytest.raises(InBatch):
        bench.call()
    bench.clock.advance(TAKES_MS)
    died = False
    try:
        bench.call(dies_at=dies_at)
    except Crash:
        died = True

    assert died == (dies_at <= 8), "entries, look, answer, settle: before and after"
    assert bench.to_the_end() is not None
    bench.check_paid_once()


def test_money_for_a_batch_is_held_for_as_long_as_it_may_take() -> None:
    bench = Bench()
    with pytest.raises(InBatch):
        bench.call()

    bench.clock.advance(24 * 3_600_000)
    bench.ledger.expire_overdue(limit=100)

    assert (bench.entry.state, bench.account.held_nusd) == (EntryState.SENT, BOUND)


def test_a_reply_that_was_settled_and_not_committed_is_read_again() -> None:
    bench = Bench()
    first = bench.to_the_end()

    again = bench.to_the_end()

    assert first is not None
    assert again == first
    bench.check_paid_once()


@pytest.mark.parametrize("answered", [Answered.ERRORED, Answered.CANCELED, Answered.EXPIRED])
def test_what_brought_no_answer_costs_nothing_and_is_asked_in_the_ordinary_way(
    answered: Answered,
) -> None:
    bench = Bench()
    bench.provider.ends = answered

    assert bench.to_the_end() is None
    assert bench.to_the_end() is None

    assert len(bench.provider.made) == 1
    assert (bench.account.posted_nusd, bench.account.held_nusd) == (0, 0)
    assert bench.entry.why.startswith(answered.value)


def unheard(retry: Any = "later", billing: Any = "unknown") -> TeacherFault:
    return TeacherFault("reset", billing=billing, retry=retry)


def test_a_batch_that_nobody_knows_of_is_found_by_the_name_of_its_call() -> None:
    bench = Bench()
    with pytest.raises(Crash):
        bench.call(dies_at=8)
    assert bench.entry.request_id == ""
    bench.provider.create(REQUEST, custom_id="d-of-somebody-else")

    paid = bench.to_the_end()

    assert paid is not None
    assert bench.entry.request_id == "msgbatch_1"
    assert (bench.account.posted_nusd, bench.account.held_nusd) == (COST, 0)


def test_what_nobody_heard_of_and_is_nowhere_is_charged_at_its_bound() -> None:
    bench = Bench()
    bench.provider.faults.append(unheard())
    with pytest.raises(InBatch):
        bench.call()
    asked_ms = bench.clock.now_ms()

    assert bench.to_the_end() is None

    assert bench.clock.now_ms() - asked_ms > FIND_MS
    assert bench.provider.made == {}
    assert (bench.account.posted_nusd, bench.account.held_nusd) == (BOUND, 0)
    assert bench.entry.state is EntryState.EXPIRED
    assert bench.to_the_end() is None


def test_batches_that_others_make_later_are_not_waited_for() -> None:
    bench = Bench()
    bench.provider.faults.append(unheard())
    with pytest.raises(InBatch):
        bench.call()
    bought_ms = bench.clock.now_ms()
    bench.clock.advance(FIND_MS + 200_000)
    bench.provider.create(REQUEST, custom_id="d-of-somebody-else")

    assert bench.to_the_end() is None

    assert bench.clock.now_ms() - bought_ms < FIND_MS + 600_000
    assert bench.entry.state is EntryState.EXPIRED


class Unreadable(MemoryBatches):
    """The results of the newest batch are gone."""

    def answer(self, batch: Batch, *, custom_id: str) -> BatchAnswer | None:
        if batch.batch_id == list(self.made)[-1]:
            raise unheard("never", "unbilled")
        return super().answer(batch, custom_id=custom_id)


def test_results_of_others_that_are_gone_hide_nothing() -> None:
    bench = Bench()
    bench.provider = Unreadable(bench.clock, says("yes", usage=USAGE), takes_ms=TAKES_MS)
    with pytest.raises(Crash):
        bench.call(dies_at=8)
    bench.provider.create(REQUEST, custom_id="d-of-somebody-else")

    assert bench.to_the_end() is not None
    assert (bench.account.posted_nusd, bench.account.held_nusd) == (COST, 0)


def test_batches_of_the_same_minutes_are_waited_for() -> None:
    bench = Bench()
    bench.provider.faults.append(unheard())
    with pytest.raises(InBatch):
        bench.call()
    bought_ms = bench.clock.now_ms()
    bench.provider.takes_ms = 6 * TAKES_MS
    bench.provider.create(REQUEST, custom_id="d-of-somebody-else")

    assert bench.to_the_end() is None

    assert bench.clock.now_ms() - bought_ms >= 6 * TAKES_MS


def test_a_ledger_that_was_charged_for_it_is_put_right_by_its_answer() -> None:
    bench = Bench()
    with pytest.raises(InBatch):
        bench.call()
    bench.ledger.charge_unknown(bench.entry.reservation_id, "restored")

    assert bench.to_the_end() is not None
    bench.check_paid_once()
    assert bench.account.unknown_nusd == 0


def test_a_batch_that_is_refused_now_is_tried_again_and_one_that_never_goes_is_not() -> None:
    bench = Bench()
    bench.provider.faults.append(unheard("later", "unbilled"))
    with pytest.raises(TeacherFault):
        bench.call()
    assert (bench.account.posted_nusd, bench.account.held_nusd) == (0, 0)
    assert bench.to_the_end() is not None

    other = Bench()
    other.provider.faults.append(unheard("never", "unbilled"))
    assert other.call() is None
    assert (other.account.posted_nusd, other.account.held_nusd) == (0, 0)


def test_a_provider_that_does_not_answer_is_asked_again() -> None:
    bench = Bench()
    with pytest.raises(InBatch):
        bench.call()
    bench.provider.faults.extend(unheard() for _ in range(20))

    assert bench.to_the_end() is not None
    bench.check_paid_once()


def test_a_batch_without_end_is_charged_after_a_day() -> None:
    bench = Bench()
    bench.provider.takes_ms = 10**10
    begun_ms = bench.clock.now_ms()

    assert bench.to_the_end() is None

    assert HELD_MS < ASKED_AT_MOST_MS < bench.clock.now_ms() - begun_ms
    assert (bench.account.posted_nusd, bench.account.held_nusd) == (BOUND, 0)


def test_a_step_that_is_told_to_stop_buys_nothing() -> None:
    asked = iter([None, Cancelled("stop")])
    bench = Bench()

    def check() -> None:
        told = next(asked)
        if told is not None:
            raise told

    with pytest.raises(Cancelled):
        bench.call(check=check)

    assert bench.provider.made == {}
    assert bench.account.held_nusd == 0


def test_where_money_lacks_the_ordinary_call_says_so() -> None:
    bench = Bench()
    bench.ledger.set_cap("fleet", BOUND - 1)

    assert bench.call() is None
    assert bench.provider.made == {}


def test_the_kill_switch_stops_batches_too() -> None:
    bench = Bench()
    bench.ledger.freeze("fleet")

    assert bench.call() is None
    assert bench.provider.made == {}


def test_a_truth_above_the_bound_is_charged_and_is_a_breach() -> None:
    bench = Bench()
    large = Usage(input_tokens=10_000, output_tokens=57)
    bench.provider = MemoryBatches(bench.clock, says("yes", usage=large), takes_ms=TAKES_MS)

    paid = bench.to_the_end()

    assert paid is not None
    assert paid.breach
    assert bench.account.frozen
    assert bench.account.posted_nusd == paid.cost_nusd > BOUND


def test_a_refusal_that_is_not_charged_costs_nothing() -> None:
    bench = Bench()
    reply = replace(says("", usage=USAGE), content=[], unbilled=True, stop_reason="refusal")
    bench.provider = MemoryBatches(bench.clock, reply, takes_ms=TAKES_MS)

    paid = bench.to_the_end()

    assert paid is not None
    assert paid.cost_nusd == 0
    assert (bench.account.posted_nusd, bench.account.held_nusd) == (0, 0)


# ---------------------------------------------------------------------------------- the session's end


def close(bench: Bench) -> None:
    teacher = BatchedTeacher(bench.provider, bench.ledger, bench.clock, first_poll_ms=30_000)
    teacher.close(bench.entry, known=frozenset())


def test_the_end_of_a_session_cancels_its_batch_and_pays_nothing() -> None:
    bench = Bench()
    with pytest.raises(InBatch):
        bench.call()

    close(bench)

    assert bench.entry.state is EntryState.VOID
    assert bench.account.held_nusd == 0


def test_the_end_of_a_session_pays_for_a_batch_that_has_ended() -> None:
    bench = Bench()
    with pytest.raises(InBatch):
        bench.call()
    bench.clock.advance(TAKES_MS)

    close(bench)

    bench.check_paid_once()


def test_the_end_of_a_session_asks_again_where_nobody_answers() -> None:
    bench = Bench()
    with pytest.raises(InBatch):
        bench.call()
    bench.provider.faults.append(unheard("stop"))

    with pytest.raises(InBatch) as waits:
        close(bench)

    assert waits.value.retry_after_ms == 1_000
    assert bench.entry.state is EntryState.SENT
