"""What every `Batches` does: the fake, and the adapter against the simulated teacher over HTTP."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from worker.core.batches import Answered
from worker.core.judging import judge_request
from worker.core.teaching import JudgeRequest
from worker.embedded.teacher.batches import BatchSwitch
from worker.embedded.teacher.faults import Match, Reset, Status
from worker.embedded.teacher.server import SimulatedTeacher
from worker.errors import TeacherFault
from worker.teacher.anthropic import AnthropicTeacher
from worker.testing import ManualClock, MemoryBatches, says

if TYPE_CHECKING:
    from collections.abc import Generator

    from worker.ports import Batches

pytestmark = [pytest.mark.enable_socket]

REQUEST = judge_request(
    "claude-haiku-4-5", JudgeRequest(task="2+2?", output="It is 4.", reference="4")
)
LONG_MS = 3_600_000


class Provider:
    """The provider's side of a subject."""

    def __init__(self, batches: Batches, clock: ManualClock) -> None:
        self.batches = batches
        self.clock = clock

    def ends(self, how: Answered) -> None:
        """Let batches that are made from now on take an hour, and end so."""
        raise NotImplementedError


class InMemory(Provider):
    def ends(self, how: Answered) -> None:
        assert isinstance(self.batches, MemoryBatches)
        self.batches.takes_ms, self.batches.ends = LONG_MS, how


class OverHttp(Provider):
    teacher: SimulatedTeacher

    def ends(self, how: Answered) -> None:
        self.teacher.desk.batches.switch = BatchSwitch(processing_ms=LONG_MS, ends=how.value)


@contextmanager
def over_http() -> Generator[OverHttp]:
    clock = ManualClock()
    with SimulatedTeacher(clock=clock) as teacher:
        adapter = AnthropicTeacher(base_url=teacher.url, api_key=teacher.api_key)
        provider = OverHttp(adapter, clock)
        provider.teacher = teacher
        yield provider
        adapter.close()
        assert teacher.desk.crashes == []


@pytest.fixture(params=["memory", "http"])
def provider(request: pytest.FixtureRequest) -> Generator[Provider]:
    clock = ManualClock()
    if request.param == "memory":
        yield InMemory(MemoryBatches(clock, says("yes")), clock)
    else:
        with over_http() as made:
            yield made


def test_a_batch_is_made_ends_and_is_read(provider: Provider) -> None:
    provider.ends(Answered.SUCCEEDED)
    batches = provider.batches

    batch_id = batches.create(REQUEST, custom_id="d-1")
    before = batches.look(batch_id)
    provider.clock.advance(LONG_MS)
    after = batches.look(batch_id)
    answer = batches.answer(after, custom_id="d-1")

    assert (before.ended, after.ended) == (False, True)
    assert before.requests == 1
    assert before.created_ms == provider.clock.now_ms() - LONG_MS
    assert answer is not None
    assert answer.answered is Answered.SUCCEEDED
    assert answer.reply is not None
    assert answer.reply.usage.output_tokens > 0
    assert batches.answer(after, custom_id="d-1") is not None, "it can be read again"
    assert batches.answer(after, custom_id="d-2") is None


@pytest.mark.parametrize("how", [Answered.ERRORED, Answered.EXPIRED])
def test_what_did_not_succeed_says_so(provider: Provider, how: Answered) -> None:
    provider.ends(how)
    batch_id = provider.batches.create(REQUEST, custom_id="d-1")
    provider.clock.advance(LONG_MS)

    answer = provider.batches.answer(provider.batches.look(batch_id), custom_id="d-1")

    assert answer is not None
    assert (answer.answered, answer.reply) == (how, None)


def test_a_cancelled_batch_ends_early_and_again_does_nothing(provider: Provider) -> None:
    provider.ends(Answered.SUCCEEDED)
    batch_id = provider.batches.create(REQUEST, custom_id="d-1")

    provider.batches.cancel(batch_id)
    provider.batches.cancel(batch_id)

    batch = provider.batches.look(batch_id)
    answer = provider.batches.answer(batch, custom_id="d-1")
    assert batch.ended
    assert answer is not None
    assert answer.answered is Answered.CANCELED


def test_recent_batches_are_listed_from_the_newest(provider: Provider) -> None:
    provider.batches.create(REQUEST, custom_id="d-0")
    since_ms = provider.clock.advance(1_000)
    made = [provider.batches.create(REQUEST, custom_id=f"d-{n}") for n in (1, 2)]

    listed = provider.batches.recent(since_ms=since_ms)

    assert [batch.batch_id for batch in listed] == made[::-1]


def test_results_that_are_not_there_yet_are_a_fault(provider: Provider) -> None:
    provider.ends(Answered.SUCCEEDED)
    batch_id = provider.batches.create(REQUEST, custom_id="d-1")

    with pytest.raises(TeacherFault):
        provider.batches.answer(provider.batches.look(batch_id), custom_id="d-1")


def test_a_batch_that_nobody_made_is_a_fault_for_good(provider: Provider) -> None:
    with pytest.raises(TeacherFault) as fault:
        provider.batches.look("msgbatch_nobody")

    assert fault.value.retry == "never"


# ------------------------------------------------------------------------------- over HTTP alone


def test_it_is_on_the_bill_once_at_half_the_price_when_it_was_processed() -> None:
    with over_http() as provider:
        provider.ends(Answered.SUCCEEDED)
        batch_id = provider.batches.create(REQUEST, custom_id="d-1")
        early = provider.teacher.bill.lines()
        provider.clock.advance(LONG_MS)
        batch = provider.batches.look(batch_id)
        answer = provider.batches.answer(batch, custom_id="d-1")
        assert provider.batches.answer(batch, custom_id="d-1") is not None
        (line,) = provider.teacher.bill.lines()

    assert early == ()
    assert answer is not None
    assert answer.reply is not None
    usage = answer.reply.usage
    # $1 and $5 per million tokens, in pico-dollars, and half of it.
    pico = (usage.input_tokens * 1_000_000 + usage.output_tokens * 5_000_000) // 2
    assert line.amount_pico_usd == pico
    assert line.message_id == answer.reply.message_id


def test_what_goes_out_is_the_call_without_a_stream() -> None:
    with over_http() as provider:
        provider.batches.create(REQUEST, custom_id="d-1")
        (body,) = provider.teacher.desk.log.bodies()

    assert '"stream"' not in body
    assert '"custom_id":"d-1"' in body.replace(" ", "")
    assert '"inference_geo":"global"' in body.replace(" ", "")


@pytest.mark.parametrize(
    ("fault", "billing", "retry", "made"),
    [
        (Status(fault="status", status=429), "unbilled", "later", 0),
        (Status(fault="status", status=404), "unbilled", "never", 0),
        (Status(fault="status", status=401), "unbilled", "stop", 0),
        (Status(fault="status", status=500), "unknown", "later", 0),
        (Reset(fault="reset", match=Match(kind="batch")), "unknown", "later", 0),
        (Reset(fault="reset", billed=True), "unknown", "later", 1),
    ],
)
def test_what_came_of_a_batch_that_could_not_be_made(
    fault: Any, billing: str, retry: str, made: int
) -> None:
    with over_http() as provider:
        provider.teacher.desk.faults.add(fault)

        with pytest.raises(TeacherFault) as said:
            provider.batches.create(REQUEST, custom_id="d-1")

        assert (said.value.billing, said.value.retry) == (billing, retry)
        assert len(provider.batches.recent(since_ms=0)) == made


def test_no_address_is_made_of_what_is_no_id() -> None:
    with over_http() as provider:
        for wrong in ("", "../../v1/organizations/me", "a?b=c", "https://elsewhere.invalid/x"):
            with pytest.raises(TeacherFault, match="no id of a batch"):
                provider.batches.look(wrong)
        assert provider.teacher.desk.log.bodies() == ()


def test_other_keys_see_no_batches() -> None:
    clock = ManualClock()
    with SimulatedTeacher(clock=clock, more_api_keys=["sk-other"]) as teacher:
        one = AnthropicTeacher(base_url=teacher.url, api_key=teacher.api_key)
        other = AnthropicTeacher(base_url=teacher.url, api_key="sk-other")
        batch_id = one.create(REQUEST, custom_id="d-1")

        assert other.recent(since_ms=0) == ()
        with pytest.raises(TeacherFault):
            other.look(batch_id)
        one.close()
        other.close()


def test_a_long_list_is_read_page_by_page() -> None:
    with over_http() as provider:
        made = [provider.batches.create(REQUEST, custom_id=f"d-{n}") for n in range(103)]

        assert [b.batch_id for b in provider.batches.recent(since_ms=0)] == made[::-1]
