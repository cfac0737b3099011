from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest
from structlog.testing import capture_logs

from worker.core.bounds import MIN_USEFUL_OUTPUT_TOKENS, call_bound_nusd
from worker.core.prices import PRICE_VERSION, cost_nusd, price_of
from worker.core.teaching import TeacherReply, TeacherRequest
from worker.core.values import Usage
from worker.errors import BadInput, BudgetDenied, TeacherFault, Unavailable, UnknownModel
from worker.ledger.memory import MemoryLedger
from worker.paid import PaidReply, PaidTeacher
from worker.ports import Account, Entry, EntryState
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "claude-opus-4-6"
SCOPES = ("fleet", "tenant:t", "campaign:c", "session:s")
CAP = 5_000_000_000
PROMPT_BOUND = 10_000
MAX_TOKENS = 8_000
#: 10,000 x $6.25 (it has a five-minute breakpoint) + 8,000 x $25, per million
BOUND = 262_500_000
STARTED = Usage(input_tokens=100, cache_write_5m_tokens=4_000, cache_read_tokens=2_000)
#: 100 x $5 + 4,000 x $6.25 + 2,000 x $0.50 + 8,000 x $25, per million
STARTED_BOUND = 226_500_000
USAGE = replace(STARTED, output_tokens=500)
#: 100 x $5 + 4,000 x $6.25 + 2,000 x $0.50 + 500 x $25, per million
COST = 39_000_000

REQUEST = TeacherRequest(
    model=MODEL,
    max_tokens=MAX_TOKENS,
    system=[{"type": "text", "text": "rubric", "cache_control": {"type": "ephemeral"}}],
    messages=[{"role": "user", "content": [{"type": "text", "text": "brief"}]}],
)
REPLY = TeacherReply(
    content=[],
    stop_reason="end_turn",
    usage=USAGE,
    model=MODEL,
    message_id="msg_1",
    request_id="req_1",
    latency_ms=1,
)


def fault(
    billing: Literal["unbilled", "unknown"], retry: Literal["later", "never", "stop"] = "later"
) -> TeacherFault:
    return TeacherFault("what went wrong", billing=billing, retry=retry, request_id="req_1")


class OneCallTeacher:
    """Tells the prompt's usage, asks whether to stop, then replies or raises."""

    def __init__(
        self,
        ends: TeacherReply | BaseException = REPLY,
        *,
        started: Usage | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        questions: int = 1,
    ) -> None:
        self._ends = ends
        self._started = started
        self._meanwhile = meanwhile
        self._questions = questions
        self.requests: list[TeacherRequest] = []

    def send(
        self,
        request: TeacherRequest,
        *,
        on_answer: Callable[[str], None],
        on_start: Callable[[Usage], None],
        stopped: Callable[[], bool],
    ) -> TeacherReply:
        self.requests.append(request)
        on_answer("req_1")
        if self._started is not None:
            on_start(self._started)
        for _ in range(self._questions):
            self._meanwhile()
            if stopped():
                raise fault("unknown")
        if isinstance(self._ends, BaseException):
            raise self._ends
        return self._ends


class SilentLedger(MemoryLedger):
    """Does not answer to some operations, some times; `does_it` says whether it carries them out."""

    def __init__(self, scopes: tuple[str, ...] = SCOPES) -> None:
        super().__init__(ManualClock())
        for scope in scopes:
            self.open_account(scope, CAP)
        #: operation -> how often it will not answer.
        self.silent: Counter[str] = Counter()
        self.does_it = False
        self.asked: Counter[str] = Counter()

    def _maybe(self, name: str, operation: Callable[[], Any]) -> Any:
        self.asked[name] += 1
        if not self.silent[name]:
            return operation()
        self.silent[name] -= 1
        if self.does_it:
            operation()
        raise Unavailable(f"no answer while {name}")

    def reserve(self, *args: Any, **kwargs: Any) -> None:
        self._maybe("reserve", lambda: MemoryLedger.reserve(self, *args, **kwargs))

    def sent(self, *args: Any, **kwargs: Any) -> None:
        self._maybe("sent", lambda: MemoryLedger.sent(self, *args, **kwargs))

    def narrow(self, *args: Any, **kwargs: Any) -> None:
        self._maybe("narrow", lambda: MemoryLedger.narrow(self, *args, **kwargs))

    def extend(self, *args: Any, **kwargs: Any) -> bool:
        return self._maybe("extend", lambda: MemoryLedger.extend(self, *args, **kwargs))

    def settle(self, *args: Any, **kwargs: Any) -> bool:
        return self._maybe("settle", lambda: MemoryLedger.settle(self, *args, **kwargs))

    def void(self, *args: Any, **kwargs: Any) -> None:
        self._maybe("void", lambda: MemoryLedger.void(self, *args, **kwargs))

    def charge_unknown(self, *args: Any, **kwargs: Any) -> None:
        self._maybe("charge_unknown", lambda: MemoryLedger.charge_unknown(self, *args, **kwargs))

    @property
    def session(self) -> Account:
        account = self.account("session:s")
        assert account is not None
        return account

    @property
    def only_entry(self) -> Entry:
        (entry,) = self.entries("s")
        return entry


@pytest.fixture
def ledger() -> SilentLedger:
    return SilentLedger()


def call(
    ledger: MemoryLedger,
    teacher: OneCallTeacher,
    request: TeacherRequest = REQUEST,
    *,
    replaces: str | None = None,
    stopped: Callable[[], bool] = lambda: False,
    kept_ms: int = 60_000,
    patience_ms: int = 10_000,
) -> PaidReply:
    paid = PaidTeacher(teacher, ledger, patience_ms=patience_ms, kept_ms=kept_ms)
    return paid.call(
        request,
        reservation_id="s/turn/1/1.1",
        scopes=SCOPES,
        kind="explore",
        step_id="turn/1",
        prompt_bound_tokens=PROMPT_BOUND,
        replaces=replaces,
        stopped=stopped,
    )


def hold(ledger: MemoryLedger, name: str, amount: int) -> None:
    ledger.reserve(
        name,
        amount,
        SCOPES,
        kind="close",
        model=MODEL,
        step_id="open",
        price_version=PRICE_VERSION,
        deadline_ms=1,
    )


# -------------------------------------------------------------------------------------- outcomes


def test_a_whole_reply_is_charged_at_its_exact_cost(ledger: SilentLedger) -> None:
    paid = call(ledger, OneCallTeacher(started=STARTED))

    assert paid == PaidReply(reply=REPLY, cost_nusd=COST, max_tokens=MAX_TOKENS)
    assert (ledger.session.posted_nusd, ledger.session.held_nusd) == (COST, 0)
    assert replace(ledger.only_entry, created_ms=0) == Entry(
        reservation_id="s/turn/1/1.1",
        state=EntryState.SETTLED,
        amount_nusd=STARTED_BOUND,
        actual_nusd=COST,
        scopes=SCOPES,
        kind="explore",
        model=MODEL,
        step_id="turn/1",
        price_version=PRICE_VERSION,
        created_ms=0,
        usage=USAGE,
        request_id="req_1",
        message_id="msg_1",
    )


def test_the_bound_is_held_before_anything_is_sent(ledger: SilentLedger) -> None:
    seen: list[tuple[EntryState, int, int]] = []

    def look() -> None:
        entry = ledger.only_entry
        seen.append((entry.state, entry.amount_nusd, ledger.session.held_nusd))

    call(ledger, OneCallTeacher(meanwhile=look))

    assert seen == [(EntryState.SENT, BOUND, BOUND)]


def test_the_provider_s_id_is_in_the_ledger_while_the_call_is_under_way(
    ledger: SilentLedger,
) -> None:
    seen: list[tuple[EntryState, str]] = []

    def look() -> None:
        seen.append((ledger.only_entry.state, ledger.only_entry.request_id))

    call(ledger, OneCallTeacher(meanwhile=look))

    assert seen == [(EntryState.SENT, "req_1")]


def test_a_ledger_that_is_away_when_the_answer_begins_ends_no_call(ledger: SilentLedger) -> None:
    ledger.silent["narrow"] = 2

    call(ledger, OneCallTeacher(started=STARTED))

    assert ledger.only_entry.state is EntryState.SETTLED


def test_the_hold_shrinks_once_the_exact_prompt_is_known(ledger: SilentLedger) -> None:
    seen: list[int] = []

    call(
        ledger,
        OneCallTeacher(started=STARTED, meanwhile=lambda: seen.append(ledger.session.held_nusd)),
    )

    assert seen == [STARTED_BOUND]


def test_a_start_that_does_not_tell_the_prompt_leaves_the_hold(ledger: SilentLedger) -> None:
    call(ledger, OneCallTeacher(started=Usage()))

    assert ledger.only_entry.amount_nusd == BOUND
    assert not ledger.session.frozen


def test_a_refusal_that_is_not_charged_is_settled_at_nothing(ledger: SilentLedger) -> None:
    refusal = replace(
        REPLY, stop_reason="refusal", usage=replace(USAGE, output_tokens=0), unbilled=True
    )

    paid = call(ledger, OneCallTeacher(refusal))

    assert paid.cost_nusd == 0
    assert (ledger.session.posted_nusd, ledger.session.held_nusd) == (0, 0)
    entry = ledger.only_entry
    assert (entry.state, entry.usage) == (EntryState.SETTLED, refusal.usage)


@pytest.mark.parametrize("retry", ["later", "never", "stop"])
def test_a_fault_that_proves_that_nothing_was_billed_is_void(
    ledger: SilentLedger, retry: Literal["later", "never", "stop"]
) -> None:
    with pytest.raises(TeacherFault):
        call(ledger, OneCallTeacher(fault("unbilled", retry)))

    assert (ledger.session.posted_nusd, ledger.session.held_nusd) == (0, 0)
    entry = ledger.only_entry
    assert (entry.state, entry.why) == (EntryState.VOID, "what went wrong")


@pytest.mark.parametrize("retry", ["later", "never", "stop"])
@pytest.mark.parametrize(("started", "charge"), [(None, BOUND), (STARTED, STARTED_BOUND)])
def test_a_fault_that_proves_nothing_is_charged_at_its_bound(
    ledger: SilentLedger,
    started: Usage | None,
    charge: int,
    retry: Literal["later", "never", "stop"],
) -> None:
    with pytest.raises(TeacherFault):
        call(ledger, OneCallTeacher(fault("unknown", retry), started=started))

    account = ledger.session
    assert (account.posted_nusd, account.held_nusd, account.unknown_nusd) == (charge, 0, charge)
    entry = ledger.only_entry
    assert (entry.state, entry.why) == (EntryState.EXPIRED, "what went wrong")
    assert entry.request_id == "req_1"


def test_a_long_story_is_cut_short_in_the_ledger(ledger: SilentLedger) -> None:
    story = TeacherFault("x" * 10_000, billing="unbilled", retry="later")

    with pytest.raises(TeacherFault):
        call(ledger, OneCallTeacher(story))

    assert ledger.only_entry.why == "x" * 200


def test_a_reply_without_an_end_is_charged_at_its_bound(ledger: SilentLedger) -> None:
    with pytest.raises(TeacherFault, match="stop_reason") as raised:
        call(ledger, OneCallTeacher(replace(REPLY, stop_reason="")))

    assert (raised.value.billing, raised.value.retry) == ("unknown", "later")
    assert ledger.session.posted_nusd == BOUND


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), SystemExit(1)])
def test_whatever_else_ends_a_call_is_charged_at_its_bound(
    ledger: SilentLedger, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        call(ledger, OneCallTeacher(error))

    assert ledger.session.posted_nusd == BOUND
    entry = ledger.only_entry
    assert (entry.why, entry.request_id) == (type(error).__name__, "req_1")


def test_a_call_that_is_stopped_is_charged_at_its_bound(ledger: SilentLedger) -> None:
    with pytest.raises(TeacherFault):
        call(ledger, OneCallTeacher(), stopped=lambda: True)

    assert ledger.session.unknown_nusd == BOUND


def test_a_cost_above_the_bound_is_charged_shown_and_freezes_the_accounts(
    ledger: SilentLedger,
) -> None:
    usage = Usage(input_tokens=PROMPT_BOUND, output_tokens=MAX_TOKENS + 1_000)

    with capture_logs() as logs:
        paid = call(ledger, OneCallTeacher(replace(REPLY, usage=usage)))

    # 10,000 x $5 + 9,000 x $25, per million
    assert (paid.breach, paid.cost_nusd) == (True, 275_000_000)
    account = ledger.session
    assert (account.posted_nusd, account.breach_nusd) == (275_000_000, 12_500_000)
    assert account.frozen
    assert [log["event"] for log in logs] == ["teacher call above its bound"]


def test_a_prompt_above_its_bound_is_shown_even_where_the_money_sufficed(
    ledger: SilentLedger,
) -> None:
    usage = Usage(cache_read_tokens=PROMPT_BOUND + 1, output_tokens=1)

    with capture_logs():
        paid = call(ledger, OneCallTeacher(replace(REPLY, usage=usage)))

    assert paid.breach
    assert not ledger.session.frozen


# ------------------------------------------------------------------------------------- no money


def test_nothing_is_sent_that_the_scopes_cannot_carry(ledger: SilentLedger) -> None:
    ledger.set_cap("campaign:c", 100_000_000)
    teacher = OneCallTeacher()

    with pytest.raises(BudgetDenied) as denied:
        call(ledger, teacher)

    assert (denied.value.scope, denied.value.why) == ("campaign:c", "cap")
    assert teacher.requests == []
    assert ledger.entries("s") == ()


@pytest.mark.parametrize("missing", [0, 1])
def test_a_call_is_made_smaller_down_to_the_least_useful_output(
    ledger: SilentLedger, missing: int
) -> None:
    least = call_bound_nusd(
        price_of(MODEL), PROMPT_BOUND, MIN_USEFUL_OUTPUT_TOKENS, has_5m=True, has_1h=False
    )
    ledger.set_cap("session:s", least - missing)
    teacher = OneCallTeacher()

    if missing:
        with pytest.raises(BudgetDenied):
            call(ledger, teacher)
        assert teacher.requests == []
        return
    paid = call(ledger, teacher)

    assert teacher.requests == [replace(REQUEST, max_tokens=MIN_USEFUL_OUTPUT_TOKENS)]
    assert paid.max_tokens == MIN_USEFUL_OUTPUT_TOKENS
    assert ledger.only_entry.amount_nusd == least


def test_a_smaller_call_takes_all_that_the_tightest_scope_has(ledger: SilentLedger) -> None:
    ledger.set_cap("session:s", 200_000_000)
    ledger.set_cap("tenant:t", 190_000_010)

    paid = call(ledger, OneCallTeacher())

    # ($0.19000001 - 10,000 x $6.25 per million) / $25 per million, rounded down
    assert paid.max_tokens == 5_100


def test_a_call_that_is_small_already_is_not_made_smaller(ledger: SilentLedger) -> None:
    ledger.set_cap("session:s", 80_000_000)
    small = replace(REQUEST, max_tokens=1_000)

    with pytest.raises(BudgetDenied):
        call(ledger, OneCallTeacher(), small)

    ledger.set_cap("session:s", 87_500_000)
    assert call(ledger, OneCallTeacher(), small).max_tokens == 1_000


def test_a_smaller_call_is_tried_once() -> None:
    class Contended(SilentLedger):
        """Somebody else is always a little faster."""

        def reserve(self, *args: Any, **kwargs: Any) -> None:
            other = f"other{self.asked['reserve']}"
            MemoryLedger.reserve(self, other, 1_000_000, *args[2:], **kwargs)
            super().reserve(*args, **kwargs)

    contended, teacher = Contended(), OneCallTeacher()
    contended.set_cap("session:s", 200_000_000)

    with pytest.raises(BudgetDenied):
        call(contended, teacher)

    assert (contended.asked["reserve"], teacher.requests) == (2, [])


def test_the_closing_hold_makes_room_for_the_closing_call(ledger: SilentLedger) -> None:
    hold(ledger, "closing", BOUND)
    ledger.set_cap("session:s", BOUND)

    paid = call(ledger, OneCallTeacher(), replaces="closing")

    assert paid.max_tokens == MAX_TOKENS
    assert [entry.state for entry in ledger.entries("s")] == ["void", "settled"]


@pytest.mark.parametrize("billing", ["unbilled", "unknown"])
def test_a_closing_call_that_is_turned_away_leaves_its_money_to_the_next_try(
    ledger: SilentLedger, billing: Literal["unbilled", "unknown"]
) -> None:
    hold(ledger, "closing", BOUND)
    ledger.set_cap("session:s", BOUND)

    with pytest.raises(TeacherFault):
        call(ledger, OneCallTeacher(fault(billing, "later")), replaces="closing")

    states = [entry.state.value for entry in ledger.entries("s")]
    if billing == "unbilled":
        assert states == ["held", "void"]
        with pytest.raises(BudgetDenied):
            hold(ledger, "greedy", 1)
    else:
        assert states == ["void", "expired"]  # it may have been billed: the money is gone


def test_a_closing_call_that_was_not_sent_leaves_its_money_to_the_next_try(
    ledger: SilentLedger,
) -> None:
    hold(ledger, "closing", BOUND)
    ledger.silent["sent"] = 1

    with pytest.raises(Unavailable):
        call(ledger, OneCallTeacher(), replaces="closing")

    assert [entry.state for entry in ledger.entries("s")] == ["held", "void"]
    assert ledger.session.held_nusd == BOUND


def frozen() -> SilentLedger:
    ledger = SilentLedger()
    ledger.freeze("session:s")
    return ledger


def closed() -> SilentLedger:
    ledger = SilentLedger()
    ledger.close_account("session:s")
    return ledger


def no_account() -> SilentLedger:
    return SilentLedger(SCOPES[:-1])


@pytest.mark.parametrize("broken", [frozen, closed, no_account])
def test_a_refusal_that_no_smaller_call_cures_is_passed_on(
    broken: Callable[[], SilentLedger],
) -> None:
    ledger = broken()

    with pytest.raises(BudgetDenied) as denied:
        call(ledger, OneCallTeacher())

    assert denied.value.why == broken.__name__
    assert ledger.asked["reserve"] == 1


# -------------------------------------------------------------------------------- preconditions


def test_a_model_without_a_price_is_not_called(ledger: SilentLedger) -> None:
    teacher = OneCallTeacher()

    with pytest.raises(UnknownModel):
        call(ledger, teacher, replace(REQUEST, model="gpt-4o"))

    assert (teacher.requests, ledger.entries("s")) == ([], ())


def test_a_request_without_a_bound_is_not_sent(ledger: SilentLedger) -> None:
    teacher = OneCallTeacher()
    image: dict[str, Any] = {"type": "image", "source": {}}

    with pytest.raises(BadInput, match="image"):
        call(
            ledger,
            teacher,
            replace(REQUEST, messages=[{"role": "user", "content": [image]}]),
        )

    assert (teacher.requests, ledger.entries("s")) == ([], ())


# ------------------------------------------------------------------------------- between the two


def test_the_kill_switch_stops_a_call_that_was_reserved() -> None:
    class Killed(SilentLedger):
        def sent(self, *args: Any, **kwargs: Any) -> None:
            self.kill(on=True)
            super().sent(*args, **kwargs)

    killed, teacher = Killed(), OneCallTeacher()

    with pytest.raises(BudgetDenied) as denied:
        call(killed, teacher)

    assert (denied.value.why, teacher.requests) == ("killed", [])
    assert killed.only_entry.state is EntryState.VOID


def test_nothing_is_sent_after_the_hold_has_expired() -> None:
    class Stalled(SilentLedger):
        def sent(self, *args: Any, **kwargs: Any) -> None:
            self.clock_passes()
            super().sent(*args, **kwargs)

        def clock_passes(self) -> None:
            assert isinstance(self._clock, ManualClock)
            self._clock.advance(REQUEST.timeout_ms + 60_000)
            self.expire_overdue(limit=1)

    stalled, teacher = Stalled(), OneCallTeacher()

    with pytest.raises(BudgetDenied):
        call(stalled, teacher)

    assert teacher.requests == []
    assert stalled.only_entry.why == "never sent"


# ------------------------------------------------------------------------ a ledger that is silent


@pytest.mark.parametrize("operation", ["reserve", "sent"])
@pytest.mark.parametrize("does_it", [False, True])
def test_nothing_is_sent_or_stays_held_where_the_ledger_does_not_answer_before(
    ledger: SilentLedger, operation: str, *, does_it: bool
) -> None:
    ledger.silent[operation], ledger.does_it = 1, does_it
    teacher = OneCallTeacher()

    with pytest.raises(Unavailable):
        call(ledger, teacher)

    assert teacher.requests == []
    assert (ledger.session.posted_nusd, ledger.session.held_nusd) == (0, 0)


def test_a_call_goes_on_where_the_ledger_does_not_answer_in_the_middle(
    ledger: SilentLedger,
) -> None:
    ledger.silent["narrow"] = 1

    assert call(ledger, OneCallTeacher(started=STARTED)).cost_nusd == COST


@pytest.mark.parametrize("does_it", [False, True])
@pytest.mark.parametrize(
    ("operation", "ends", "posted"),
    [
        ("settle", REPLY, COST),
        ("void", fault("unbilled"), 0),
        ("charge_unknown", fault("unknown"), BOUND),
    ],
)
def test_an_outcome_is_told_until_the_ledger_answers(
    ledger: SilentLedger,
    operation: str,
    ends: TeacherReply | TeacherFault,
    posted: int,
    *,
    does_it: bool,
) -> None:
    ledger.silent[operation], ledger.does_it = 2, does_it

    if isinstance(ends, TeacherFault):
        with pytest.raises(TeacherFault):
            call(ledger, OneCallTeacher(ends))
    else:
        call(ledger, OneCallTeacher(ends))

    assert ledger.asked[operation] == 3
    assert (ledger.session.posted_nusd, ledger.session.held_nusd) == (posted, 0)


@pytest.mark.parametrize(
    ("operation", "ends"),
    [
        ("settle", REPLY),
        ("void", fault("unbilled")),
        ("charge_unknown", fault("unknown")),
        ("charge_unknown", RuntimeError("a bug")),
    ],
)
def test_an_outcome_that_cannot_be_told_stays_held_until_the_sweep_charges_it(
    ledger: SilentLedger, operation: str, ends: TeacherReply | Exception
) -> None:
    ledger.silent[operation] = 1_000

    with pytest.raises(RuntimeError if isinstance(ends, RuntimeError) else Unavailable):
        call(
            ledger,
            OneCallTeacher(ends),
            kept_ms=0,
            patience_ms=60,
        )

    assert (ledger.only_entry.state, ledger.session.held_nusd) == (EntryState.SENT, BOUND)
    ledger.expire_overdue(limit=1)
    assert (ledger.session.posted_nusd, ledger.session.held_nusd) == (BOUND, 0)


def test_a_stream_keeps_its_deadline_ahead(ledger: SilentLedger) -> None:
    ledger.silent["extend"] = 1
    pause = threading.Event()
    teacher = OneCallTeacher(meanwhile=lambda: pause.wait(0.005), questions=30)
    began_s = time.monotonic()

    call(ledger, teacher, kept_ms=200)

    # Every 50 ms of at least 150 ms, and no more; the one that was not answered hurts nobody.
    took_s = time.monotonic() - began_s
    assert 2 <= ledger.asked["extend"] <= took_s / 0.05


def test_a_short_call_does_not_bother_the_ledger(ledger: SilentLedger) -> None:
    call(ledger, OneCallTeacher(questions=100))

    assert ledger.asked["extend"] == 0


# ------------------------------------------------------------------------------------- concurrency


class BillingTeacher:
    """Bills at random within what was asked for, and adds it up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chance = random.Random(7)  # noqa: S311
        self.billed_nusd = 0

    def send(
        self,
        request: TeacherRequest,
        *,
        on_answer: Callable[[str], None],
        on_start: Callable[[Usage], None],
        stopped: Callable[[], bool],
    ) -> TeacherReply:
        with self._lock:
            outcome = self._chance.random()
            usage = Usage(
                input_tokens=self._chance.randint(0, PROMPT_BOUND // 2),
                cache_write_5m_tokens=self._chance.randint(0, PROMPT_BOUND // 2),
                output_tokens=self._chance.randint(0, request.max_tokens),
            )
        if outcome < 0.1:
            raise fault("unbilled")
        on_start(replace(usage, output_tokens=1))
        with self._lock:
            self.billed_nusd += cost_nusd(price_of(request.model), usage)
        if outcome < 0.2:
            raise fault("unknown")
        return replace(REPLY, usage=usage)


def test_64_threads_never_spend_more_than_the_cap() -> None:
    ledger, teacher = SilentLedger(), BillingTeacher()
    paid = PaidTeacher(teacher, ledger)

    def spend(thread: int) -> Counter[str]:
        said: Counter[str] = Counter()
        for number in range(10):
            try:
                paid.call(
                    REQUEST,
                    reservation_id=f"{thread}.{number}",
                    scopes=SCOPES,
                    kind="explore",
                    step_id="turn/1",
                    prompt_bound_tokens=PROMPT_BOUND,
                    stopped=lambda: False,
                )
                said["paid"] += 1
            except (BudgetDenied, TeacherFault) as exc:
                said[type(exc).__name__] += 1
            account = ledger.session
            assert account.posted_nusd + account.held_nusd <= CAP
        return said

    with ThreadPoolExecutor(64) as pool:
        said = sum(pool.map(spend, range(64)), Counter[str]())

    account = ledger.session
    settled = sum(e.actual_nusd for e in ledger.entries("s") if e.state is EntryState.SETTLED)
    assert min(said.values()) > 0
    assert said.keys() == {"paid", "BudgetDenied", "TeacherFault"}
    assert account.held_nusd == 0
    assert settled < teacher.billed_nusd <= account.posted_nusd <= CAP
    assert account.posted_nusd > CAP * 0.9
