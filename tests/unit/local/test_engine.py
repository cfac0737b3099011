"""Engines of every kind: what they are given, and what is made of whatever they answer."""

from __future__ import annotations

import enum
import json
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock  # noqa: TID251 - users of the reference do bring such engines

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.local.user_code import asks, says
from worker.core.teaching import TeacherRequest
from worker.errors import TeacherFault
from worker.local.engine import EngineTeacher
from worker.local.engine_replies import cost_nusd_of, read_reply
from worker.local.engine_types import messages_of, tools_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.teaching import TeacherReply


def reply_to(answer: object) -> TeacherReply:
    return read_reply(answer, model="m", call_number=7, latency_ms=5)


def calls_in(answer: object) -> list[dict[str, Any]]:
    return [block for block in reply_to(answer).content if block["type"] == "tool_use"]


# ---------------------------------------------------------------------------------------- answers


def _as_object(fields: dict[str, object]) -> SimpleNamespace:
    return SimpleNamespace(**fields)


_ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.builds(object)
    | st.builds(MagicMock)
    | st.just(b"\xff")
    | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.builds(_as_object, st.dictionaries(st.text(max_size=5), inner))
    ),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    ["content", "tool_calls", "usage", "cost_usd", "finish_reason", "model", "total_tokens"]
)
_CALL = st.dictionaries(
    st.sampled_from(["id", "name", "arguments", "function", "input"]), _ODD, max_size=4
)
_ANSWERS = (
    _ODD
    | st.dictionaries(_FIELDS, _ODD | st.lists(_CALL, max_size=4))
    | st.builds(_as_object, st.dictionaries(_FIELDS, _ODD | st.lists(_CALL, max_size=4)))
)


@given(answer=_ANSWERS)
def test_every_answer_can_be_read_stored_and_sent_back(answer: object) -> None:
    reply = reply_to(answer)

    json.dumps(reply.content, allow_nan=False).encode()
    json.dumps(reply.content, ensure_ascii=False).encode()
    ids = [block["id"] for block in reply.content if block["type"] == "tool_use"]
    assert len(set(ids)) == len(ids)
    assert all(ids)
    assert reply.usage.input_tokens >= 0
    assert reply.usage.output_tokens >= 0
    cost = cost_nusd_of(answer)
    assert cost is None or cost >= 0
    history = [{"role": "assistant", "content": reply.content}]
    request = TeacherRequest(model="m", max_tokens=1, system=[], messages=history)
    assert [message.role for message in messages_of(request)] == ["assistant"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hello", "Hello"),
        (None, None),
        ("", None),
        (" \n", None),
        ([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}], "Hello"),
        ([SimpleNamespace(text="Hel"), "lo"], "Hello"),
        ("half \ud83d pair", "half \ufffd pair"),
        (b"bytes", "bytes"),
    ],
)
def test_text_is_read_from_whatever_it_comes_in(content: object, text: str | None) -> None:
    blocks = reply_to(says(content)).content

    assert blocks == ([] if text is None else [{"type": "text", "text": text}])


def test_an_answer_that_is_text_or_an_object_is_read_as_well() -> None:
    assert reply_to("Hello").content == [{"type": "text", "text": "Hello"}]
    answer = SimpleNamespace(content="Hello", tool_calls=None, finish_reason="length")
    assert reply_to(answer).stop_reason == "max_tokens"
    assert reply_to("half \ud83d").content == [{"type": "text", "text": "half \ufffd"}]
    assert reply_to(None).content == []


@pytest.mark.parametrize(
    ("given_arguments", "meant"),
    [
        ('{"limit": 5}', {"limit": 5}),
        ({"limit": 5}, {"limit": 5}),
        (None, {}),
        ("", {}),
        ("null", {}),
        ("  ", {}),
        ('{"limit": ', '{"limit": '),
        ("[" * 100_000, "[" * 100_000),
        ({"limit": float("nan")}, {"limit": None}),
        ({1: {"a"}}, {"1": ["a"]}),
        (b'{"limit": 5}', {"limit": 5}),
    ],
)
def test_arguments_are_read_as_they_were_meant(given_arguments: object, meant: object) -> None:
    call = {"id": "c", "name": "list_traces", "arguments": given_arguments}

    assert calls_in({"tool_calls": [call]})[0]["input"] == meant


def test_arguments_that_hold_themselves_are_read() -> None:
    around: dict[str, Any] = {}
    around["again"] = [around, around]

    (call,) = calls_in({"tool_calls": [{"id": "c", "name": "x", "arguments": around}]})

    assert call["input"] == {"again": ["<class 'dict'>", "<class 'dict'>"]}


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c", "name": "get_trace", "arguments": '{"trace_id": "t"}'},
        {"id": "c", "function": {"name": "get_trace", "arguments": '{"trace_id": "t"}'}},
        {"id": "c", "name": "get_trace", "input": {"trace_id": "t"}},
        SimpleNamespace(id="c", name="get_trace", arguments='{"trace_id": "t"}'),
        SimpleNamespace(
            id="c", function=SimpleNamespace(name="get_trace", arguments={"trace_id": "t"})
        ),
    ],
)
def test_calls_come_in_the_shapes_of_every_provider(call: object) -> None:
    read = {"type": "tool_use", "id": "c", "name": "get_trace", "input": {"trace_id": "t"}}

    assert calls_in({"tool_calls": [call]}) == [read]
    assert calls_in({"tool_calls": (one for one in [call])}) == [read]


def test_a_single_call_need_not_stand_in_a_list() -> None:
    assert calls_in({"tool_calls": {"id": "c", "name": "x"}})[0]["name"] == "x"


def test_ids_that_are_missing_or_taken_are_made() -> None:
    names = ["a", "b", "c", "d", "e"]
    ids = ["x", "x", None, "", "x-1"]
    calls = [{"id": one, "name": name} for one, name in zip(ids, names, strict=True)]

    made = [call["id"] for call in calls_in({"tool_calls": calls})]

    assert made == ["x", "x-1", "call-7-2", "call-7-3", "x-1-4"]


class _Finish(enum.Enum):
    MAX_TOKENS = 2
    SAFETY = "safety_reason"


@pytest.mark.parametrize(
    ("finish", "stop_reason"),
    [
        (None, "end_turn"),
        ("stop", "end_turn"),
        ("STOP", "end_turn"),
        ("end_turn", "end_turn"),
        ("stop_sequence", "end_turn"),
        ("tool_calls", "end_turn"),
        ("length", "max_tokens"),
        ("max_tokens", "max_tokens"),
        ("MAX_TOKENS", "max_tokens"),
        ("FinishReason.MAX_TOKENS", "max_tokens"),
        (_Finish.MAX_TOKENS, "max_tokens"),
        (_Finish.SAFETY, "refusal"),
        ("content_filter", "refusal"),
        ("content-filter", "refusal"),
        ("refusal", "refusal"),
        ("model_context_window_exceeded", "model_context_window_exceeded"),
        (17, "end_turn"),
    ],
)
def test_ends_are_read_in_every_spelling(finish: object, stop_reason: str) -> None:
    assert reply_to(says("Hello", finish_reason=finish)).stop_reason == stop_reason


def test_calls_go_on_whatever_the_end_is_called() -> None:
    assert reply_to(asks(("x", {}), finish_reason="stop")).stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2}, (10, 2)),
        ({"input_tokens": 10, "output_tokens": 2}, (10, 2)),
        ({"total_tokens": 12}, (0, 12)),
        (SimpleNamespace(prompt_tokens=10, completion_tokens=2), (10, 2)),
        ({"prompt_tokens": None, "completion_tokens": -3}, (0, 0)),
        ({"prompt_tokens": "many"}, (0, 0)),
        (None, (0, 0)),
    ],
)
def test_usage_is_read_or_zero(usage: object, tokens: tuple[int, int]) -> None:
    read = reply_to(says("Hello", usage=usage)).usage

    assert (read.input_tokens, read.output_tokens) == tokens


@pytest.mark.parametrize(
    ("cost_usd", "nusd"),
    [
        (0.25, 250_000_000),
        (0, 0),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (-1.0, None),
        ("0.25", None),
        (True, None),
        (2_000_000.0, None),
    ],
)
def test_a_cost_that_is_no_amount_is_not_known(cost_usd: object, nusd: int | None) -> None:
    assert cost_nusd_of(says("Hello", cost_usd=cost_usd)) == nusd
    assert cost_nusd_of({"content": "Hello"}) is None


# ---------------------------------------------------------------------------------------- requests


def _conversation() -> TeacherRequest:
    use = {"type": "tool_use", "id": "c", "name": "get_trace", "input": {"trace_id": "t"}}
    odd = {"type": "tool_use", "id": "d", "name": "list_traces", "input": '{"limit": '}
    result = {"type": "tool_result", "tool_use_id": "c", "content": "found"}
    refused = {"type": "tool_result", "tool_use_id": "d", "content": "bad", "is_error": True}
    return TeacherRequest(
        model="m",
        max_tokens=99,
        system=[{"type": "text", "text": "Be brief"}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Look"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "I look"}, use, odd]},
            {"role": "user", "content": [result, refused]},
        ],
        tools=[{"name": "get_trace", "description": "One", "input_schema": {"type": "object"}}],
    )


def test_messages_are_those_of_the_reference() -> None:
    system, user, assistant, found, refused = messages_of(_conversation())

    assert [one.role.value for one in (system, user, assistant, found)] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]
    assert (system.content, user.content, assistant.text) == ("Be brief", "Look", "I look")
    assert [call.arguments for call in assistant.tool_calls] == ['{"trace_id": "t"}', '{"limit": ']
    assert (found.content, found.tool_call_id, found.name) == ("found", "c", "get_trace")
    assert (refused.tool_call_id, refused.name) == ("d", "list_traces")


def test_tools_are_openai_functions() -> None:
    (tool,) = tools_of(_conversation())

    function = {"name": "get_trace", "description": "One", "parameters": {"type": "object"}}
    assert tool == {"type": "function", "function": function}


def test_an_engine_is_called_by_name_and_without_tools_where_there_are_none() -> None:
    engine = MagicMock()
    engine.generate.return_value = says("Hello")
    request = TeacherRequest(model="m", max_tokens=9, system=[], messages=[])

    EngineTeacher(engine, str).generate(request)

    engine.generate.assert_called_once_with(messages=[], model="m", max_tokens=9)


# ---------------------------------------------------------------------------------------- failures


class _Engine:
    def __init__(self, behave: Callable[[], object]) -> None:
        self._behave = behave

    def generate(self, **arguments: object) -> object:
        del arguments
        return self._behave()


class _StatusError(Exception):
    def __init__(self, status: int, *, nested: bool = False) -> None:
        super().__init__(f"status {status}")
        if nested:
            self.response = SimpleNamespace(status_code=status)
        else:
            self.status_code = status


_REQUEST = TeacherRequest(model="m", max_tokens=9, system=[], messages=[])


def _fault_of(exc: Exception) -> TeacherFault:
    def raises() -> object:
        raise exc

    with pytest.raises(TeacherFault) as caught:
        EngineTeacher(_Engine(raises), str).generate(_REQUEST)
    return caught.value


@pytest.mark.parametrize(
    ("exc", "billing", "retry"),
    [
        (RuntimeError("boom"), "unknown", "later"),
        (StopIteration(), "unknown", "later"),
        (TimeoutError(), "unknown", "later"),
        (ConnectionRefusedError(), "unbilled", "later"),
        (socket.gaierror(), "unbilled", "later"),
        (ModuleNotFoundError("anthropic"), "unbilled", "later"),
        (RuntimeError("Anthropic client not available - set a key"), "unbilled", "later"),
        (_StatusError(401), "unbilled", "stop"),
        (_StatusError(400), "unbilled", "never"),
        (_StatusError(429, nested=True), "unbilled", "later"),
        (_StatusError(500), "unknown", "later"),
    ],
)
def test_an_exception_says_what_it_can(exc: Exception, billing: str, retry: str) -> None:
    fault = _fault_of(exc)

    assert (fault.billing, fault.retry) == (billing, retry)
    assert type(exc).__name__ in fault.message


def test_the_cause_of_an_exception_counts() -> None:
    exc = RuntimeError("no answer")
    exc.__cause__ = ConnectionRefusedError()

    assert _fault_of(exc).billing == "unbilled"


def test_only_the_first_failure_in_a_row_is_tried_again() -> None:
    script = [RuntimeError("1"), RuntimeError("2"), says("fine"), RuntimeError("3")]

    def behave() -> object:
        line = script.pop(0)
        if isinstance(line, Exception):
            raise line
        return line

    teacher = EngineTeacher(_Engine(behave), str)
    retries: list[str] = []
    for _ in range(4):
        try:
            teacher.generate(_REQUEST)
        except TeacherFault as fault:
            retries.append(fault.retry)

    assert retries == ["later", "never", "later"]


def test_what_an_exception_says_is_redacted() -> None:
    def raises() -> object:
        raise RuntimeError("GET /v1?key=abc")

    teacher = EngineTeacher(_Engine(raises), lambda words: words.replace("abc", "[redacted]"))

    with pytest.raises(TeacherFault, match=r"key=\[redacted\]"):
        teacher.generate(_REQUEST)
