"""Requests are read and refused as the provider does it, with a message that names the place."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.embedded.sim_world import message, request, tool
from worker.embedded.teacher.api_error import ApiError
from worker.embedded.teacher.rules import accepted, signature_of
from worker.embedded.teacher.wire import (
    MessagesRequest,
    PromptRequest,
    Text,
    ToolResult,
    read_json,
    read_shape,
)

CALL: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
CALL_2: dict[str, Any] = {**CALL, "id": "toolu_2"}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen"}
RESULT_2 = {**RESULT, "tool_use_id": "toolu_2"}
TOOLS = [tool("look")]


def cached(text: str, ttl: str | None = None) -> dict[str, Any]:
    control = {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})
    return {"type": "text", "text": text, "cache_control": control}


def refusal(**fields: Any) -> ApiError:
    """Return the error of a request that is right but for `fields`."""
    body = {"model": "claude-opus-5", "max_tokens": 10, "messages": [message("user", "hi")]}
    with pytest.raises(ApiError) as caught:
        accepted(read_shape(MessagesRequest, body | fields))
    return caught.value


def refused_turns(*turns: dict[str, Any], tools: list[dict[str, Any]] = TOOLS) -> str:
    error = refusal(messages=list(turns), tools=tools)
    assert error.status == 400
    return str(error)


#: A request that is wrong in one place, and what is said about it.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": "10"}, "max_tokens: Input should be a valid integer"),
    ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
    ({"max_tokens": 128_001}, "max_tokens: 128001 > 128000, which is the maximum allowed"),
    ({"messages": None}, "messages: Input should be a valid list"),
    ({"messages": []}, "messages: at least one message is required"),
    ({"messages": [message("user")]}, "messages.0: all messages must have non-empty content"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages.0: all messages must have"),
    ({"messages": [message("user", "")]}, "messages.0.content.0: text content blocks must be"),
    ({"messages": [message("user", " \n")]}, "must contain non-whitespace text"),
    ({"messages": [message("system", "hi")]}, "messages.0.role: Input should be 'user' or"),
    ({"messages": [message("assistant", "hi")]}, 'first message must use the "user" role'),
    (
        {"messages": [message("user", "hi"), message("assistant", "I")]},
        "does not support assistant message prefill",
    ),
    (
        {"messages": [message("user", {"type": "text", "text": "a", "parsed_output": 1})]},
        "messages.0.content.0.text.parsed_output: Extra inputs are not permitted",
    ),
    (
        {"messages": [message("user", {"type": "image", "source": {}})]},
        "messages.0.content.0: Input tag 'image' found using 'type' does not match",
    ),
    ({"messages": [message("user", CALL)]}, "`tool_use` blocks can only be in `assistant`"),
    ({"temperatur": 1}, "temperatur: Extra inputs are not permitted"),
    ({"tools": [tool("look"), tool("look")]}, "tools: Tool names must be unique"),
    ({"tools": [tool("look at")]}, "tools.0.name: String should match pattern"),
    ({"tools": [{"name": "look", "input_schema": {}}]}, "input_schema.type: Input should be"),
    ({"tool_choice": {"type": "auto"}}, "may only be specified while providing tools"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "run"}},
        "Tool 'run' not found in provided tools",
    ),
    (
        {"tools": TOOLS, "tool_choice": {"type": "any"}, "model": "claude-opus-5-5"},
        "tool_choice: 'any' is not supported by claude-opus-5-5",
    ),
    (
        {"model": "claude-haiku-4-5", "messages": [message("user", "x" * 600_001)]},
        "prompt is too long: 200001 tokens > 200000 maximum",
    ),
]


@pytest.mark.parametrize(("fields", "said"), BAD)
def test_a_bad_request_is_refused_at_its_place(fields: dict[str, Any], said: str) -> None:
    error = refusal(**fields)

    assert (error.status, error.error_type) == (400, "invalid_request_error")
    assert said in str(error)


def test_an_unknown_model_is_not_found() -> None:
    error = refusal(model="claude-2")

    assert (error.status, error.error_type, str(error)) == (
        404,
        "not_found_error",
        "model: claude-2",
    )


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"a": NaN}', b'{"a": "\\ud800"}', b"\xff"])
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="The request body is not valid JSON"):
        read_json(body)


WORDS = st.sampled_from(
    ["", "text", "user", "assistant", "tool_use", "tool_result", "thinking", "claude-opus-5", "5m"]
)
KEYS = st.sampled_from(
    [
        "type",
        "text",
        "role",
        "content",
        "id",
        "tool_use_id",
        "input",
        "name",
        "cache_control",
        "ttl",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    with suppress(ApiError):
        accepted(read_shape(MessagesRequest, read_json(body)))


@given(st.lists(JSON, max_size=3), JSON, st.lists(JSON, max_size=2))
def test_no_json_does_more_than_be_refused(messages: object, system: object, tools: object) -> None:
    body = {"model": "claude-opus-5", "max_tokens": 1, "messages": messages}
    for fields in (body, body | {"system": system}, body | {"tools": tools}):
        with suppress(ApiError):
            accepted(read_shape(MessagesRequest, fields))


def test_an_error_has_the_providers_shape() -> None:
    error = ApiError(429, "slow down", headers={"retry-after": "3"}, details={"error_code": "x"})

    assert error.body("req_1") == {
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "slow down",
            "details": {"error_code": "x"},
        },
        "request_id": "req_1",
    }


# --------------------------------------------------------------------------- calls and results


def test_every_result_in_the_next_message_before_text_is_right() -> None:
    turns = [message("user", "go"), message("assistant", "let me see", CALL, CALL_2)]

    taken = request(*turns, message("user", RESULT_2, RESULT, "and?"), tools=TOOLS)

    results = [block for block in taken.messages[-1].content if isinstance(block, ToolResult)]
    assert [(one.tool_use_id, one.text) for one in results] == [
        ("toolu_2", "seen"),
        ("toolu_1", "seen"),
    ]


def test_a_call_without_its_result_is_refused() -> None:
    turns = (message("user", "go"), message("assistant", CALL, CALL_2), message("user", RESULT))

    assert (
        "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: "
        "toolu_2."
    ) in refused_turns(*turns)


def test_results_spread_over_two_messages_are_refused() -> None:
    turns = (message("user", "go"), message("assistant", CALL, CALL_2))

    said = refused_turns(*turns, message("user", RESULT), message("user", RESULT_2))

    assert "messages.3.content.0: unexpected `tool_use_id`" in said


def test_text_before_a_result_is_refused() -> None:
    turns = (message("user", "go"), message("assistant", CALL), message("user", "so", RESULT))

    assert "immediately after: toolu_1" in refused_turns(*turns)


def test_a_result_nobody_asked_for_is_refused() -> None:
    turns = (message("user", "go"), message("assistant", CALL), message("user", RESULT, RESULT_2))

    assert (
        "messages.2.content.1: unexpected `tool_use_id` found in `tool_result` blocks: toolu_2. "
        "Each `tool_result` block must have a corresponding `tool_use` block in the previous"
    ) in refused_turns(*turns)


def test_two_results_for_one_call_are_refused() -> None:
    turns = (message("user", "go"), message("assistant", CALL), message("user", RESULT, RESULT))

    assert "each tool_use must have a single result" in refused_turns(*turns)


def test_a_late_result_is_refused() -> None:
    turns = (
        message("user", "go"),
        message("assistant", CALL),
        message("user", "wait"),
        message("assistant", "ok"),
        message("user", RESULT),
    )

    assert "messages.4.content.0: unexpected `tool_use_id`" in refused_turns(*turns)


def test_tool_blocks_need_tools() -> None:
    turns = (message("user", "go"), message("assistant", CALL), message("user", RESULT))

    assert "must define `tools`" in refused_turns(*turns, tools=[])


def test_neighbouring_messages_of_one_role_are_merged() -> None:
    taken = request("one", "two", message("assistant", "three"), "four")

    said = [
        [block.text for block in one.content if isinstance(block, Text)] for one in taken.messages
    ]
    assert said == [["one", "two"], ["three"], ["four"]]


def test_changed_thinking_is_refused() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": signature_of("hm")}
    request("go", message("assistant", thought, "so"), "and?")
    changed = message("assistant", {**thought, "thinking": "ha"}, "so")

    said = refused_turns(message("user", "go"), changed, message("user", "and?"))

    assert "messages.1.content.0: Invalid `signature` in `thinking` block" in said


# ----------------------------------------------------------------------------- cache breakpoints


def test_four_breakpoints_are_right_and_a_fifth_is_not() -> None:
    four = [cached(f"part {number}") for number in range(4)]
    request(message("user", *four))

    assert "A maximum of 4 blocks with cache_control may be provided. Found 5." in str(
        refusal(messages=[message("user", *four, cached("five"))])
    )


def test_the_automatic_breakpoint_takes_one_of_the_four() -> None:
    four = [cached(f"part {number}") for number in range(4)]
    automatic = {"cache_control": {"type": "ephemeral"}}
    # On a block that has one already it is the same breakpoint.
    request(message("user", *four), **automatic)

    assert "Found 5." in str(refusal(messages=[message("user", *four, "last")], **automatic))


@pytest.mark.parametrize(
    ("system", "user", "right"),
    [("1h", "5m", True), ("1h", None, True), ("5m", "1h", False), (None, "1h", False)],
)
def test_an_hours_breakpoint_stands_before_those_of_five_minutes(
    system: str | None, user: str | None, right: bool
) -> None:
    body: dict[str, Any] = {
        "system": [cached("be kind", system)],
        "messages": [message("user", cached("hi", user))],
    }
    if right:
        request(*body["messages"], system=body["system"])
    else:
        assert str(refusal(**body)).startswith(
            "messages.0.content.0.cache_control.ttl: a ttl='1h' cache_control block must not come "
            "after a ttl='5m'"
        )


def test_what_an_answer_holds_may_be_echoed_as_the_sdk_writes_it() -> None:
    echoed: list[dict[str, Any]] = [
        {"type": "text", "text": "I look.", "citations": None},
        {**CALL, "caller": None, "toolset_name": None},
    ]

    request("go", message("assistant", *echoed), message("user", RESULT), tools=TOOLS)


def test_counting_takes_no_max_tokens() -> None:
    with pytest.raises(ApiError, match="max_tokens: Extra inputs are not permitted"):
        read_shape(PromptRequest, json.loads('{"model": "m", "messages": [], "max_tokens": 1}'))
