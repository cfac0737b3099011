"""The simulated teacher as its clients see it: through the real SDK, over real sockets.

Rule: whatever happens to a request, there is one line for it on the bill, and its amount is what the
client's own usage comes to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, cast

import anthropic
import httpx2
import psutil
import pytest

from tests.unit.embedded.sim_world import World, message
from worker.core.prices import cost_nusd, price_of
from worker.core.values import Usage
from worker.embedded.teacher import BillLine, Outcome, Pace, SimulatedTeacher

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from anthropic.types import Message

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

MODEL = "claude-opus-5"
TOOLS: Any = World(categories={"arithmetic": (4, 2)}).tools()
WAIT_S = 10


class FakeClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def teacher(clock: FakeClock) -> Iterator[SimulatedTeacher]:
    with SimulatedTeacher(clock=clock, more_api_keys=["other-key"]) as running:
        yield running
        assert running.desk.crashes == []


@pytest.fixture
def client(teacher: SimulatedTeacher) -> Iterator[anthropic.Anthropic]:
    with client_of(teacher) as one:
        yield one


def client_of(
    teacher: SimulatedTeacher, *, api_key: str | None = None, read_s: float = WAIT_S
) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=teacher.url,
        api_key=api_key or teacher.api_key,
        max_retries=0,
        timeout=httpx2.Timeout(WAIT_S, read=read_s),
    )


def body_of(text: str, fields: dict[str, Any]) -> dict[str, Any]:
    said = {"model": MODEL, "max_tokens": 4096, "messages": [message("user", text)]}
    return said | fields


def ask(client: anthropic.Anthropic, text: str = "hello", **fields: Any) -> Message:
    """Return the answer to a streamed request."""
    with client.messages.stream(**body_of(text, fields)) as stream:
        return stream.get_final_message()


def ask_whole(client: anthropic.Anthropic, text: str = "hello", **fields: Any) -> Message:
    """Return the answer to a request that is not streamed."""
    return cast("Message", client.messages.create(**body_of(text, fields)))


def control(teacher: SimulatedTeacher, method: str, path: str, body: Any = None) -> Any:
    with closing(HTTPConnection("127.0.0.1", teacher.port, timeout=WAIT_S)) as connection:
        connection.request(method, path, json.dumps(body) if body is not None else b"")
        return json.loads(connection.getresponse().read())


def play(teacher: SimulatedTeacher, *faults: dict[str, Any]) -> None:
    assert "faults" in control(teacher, "POST", "/_sim/faults", {"faults": faults})


def script(teacher: SimulatedTeacher, *texts: str) -> None:
    replies = [{"blocks": [{"type": "text", "text": text}]} for text in texts]
    control(teacher, "POST", "/_sim/script", {"replies": replies})


def settled(teacher: SimulatedTeacher, count: int = 1) -> BillLine:
    """Return the last line, once there are `count` of them."""
    wait_until(lambda: len(teacher.bill.lines()) >= count)
    assert len(teacher.bill.lines()) == count
    return teacher.bill.lines()[-1]


def wait_until(condition: Callable[[], bool]) -> None:
    ticks = threading.Event()
    for _ in range(WAIT_S * 200):
        if condition():
            return
        ticks.wait(0.005)
    raise AssertionError("waited in vain")


def as_received(block: Any) -> dict[str, Any]:
    """Return a block as the provider sent it: the SDK adds a field of its own."""
    return block.model_dump(exclude={"parsed_output"})


def charge_nusd(said: Message) -> int:
    """Return what the worker's ledger makes of an answer's usage."""
    usage, written = said.usage, said.usage.cache_creation
    assert written is not None
    counted = Usage(
        input_tokens=usage.input_tokens,
        cache_write_5m_tokens=written.ephemeral_5m_input_tokens,
        cache_write_1h_tokens=written.ephemeral_1h_input_tokens,
        cache_read_tokens=usage.cache_read_input_tokens or 0,
        output_tokens=usage.output_tokens,
    )
    return cost_nusd(price_of(said.model), counted)


# ------------------------------------------------------------------------------------ conversation


def test_parallel_calls_are_streamed_as_the_sdk_reads_them(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    with client.messages.stream(**body_of("go", {"tools": TOOLS})) as stream:
        events = [event.type for event in stream]
        streamed = stream.get_final_message()
    whole = ask_whole(client, "go", tools=TOOLS)

    assert [block.type for block in streamed.content] == ["text"] + ["tool_use"] * 3
    assert streamed.stop_reason == "tool_use"
    assert (events[0], events[-2], events[-1]) == ("message_start", "message_delta", "message_stop")
    assert events.count("content_block_start") == events.count("content_block_stop") == 4
    assert [as_received(block) for block in whole.content] == [
        as_received(block) for block in streamed.content
    ]
    assert whole.usage == streamed.usage
    assert len({streamed.id, whole.id}) == 2
    assert all("sim" in one for one in (streamed.id, str(whole._request_id)))


def test_three_turns_with_breakpoints_use_exactly_these_tokens(
    teacher: SimulatedTeacher, client: anthropic.Anthropic, clock: FakeClock
) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    system = [{"type": "text", "text": "s" * 3000, **mark}]  # 1000 tokens
    brief = {"type": "text", "text": "b" * 300, **mark}  # 100 tokens
    script(teacher, "a" * 30, "c" * 30, "d" * 30, "e" * 30)  # 10 tokens each

    def turn(*messages: dict[str, Any]) -> tuple[int, int, int, int]:
        usage = ask(client, messages=messages, system=system).usage
        return (
            usage.cache_read_input_tokens or 0,
            usage.cache_creation_input_tokens or 0,
            usage.input_tokens,
            usage.output_tokens,
        )

    one = [message("user", brief)]
    second = {"type": "text", "text": "n" * 150, **mark}  # 50 tokens
    two = [*one, message("assistant", "a" * 30), message("user", second)]
    three = [*two, message("assistant", "c" * 30), message("user", "q" * 60)]  # 10 and 20 tokens

    assert turn(*one) == (0, 1100, 0, 10)
    assert turn(*two) == (1100, 60, 0, 10)
    assert turn(*three) == (1160, 0, 30, 10)

    # Five minutes after the last read, all of it is gone.
    clock.ms += 300_000
    assert turn(*three) == (0, 1160, 30, 10)
    assert [line.amount_nano_usd for line in teacher.bill.lines()] == [
        1100 * 6250 + 10 * 25_000,
        1100 * 500 + 60 * 6250 + 10 * 25_000,
        1160 * 500 + 30 * 5000 + 10 * 25_000,
        1160 * 6250 + 30 * 5000 + 10 * 25_000,
    ]


def test_another_keys_workspace_shares_no_cache(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    system: Any = [{"type": "text", "text": "s" * 3000, "cache_control": {"type": "ephemeral"}}]
    with client_of(teacher, api_key="other-key") as other:
        reads = [ask(one, system=system).usage for one in (client, other, client, other)]

    assert [usage.cache_read_input_tokens for usage in reads] == [0, 0, 1000, 1000]


def test_an_exploration_over_the_sdk_finds_the_truth_and_every_dollar_of_it_is_billed(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    world = World(categories={"arithmetic": (8, 8), "dates": (6, 3), "spelling": (5, 0)})
    messages: list[Any] = [message("user", "Find out what is wrong.")]
    answers: list[Message] = []
    while not world.submitted:
        answers.append(ask(client, messages=messages, tools=world.tools()))
        calls = [block for block in answers[-1].content if block.type == "tool_use"]
        results: list[dict[str, Any]] = []
        for call in calls:
            text, is_error = world.answer(call.name, call.input)
            one = {"type": "tool_result", "tool_use_id": call.id, "content": text}
            results.append(one | {"is_error": is_error})
        said = [as_received(block) for block in answers[-1].content]
        messages += [message("assistant", *said), message("user", *results)]

    clusters = world.submitted[0]["clusters"]
    assert [(one["id"], one["student_failure_rate"]) for one in clusters] == [
        ("arithmetic", 1.0),
        ("dates", 0.5),
    ]
    billed = [line.amount_nano_usd for line in teacher.bill.lines()]
    assert billed == [charge_nusd(answer) for answer in answers]
    assert control(teacher, "GET", "/_sim/bill")["total_nano_usd"] == sum(billed) > 0


def test_counting_tokens_is_free_and_comes_to_what_is_charged(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    counted = client.messages.count_tokens(
        model=MODEL, messages=[{"role": "user", "content": "go"}], tools=TOOLS
    )
    said = ask_whole(client, "go", tools=TOOLS, max_tokens=10)

    assert counted.input_tokens == said.usage.input_tokens
    free, paid = teacher.bill.lines()
    assert (free.outcome, free.amount_nano_usd) == (Outcome.FREE, 0)
    assert (paid.outcome, paid.stop_reason) == (Outcome.COMPLETE, "max_tokens")


def test_max_tokens_of_zero_warms_the_cache_for_money(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    system: Any = [{"type": "text", "text": "s" * 3000, "cache_control": {"type": "ephemeral"}}]

    warm = ask_whole(client, system=system, max_tokens=0)

    assert (warm.content, warm.stop_reason, warm.usage.output_tokens) == ([], "max_tokens", 0)
    assert settled(teacher).amount_nano_usd == 1000 * 6250 + 2 * 5000
    assert ask(client, system=system).usage.cache_read_input_tokens == 1000


def test_a_prompt_that_nearly_fills_the_window_leaves_the_rest_of_it_for_the_answer(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    script(teacher, "word " * 30)

    said = ask(client, "x" * 3 * 199_990, model="claude-haiku-4-5")

    assert said.stop_reason == "model_context_window_exceeded"
    assert (said.usage.input_tokens, said.usage.output_tokens) == (199_990, 10)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("status", "error", "error_type"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (402, anthropic.PaymentRequiredError, "billing_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (413, anthropic.ContentTooLargeError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (503, anthropic.ServiceUnavailableError, "api_error"),
        (504, anthropic.GatewayTimeoutError, "timeout_error"),
        (529, anthropic.OverloadedError, "overloaded_error"),
    ],
)
def test_a_status_becomes_the_sdks_error_and_costs_nothing(
    teacher: SimulatedTeacher,
    client: anthropic.Anthropic,
    status: int,
    error: type[anthropic.APIStatusError],
    error_type: str,
) -> None:
    play(teacher, {"fault": "status", "status": status, "headers": {"retry-after": "7"}})

    with pytest.raises(error) as caught:
        ask(client)

    line = settled(teacher)
    assert (caught.value.status_code, caught.value.type) == (status, error_type)
    assert caught.value.request_id == line.request_id
    assert caught.value.response.headers["retry-after"] == "7"
    assert (line.outcome, line.http_status, line.billed) == (Outcome.ERROR, status, False)
    assert (line.amount_nano_usd, line.fault) == (0, "status")
    assert ask(client).stop_reason == "end_turn"


def test_a_coded_error_carries_its_code(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    details = {"error_code": "enforced_spend_limit_reached"}
    play(teacher, {"fault": "status", "status": 429, "details": details})

    with pytest.raises(anthropic.RateLimitError) as caught:
        ask(client)

    assert caught.value.error_code == "enforced_spend_limit_reached"


def test_a_broken_rule_is_told_through_the_sdk(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    call: Any = {"type": "tool_use", "id": "toolu_1", "name": "list_traces", "input": {}}
    turns = [message("user", "go"), message("assistant", call), message("user", "and?")]

    with pytest.raises(anthropic.BadRequestError, match="immediately after: toolu_1"):
        ask(client, messages=turns, tools=TOOLS)

    assert settled(teacher).http_status == 400


@pytest.mark.parametrize("key", ["wrong", ""])
def test_only_the_right_key_opens(teacher: SimulatedTeacher, key: str) -> None:
    with closing(HTTPConnection("127.0.0.1", teacher.port, timeout=WAIT_S)) as connection:
        connection.request("POST", "/v1/messages", b"{}", {"x-api-key": key})
        response = connection.getresponse()
        error = json.loads(response.read())["error"]

    assert (response.status, error["type"]) == (401, "authentication_error")
    assert response.headers["request-id"] == settled(teacher).request_id


def test_both_ways_to_send_a_key_are_taken(teacher: SimulatedTeacher) -> None:
    body = {"model": MODEL, "max_tokens": 9, "messages": [message("user", "hello")]}
    version = {"anthropic-version": "2023-06-01"}
    for header in (
        {"x-api-key": teacher.api_key},
        {"authorization": f"Bearer {teacher.api_key}"},
    ):
        with closing(HTTPConnection("127.0.0.1", teacher.port, timeout=WAIT_S)) as connection:
            connection.request("POST", "/v1/messages", json.dumps(body), header | version)
            response = connection.getresponse()
            response.read()
        assert response.status == 200


def test_every_answer_carries_the_providers_headers(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    raw = client.messages.with_raw_response.create(
        model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hello"}]
    )

    assert raw.headers["request-id"] == "req_sim_000001"
    assert raw.headers["anthropic-organization-id"] == "org_simulated"
    assert raw.headers["x-simulated-teacher"] == "true"
    for name in ("requests", "tokens", "input-tokens", "output-tokens"):
        limit = raw.headers[f"anthropic-ratelimit-{name}-limit"]
        assert raw.headers[f"anthropic-ratelimit-{name}-remaining"] == limit
        assert raw.headers[f"anthropic-ratelimit-{name}-reset"] == "2027-01-15T08:00:00Z"


def test_a_body_too_large_or_without_a_length_is_refused(teacher: SimulatedTeacher) -> None:
    for headers, status in (({"content-length": "32000001"}, 413), ({}, 411)):
        with closing(HTTPConnection("127.0.0.1", teacher.port, timeout=WAIT_S)) as connection:
            connection.putrequest("POST", "/v1/messages")
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            assert connection.getresponse().status == status


# ------------------------------------------------------------------------------- faults of transport

LONG = "word " * 200  # 1000 bytes: 334 tokens


def fault_case(
    teacher: SimulatedTeacher, fault: dict[str, Any], *, stream: bool, read_s: float = WAIT_S
) -> Exception | None:
    """Play a fault on one request; return what the client was told."""
    script(teacher, LONG)
    play(teacher, fault)
    with client_of(teacher, read_s=read_s) as client:
        try:
            (ask if stream else ask_whole)(client)
        except (anthropic.APIError, httpx2.HTTPError) as error:
            return error
    return None


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ({"fault": "hang_before"}, Outcome.UNANSWERED),
        ({"fault": "hang_after"}, Outcome.LOST),
        ({"fault": "reset"}, Outcome.UNANSWERED),
        ({"fault": "reset", "billed": True}, Outcome.LOST),
        ({"fault": "cut_stream"}, Outcome.CUT),
        ({"fault": "stall", "ms": 60_000}, Outcome.DISCONNECTED),
        ({"fault": "delay_ms", "ms": 60_000}, Outcome.UNANSWERED),
    ],
)
def test_a_fault_breaks_the_call_and_is_billed_for_what_was_done(
    teacher: SimulatedTeacher, fault: dict[str, Any], outcome: Outcome, stream: bool
) -> None:
    told = fault_case(teacher, fault, stream=stream, read_s=0.3)

    line = settled(teacher)
    assert told is not None
    assert line.outcome is outcome
    assert line.billed == (outcome is not Outcome.UNANSWERED)
    assert (line.amount_nano_usd > 0) == line.billed
    wait_until(lambda: control(teacher, "GET", "/_sim/bill")["open_requests"] == 0)


def test_a_stream_that_is_cut_is_billed_for_the_prompt_and_what_was_given(
    teacher: SimulatedTeacher,
) -> None:
    # message_start, content_block_start, ping, then two deltas of 48 bytes: 96 bytes, 32 tokens
    fault_case(teacher, {"fault": "cut_stream", "after_events": 5}, stream=True)

    line = settled(teacher)
    assert (line.usage.input_tokens, line.usage.output_tokens) == (2, 32)
    assert line.amount_nano_usd == 2 * 5000 + 32 * 25_000


@pytest.mark.parametrize(("after_events", "tokens"), [(0, 0), (1, 1), (4, 16)])
def test_a_client_that_gives_up_on_a_stalled_stream_pays_for_what_it_got(
    teacher: SimulatedTeacher, after_events: int, tokens: int
) -> None:
    stall = {"fault": "stall", "after_events": after_events, "ms": 60_000}
    fault_case(teacher, stall, stream=True, read_s=0.2)

    line = settled(teacher)
    assert (line.outcome, line.usage.output_tokens) == (Outcome.DISCONNECTED, tokens)


def test_an_error_inside_a_stream_is_told_as_an_event(teacher: SimulatedTeacher) -> None:
    told = fault_case(teacher, {"fault": "stream_error", "after_events": 4}, stream=True)

    assert isinstance(told, anthropic.APIStatusError)
    assert told.type == "overloaded_error"
    assert settled(teacher).outcome is Outcome.CUT


def test_a_stall_that_the_client_sits_out_changes_nothing(teacher: SimulatedTeacher) -> None:
    for stream in (True, False):
        assert fault_case(teacher, {"fault": "stall", "ms": 50}, stream=stream) is None

    assert {line.outcome for line in teacher.bill.lines()} == {Outcome.COMPLETE}


@pytest.mark.parametrize(
    ("fault", "outcome", "tokens"),
    [
        ({"stop_reason": "refusal", "empty": True}, Outcome.REFUSED, 0),
        ({"stop_reason": "refusal"}, Outcome.COMPLETE, 334),
        ({"stop_reason": "pause_turn"}, Outcome.COMPLETE, 334),
        ({"stop_reason": "max_tokens"}, Outcome.COMPLETE, 334),
        ({"stop_reason": "model_context_window_exceeded"}, Outcome.COMPLETE, 334),
        ({"stop_reason": None}, Outcome.COMPLETE, 334),
    ],
)
def test_an_answer_may_stop_for_any_reason(
    teacher: SimulatedTeacher,
    client: anthropic.Anthropic,
    fault: dict[str, Any],
    outcome: Outcome,
    tokens: int,
) -> None:
    script(teacher, LONG)
    play(teacher, {"fault": "stop_reason", **fault})

    said = ask(client)

    line = settled(teacher)
    assert said.stop_reason == fault["stop_reason"] == line.stop_reason
    assert (line.outcome, line.usage.output_tokens) == (outcome, tokens)
    assert (line.amount_nano_usd == 0) == (outcome is Outcome.REFUSED)


def test_an_empty_answer_costs_a_token(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    play(teacher, {"fault": "empty_content"})

    said = ask(client)

    assert (said.content, said.stop_reason, said.usage.output_tokens) == ([], "end_turn", 1)


def test_a_client_that_leaves_in_mid_stream_is_billed_so_far() -> None:
    with SimulatedTeacher(pace=Pace(event_ms=5)) as teacher, client_of(teacher) as client:
        script(teacher, LONG)
        with client.messages.stream(**body_of("hello", {})) as stream:
            for number, _ in enumerate(stream):
                if number == 8:
                    break

        line = settled(teacher)
        assert line.outcome is Outcome.DISCONNECTED
        assert 0 < line.usage.output_tokens < 334
        assert line.amount_nano_usd == 2 * 5000 + line.usage.output_tokens * 25_000
        assert teacher.desk.crashes == []


def test_the_answer_is_on_the_bill_before_the_client_knows_that_it_is_complete(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    for number in range(1, 30):
        ask(client)
        assert len(teacher.bill.lines()) == number


# -------------------------------------------------------------------------------------- many at once


def test_fifty_streams_at_once_are_served_side_by_side() -> None:
    streams = 50
    together = threading.Barrier(streams)

    def one(number: int) -> Message:
        together.wait(WAIT_S)
        return ask(client, f"stream {number}", metadata={"user_id": f"user-{number}"})

    with SimulatedTeacher(pace=Pace(first_ms=1_500)) as teacher, client_of(teacher) as client:
        with ThreadPoolExecutor(streams) as pool:
            answers = list(pool.map(one, range(streams)))
        lines = teacher.bill.lines()
        crashes = teacher.desk.crashes

    assert crashes == []
    assert {line.user_id for line in lines} == {f"user-{number}" for number in range(streams)}
    assert {answer.id for answer in answers} == {line.message_id for line in lines}
    assert sum(map(charge_nusd, answers)) == sum(line.amount_nano_usd for line in lines)
    # Side by side: every one of them had begun before the first one ended.
    assert max(line.received_ms for line in lines) < min(line.ended_ms for line in lines)


def test_one_connection_serves_many_requests(teacher: SimulatedTeacher) -> None:
    with closing(HTTPConnection("127.0.0.1", teacher.port, timeout=WAIT_S)) as connection:
        for _ in range(3):
            connection.request("GET", "/health")
            response = connection.getresponse()
            assert json.loads(response.read())["simulated"] is True
            assert connection.sock is not None


# ------------------------------------------------------------------------------------------ control


def test_a_script_that_runs_out_is_a_500_that_a_test_can_see(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    script(teacher, "one")
    assert ask(client).content[0].to_dict()["text"] == "one"

    with pytest.raises(anthropic.InternalServerError, match="The script ran out"):
        ask(client)

    assert control(teacher, "GET", "/_sim/script_overrun") == {"left": 0, "overruns": 1}


def test_the_log_holds_whole_bodies_and_never_the_key(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    ask(client, "a secret of mine")

    log = control(teacher, "GET", "/_sim/log")

    (logged,) = log["requests"]
    assert json.loads(logged["body"])["messages"][0]["content"][0]["text"] == "a secret of mine"
    assert teacher.api_key not in json.dumps(log)
    assert log["crashes"] == []


def test_a_reset_forgets_what_it_is_told_to_and_numbers_go_on(
    teacher: SimulatedTeacher, client: anthropic.Anthropic
) -> None:
    play(teacher, {"fault": "reset", "match": {"kind": "judge"}})
    ask(client)

    assert control(teacher, "POST", "/_sim/reset", {"only": ["bill"]}) == {"forgot": ["bill"]}
    assert teacher.bill.lines() == ()
    assert len(control(teacher, "GET", "/_sim/faults")["faults"]) == 1
    control(teacher, "POST", "/_sim/reset")
    assert control(teacher, "GET", "/_sim/faults")["faults"] == []
    assert control(teacher, "GET", "/_sim/log")["requests"] == []
    ask(client)
    assert settled(teacher).sequence_no == 2


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("GET", "/_sim/bil", None, "GET /_sim/bil is not an endpoint; there are: GET /health"),
        ("POST", "/_sim/reset", {"only": ["money"]}, "unknown ['money']"),
        ("POST", "/_sim/faults", [], "it must be an object"),
        ("POST", "/_sim/script", {"replies": []}, "replies: List should have at least 1 item"),
    ],
)
def test_a_wrong_word_to_the_simulator_is_told(
    teacher: SimulatedTeacher, method: str, path: str, body: object, said: str
) -> None:
    assert said in control(teacher, method, path, body)["error"]["message"]


# -------------------------------------------------------------------------------------------- ending


def test_stopping_cuts_open_streams_bills_them_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    teacher = SimulatedTeacher(pace=Pace(event_ms=20))
    teacher.start()
    with client_of(teacher) as client, ThreadPoolExecutor(1) as pool:
        script(teacher, LONG)
        asked = pool.submit(ask, client)
        wait_until(lambda: teacher.desk.open_requests == 1)
        teacher.stop()
        told = asked.exception(WAIT_S)

    assert isinstance(told, anthropic.APIError | httpx2.HTTPError)
    assert [line.outcome for line in teacher.bill.lines()] == [Outcome.DISCONNECTED]
    assert set(threading.enumerate()) <= before
    teacher.stop()


@contextmanager
def killed_at_the_end(process: psutil.Process) -> Generator[None]:
    """Leave no process behind, also when the test fails."""
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()


COMMAND = [sys.executable, "-m", "worker.embedded.teacher"]


def test_as_a_process_it_says_when_it_is_ready_and_ends_on_sigterm(tmp_path: Path) -> None:
    key, bill = tmp_path / "key.json", tmp_path / "bill.jsonl"
    key.write_text(json.dumps([{"query": "What is 2+2?", "answer": "4"}]), encoding="utf-8")
    command = [*COMMAND, "--answer-key", str(key), "--bill", str(bill)]
    environment = {**os.environ, "SIMULATED_TEACHER_API_KEY": "from-outside"}

    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
        killed_at_the_end(psutil.Process(process.pid)),
    ):
        assert process.stdout is not None
        ready, _, url = process.stdout.readline().strip().partition(" ")
        with anthropic.Anthropic(base_url=url, api_key="from-outside", max_retries=0) as client:
            said = ask(client, "What is 2+2?")
        process.send_signal(signal.SIGTERM)
        status = process.wait(WAIT_S)

    (line,) = bill.read_text(encoding="utf-8").splitlines()
    assert (ready, status) == ("ready", 0)
    assert said.content[0].to_dict()["text"] == "4"
    assert json.loads(line)["amount_nano_usd"] == charge_nusd(said)


def test_it_ends_with_its_parent_when_told_to() -> None:
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({[*COMMAND, '--die-with-parent']!r}, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )

    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
        process.wait(WAIT_S)

    with killed_at_the_end(child):
        child.wait(WAIT_S)
        assert not child.is_running()


def test_a_wrong_key_file_is_told_and_nothing_starts(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text("{}", encoding="utf-8")

    ended = subprocess.run(
        [*COMMAND, "--answer-key", str(path)], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 2
    assert "cannot start the simulated teacher: the key" in ended.stderr
