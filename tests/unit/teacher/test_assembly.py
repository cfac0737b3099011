from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.values import Usage
from worker.teacher.assembly import (
    INVALID_JSON,
    Assembly,
    BrokenReply,
    ProviderError,
    event_of,
)

START_USAGE: dict[str, Any] = {
    "input_tokens": 3,
    "cache_creation_input_tokens": 700,
    "cache_read_input_tokens": 50,
    "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 400},
    "output_tokens": 1,
    "service_tier": "standard",
}
END: list[dict[str, Any]] = [
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 20},
    },
    {"type": "message_stop"},
]


def start(usage: dict[str, Any] | None = None) -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": "msg_1",
        "model": "m",
        "content": [],
        "usage": usage or START_USAGE,
    }
    return {"type": "message_start", "message": message}


def block(index: int, body: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    changes = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    begin = {"type": "content_block_start", "index": index, "content_block": body}
    return [begin, *changes, {"type": "content_block_stop", "index": index}]


def feed_all(reply: Assembly, events: list[dict[str, Any]]) -> None:
    for event in events:
        reply.feed(event)


def assembled(*blocks: list[dict[str, Any]]) -> Assembly:
    reply = Assembly(cache_ttl="5m")
    feed_all(reply, [start(), *(event for events in blocks for event in events), *END])
    assert reply.done
    return reply


def tool(*pieces: str) -> list[dict[str, Any]]:
    body: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "t", "input": {}}
    return block(0, body, *({"type": "input_json_delta", "partial_json": p} for p in pieces))


# --------------------------------------------------------------------------------- what comes out


def pieces_of(text: str) -> st.SearchStrategy[list[str]]:
    """Cut a text anywhere."""
    cuts = st.lists(st.integers(0, len(text)), max_size=5).map(sorted)
    return cuts.map(lambda at: [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(data=st.data(), arguments=st.dictionaries(st.text(max_size=8), json_values, max_size=4))
def test_tool_arguments_come_out_as_they_went_in(
    data: st.DataObject, arguments: dict[str, Any]
) -> None:
    text = json.dumps(arguments, ensure_ascii=data.draw(st.booleans()))
    pieces = data.draw(pieces_of(text))

    (found,) = assembled(tool(*pieces)).content

    assert json.dumps(found["input"]) == json.dumps(arguments)
    assert list(found) == ["type", "id", "name", "input"]


@given(data=st.data(), text=st.text(max_size=40))
def test_text_comes_out_as_it_went_in_however_it_was_cut(data: st.DataObject, text: str) -> None:
    deltas = [{"type": "text_delta", "text": piece} for piece in data.draw(pieces_of(text))]

    reply = assembled(block(0, {"type": "text", "text": "", "citations": None}, *deltas))

    assert reply.content == [{"type": "text", "text": text, "citations": None}]


def test_every_kind_of_block_keeps_exactly_its_keys() -> None:
    unknown = {"type": "from_the_future", "payload": {"a": [1, None]}, "note": "x"}
    redacted = {"type": "redacted_thinking", "data": "opaque=="}
    cited = {"type": "char_location", "cited_text": "q", "document_index": 0}

    reply = assembled(
        block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "hm"},
            {"type": "thinking_delta", "thinking": ", yes"},
            {"type": "signature_delta", "signature": "sig=="},
        ),
        block(1, redacted),
        block(2, unknown),
        block(
            3,
            {"type": "text", "text": "", "citations": []},
            {"type": "text_delta", "text": "said"},
            {"type": "citations_delta", "citation": cited},
        ),
        block(4, {"type": "server_tool_use", "id": "s", "name": "w", "input": {}}),
        block(5, {"type": "thinking", "thinking": "", "signature": ""}),
        block(
            6,
            {"type": "later_kind", "words": "", "n": 0},
            {"type": "later_delta", "words": "a", "n": 1},
            {"type": "later_delta", "words": "b", "n": 2},
        ),
    )

    assert reply.content == [
        {"type": "thinking", "thinking": "hm, yes", "signature": "sig=="},
        redacted,
        unknown,
        {"type": "text", "text": "said", "citations": [cited]},
        {"type": "server_tool_use", "id": "s", "name": "w", "input": {}},
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "later_kind", "words": "ab", "n": 2},
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": Infinity}',
        "[1]",
        '"text"',
        "null",
        "}",
        "[" * 50_000,
        '{"a":' * 200 + "1" + "}" * 200,
        '{"a": ' + "9" * 5_000 + "}",
    ],
)
def test_arguments_that_are_no_object_go_back_as_raw_text(text: str) -> None:
    (found,) = assembled(tool(text)).content

    assert found["input"] == {INVALID_JSON: text}


def test_half_of_a_surrogate_pair_can_still_be_sent_back() -> None:
    event = event_of(
        r'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\ud83d"}}'
    )
    rest = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}}

    reply = assembled([*block(0, {"type": "text", "text": ""}), event, rest])

    assert reply.content == [{"type": "text", "text": "a\ufffdb"}]


def test_a_surrogate_pair_cut_in_two_comes_together() -> None:
    halves = [{"type": "text_delta", "text": half} for half in ("\ud83d", "\ude00")]

    reply = assembled(block(0, {"type": "text", "text": ""}, *halves))

    assert reply.content == [{"type": "text", "text": "\U0001f600"}]


# -------------------------------------------------------------------------------------- the counts


def test_usage_is_exact_and_the_last_word_counts() -> None:
    reply = Assembly(cache_ttl="5m")

    assert reply.feed(start()) == "started"
    assert reply.usage == Usage(
        input_tokens=3,
        cache_write_5m_tokens=300,
        cache_write_1h_tokens=400,
        cache_read_tokens=50,
        output_tokens=1,
    )
    later: dict[str, Any] = {
        "input_tokens": None,
        "output_tokens": 20,
        "cache_read_input_tokens": 60,
    }
    assert reply.feed({"type": "message_delta", "delta": {}, "usage": later}) is None
    assert reply.usage == Usage(
        input_tokens=3,
        cache_write_5m_tokens=300,
        cache_write_1h_tokens=400,
        cache_read_tokens=60,
        output_tokens=20,
    )


@pytest.mark.parametrize(("ttl", "expected"), [("5m", (700, 0)), ("1h", (0, 700))])
def test_writes_of_no_told_kind_are_of_the_kind_that_was_asked_for(
    ttl: Literal["5m", "1h"], expected: tuple[int, int]
) -> None:
    reply = Assembly(cache_ttl=ttl)

    reply.feed(start({**START_USAGE, "cache_creation": None}))

    assert (reply.usage.cache_write_5m_tokens, reply.usage.cache_write_1h_tokens) == expected


@pytest.mark.parametrize("value", [None, -1, 1.5, "3", True, 10**12, [], {}])
@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
def test_a_count_that_is_none_makes_no_reply(name: str, value: object) -> None:
    with pytest.raises(BrokenReply, match=name):
        Assembly(cache_ttl="5m").feed(start({**START_USAGE, name: value}))


# --------------------------------------------------------------------------------- what is refused

TEXT = {"type": "text", "text": ""}


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "content_block_start", "index": 0, "content_block": TEXT}],
        [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}],
        [{"type": "message_stop"}],
        [{"type": "message_start"}],
        [{"type": "message_start", "message": {"id": "m"}}],
        [start(), start()],
        [start(), {"type": "message_stop"}],
        [start(), {"type": "message_delta", "delta": {"stop_reason": None}}, END[1]],
        [start(), {"type": "message_delta"}],
        [start(), {"type": "content_block_start", "index": 1, "content_block": TEXT}],
        [start(), {"type": "content_block_start", "index": 0, "content_block": "x"}],
        [start(), {"type": "content_block_start", "index": 0, "content_block": {}}],
        [start(), *block(0, {"type": "tool_use", "name": "t", "input": {}})],
        [start(), *block(0, {"type": "tool_use", "id": "", "name": "t", "input": {}})],
        [start(), *block(0, TEXT)[1:], {"type": "content_block_delta", "index": 0, "delta": {}}],
        [start(), {"type": "content_block_delta", "index": -1, "delta": {}}],
        [start(), {"type": "content_block_delta", "index": "0", "delta": {}}],
        [start(), *block(0, TEXT, {"type": "input_json_delta", "partial_json": None})],
        [start(), *END, *block(0, TEXT)],
    ],
    ids=str,
)
def test_events_that_make_no_message_are_refused(events: list[dict[str, Any]]) -> None:
    reply = Assembly(cache_ttl="5m")

    with pytest.raises(BrokenReply):
        feed_all(reply, events)


def test_a_reply_that_was_cut_has_no_stop_reason() -> None:
    reply = Assembly(cache_ttl="5m")
    reply.feed(start())

    assert not reply.done
    with pytest.raises(BrokenReply, match="stop_reason"):
        _ = reply.stop_reason


def test_pings_and_new_events_change_nothing() -> None:
    events = [{"type": "ping"}, {"type": "invented_later", "index": 99}, {"no": "type"}]

    assert assembled(events).content == []


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"error": {"type": "overloaded_error", "message": "m"}}, ("overloaded_error", "", "m")),
        ({"error": {"details": {"error_code": "c"}}}, ("", "c", "")),
        ({"error": "odd"}, ("", "", "")),
        ({}, ("", "", "")),
    ],
)
def test_an_error_event_says_what_it_was(
    event: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    with pytest.raises(ProviderError) as caught:
        Assembly(cache_ttl="5m").feed({"type": "error", **event})

    error = caught.value
    assert (error.error_type, error.error_code, error.message) == expected


@pytest.mark.parametrize("data", ["", "x", "[]", "1", "null", '{"a":', '{"a": NaN}', "[" * 9_999])
def test_data_that_is_no_object_is_refused(data: str) -> None:
    with pytest.raises(BrokenReply):
        event_of(data)


@given(
    events=st.lists(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(
                    [
                        "message_start",
                        "content_block_start",
                        "content_block_delta",
                        "message_delta",
                        "message_stop",
                        "error",
                        "ping",
                    ]
                )
            },
            optional={
                "index": st.integers(-1, 2) | st.none(),
                "message": json_values,
                "content_block": json_values,
                "delta": json_values,
                "usage": json_values,
                "error": json_values,
            },
        )
    )
)
def test_whatever_comes_it_is_a_reply_or_refused(events: list[dict[str, Any]]) -> None:
    reply = Assembly(cache_ttl="5m")
    reply.feed(start())
    try:
        feed_all(reply, events)
    except (BrokenReply, ProviderError):
        return
    json.dumps(reply.content, allow_nan=False).encode()
