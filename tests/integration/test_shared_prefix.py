"""Sessions that begin at once pay once for what they share, on the simulator's bill."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.unit.core.told import Told, text_of
from worker.clock import SystemClock
from worker.core.transcript import exploring_request, prompt_bound_tokens
from worker.embedded.teacher.desk import Pace
from worker.embedded.teacher.faults import FaultList
from worker.embedded.teacher.server import SimulatedTeacher
from worker.errors import RateLimited, TeacherFault, Unavailable
from worker.ledger.memory import MemoryLedger
from worker.paid import PaidTeacher
from worker.prefixes.lead import Lead
from worker.prefixes.memory import MemoryPrefixes
from worker.teacher.anthropic import AnthropicTeacher
from worker.testing import ManualClock
from worker.tools.schemas import anthropic_tools

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from worker.core.teaching import TeacherRequest
    from worker.ports import Going

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

SESSIONS = 12
SHARED_TOKENS = 4_500


@pytest.fixture
def teacher() -> Iterator[SimulatedTeacher]:
    # A provider that takes a moment to begin: those who come meanwhile find nothing in its cache.
    with SimulatedTeacher(pace=Pace(first_ms=300)) as running:
        yield running
        assert running.desk.crashes == []


def first_request(number: int, model: str = "claude-opus-5") -> TeacherRequest:
    session = Told.prepared(session_id=f"s-{number}", teacher_model=model).session
    request = exploring_request(session, anthropic_tools(), text_of)
    # Two sessions share tools and system prompt, and no brief.
    brief = {**request.messages[0]["content"][0], "text": f"The brief of session {number}."}
    return replace(request, messages=[{"role": "user", "content": [brief]}])


@contextmanager
def paying(teacher: SimulatedTeacher, lead: Lead | None) -> Generator[PaidTeacher]:
    ledger = MemoryLedger(ManualClock())
    ledger.open_account("fleet", 10**12)
    adapter = AnthropicTeacher(base_url=teacher.url, api_key=teacher.api_key)
    with closing(adapter):
        yield PaidTeacher(adapter, ledger, lead=lead)


def ask_all_at_once(paid: PaidTeacher) -> list[int]:
    """Let all sessions begin; return how often each had to wait."""

    def begin(number: int) -> int:
        return ask(paid, number)

    with ThreadPoolExecutor(SESSIONS) as pool:
        return list(pool.map(begin, range(SESSIONS)))


def ask(paid: PaidTeacher, number: int, model: str = "claude-opus-5") -> int:
    """Ask a session's first turn until it may go; return how often it had to wait."""
    request = first_request(number, model)
    session = Told.prepared(teacher_model=model).session
    bound = prompt_bound_tokens(session, request, text_of)
    waited, pause = 0, threading.Event()
    while True:
        try:
            paid.call(
                request,
                reservation_id=f"s-{number}/turn/1/{waited + 1}.1",
                scopes=["fleet"],
                kind="explore",
                step_id="turn/1",
                prompt_bound_tokens=bound,
                stopped=lambda: False,
            )
        except RateLimited as exc:
            waited += 1
            pause.wait(exc.retry_after_ms / 1000)
        else:
            return waited


def written(teacher: SimulatedTeacher) -> list[int]:
    """Return what each call wrote of what all share, in the order in which they came."""
    return [
        line.usage.cache_write_5m_tokens
        for line in sorted(teacher.bill.lines(), key=lambda line: line.sequence_no)
    ]


def test_of_sessions_that_begin_at_once_one_writes_and_the_others_read(
    teacher: SimulatedTeacher,
) -> None:
    with paying(teacher, Lead(MemoryPrefixes(SystemClock()), account="a")) as paid:
        waited = ask_all_at_once(paid)

    first, *others = written(teacher)
    assert first > SHARED_TOKENS
    assert all(tokens < 100 for tokens in others), others
    assert waited.count(0) == 1, "whoever goes first waits for nobody"
    assert len(teacher.bill.lines()) == SESSIONS, "no call was made for the cache alone"


def test_without_it_each_that_comes_before_the_first_answer_writes() -> None:
    # Slow enough for most of them to come in time, however busy the machine.
    with SimulatedTeacher(pace=Pace(first_ms=2_000)) as teacher:
        with paying(teacher, None) as paid:
            ask_all_at_once(paid)

        assert sum(tokens > SHARED_TOKENS for tokens in written(teacher)) > SESSIONS / 2


def test_the_others_go_when_the_first_ones_call_fails(teacher: SimulatedTeacher) -> None:
    lead = Lead(MemoryPrefixes(ManualClock()), account="a")
    faults = FaultList.model_validate({"faults": [{"fault": "status", "status": 529}]})
    teacher.desk.faults.add(*faults.faults)

    with paying(teacher, lead) as paid:
        with pytest.raises(TeacherFault):
            ask(paid, 0)
        waited = [ask(paid, number) for number in (1, 2)]

    assert waited == [0, 0]


def test_a_model_that_keeps_no_prefix_so_short_makes_nobody_wait() -> None:
    prefixes = Asked()

    with Lead(prefixes, account="a").going(_small(first_request(0, "claude-opus-4-6")), "s/turn/1"):
        pass

    assert prefixes.asked == 0


def test_a_later_turn_waits_for_nobody_and_keeps_the_prefix() -> None:
    prefixes = Asked()
    told = Told.prepared(teacher_model="claude-opus-5").reads("list_traces", {}, "r")
    request = exploring_request(told.session, anthropic_tools(), text_of)

    with Lead(prefixes, account="a").going(request, "s/turn/2") as led:
        led.began()

    assert (prefixes.asked, prefixes.began_count) == (0, 1)


def test_a_redis_that_is_away_makes_nobody_wait() -> None:
    with Lead(Away(), account="a").going(first_request(0), "s/turn/1") as led:
        led.began()


def _small(request: TeacherRequest) -> TeacherRequest:
    return replace(request, tools=request.tools[:1])


class Asked:
    """`ports.Prefixes` that counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.began_count = 0

    def ask(self, prefix: str, who: str) -> Going:
        del prefix, who
        self.asked += 1
        return "wait"

    def began(self, prefix: str) -> None:
        del prefix
        self.began_count += 1

    def lost(self, prefix: str, who: str, *, sent: bool) -> None:
        raise AssertionError(f"nobody went first: {prefix} {who} {sent}")


class Away:
    """`ports.Prefixes` whose server does not answer."""

    def ask(self, prefix: str, who: str) -> Going:
        raise Unavailable(f"away: {prefix} {who}")

    def began(self, prefix: str) -> None:
        raise Unavailable(f"away: {prefix}")

    def lost(self, prefix: str, who: str, *, sent: bool) -> None:
        raise Unavailable(f"away: {prefix} {who} {sent}")
