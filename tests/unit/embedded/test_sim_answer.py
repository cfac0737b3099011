"""Replies shaped into answers, and answers told as events or as one body.

Rule: what is streamed adds up to what a body would say, and no answer exceeds what was allowed.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.embedded.teacher.answer import Answer, CutToolUse, answer_of
from worker.embedded.teacher.bill import Usage
from worker.embedded.teacher.reply import Reply
from worker.embedded.teacher.rules import signature_of
from worker.embedded.teacher.stream import Envelope, body_of, events_of
from worker.embedded.teacher.tokens import count_block
from worker.embedded.teacher.wire import Text, Thinking, ToolUse

ENVELOPE = Envelope(
    message_id="msg_1",
    model="claude-opus-5",
    usage=Usage(input_tokens=3, cache_write_5m_tokens=5, cache_write_1h_tokens=7),
    inference_geo="global",
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200).filter(
    str.strip
)
CALLS = st.builds(
    ToolUse,
    id=st.from_regex(r"toolu_[a-z0-9]{1,8}", fullmatch=True),
    name=st.sampled_from(["look", "run"]),
    input=st.dictionaries(WORDS, WORDS | st.integers(), max_size=3),
)
THOUGHTS = WORDS.map(lambda text: Thinking(thinking=text, signature=signature_of(text)))
REPLIES = st.lists(WORDS.map(lambda text: Text(text=text)) | CALLS | THOUGHTS, max_size=4).map(
    lambda blocks: Reply(tuple(blocks))
)


def told(answer: Answer) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return (content, last usage) as a client puts them together from the events."""
    content: list[dict[str, Any]] = []
    usage: dict[str, Any] = {}
    for event in events_of(answer, ENVELOPE):
        data: dict[str, Any] = event.data
        match event.name:
            case "content_block_start":
                content.append({**data["content_block"], "partial": ""})
            case "content_block_delta":
                _add(content[int(data["index"])], data["delta"])
            case "message_delta":
                usage = data["usage"]
            case _:
                pass
    return content, usage


def _add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    for key in ("text", "thinking", "signature"):
        if key in delta:
            block[key] += delta[key]
    block["partial"] += delta.get("partial_json", "")


@given(REPLIES, st.integers(1, 300))
def test_an_answer_never_exceeds_max_tokens(reply: Reply, max_tokens: int) -> None:
    whole = sum(map(count_block, reply.blocks))

    answer = answer_of(reply, max_tokens=max_tokens)

    assert answer.output_tokens <= max_tokens
    assert (answer.stop_reason == "max_tokens") == (whole > max_tokens)
    if whole <= max_tokens:
        assert answer.blocks == reply.blocks


@pytest.mark.parametrize(("max_tokens", "said"), [(10, 30), (9, 27), (1, 3)])
def test_a_text_is_cut_at_exactly_max_tokens(max_tokens: int, said: int) -> None:
    answer = answer_of(Reply((Text(text="x" * 30),)), max_tokens=max_tokens)

    assert answer.blocks == (Text(text="x" * said),)
    assert answer.output_tokens == max_tokens
    assert answer.stop_reason == ("end_turn" if said == 30 else "max_tokens")


@given(REPLIES, st.integers(1, 300))
def test_the_events_tell_what_the_body_says(reply: Reply, max_tokens: int) -> None:
    answer = answer_of(reply, max_tokens=max_tokens)

    content, usage = told(answer)
    body = body_of(answer, ENVELOPE)

    assert len(content) == len(body["content"])
    for streamed, block, said in zip(content, body["content"], answer.blocks, strict=True):
        partial = streamed.pop("partial")
        if isinstance(said, CutToolUse):
            assert partial == said.partial_json
        elif isinstance(said, ToolUse):
            streamed["input"] = json.loads(partial or "{}")
        assert streamed == block
    assert usage["output_tokens"] == body["usage"]["output_tokens"] == answer.output_tokens


@given(REPLIES)
def test_every_event_tells_at_least_as_much_as_the_one_before(reply: Reply) -> None:
    answer = answer_of(reply, max_tokens=10_000)

    events = list(events_of(answer, ENVELOPE))
    tokens = [event.output_tokens for event in events]

    assert tokens == sorted(tokens)
    assert tokens[-1] == answer.output_tokens
    assert [events[0].name, events[-2].name, events[-1].name] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]


def test_message_start_tells_the_exact_prompt() -> None:
    answer = answer_of(Reply((Text(text="hello"),)), max_tokens=10)

    start = next(iter(events_of(answer, ENVELOPE)))

    assert start.data["message"]["stop_reason"] is None
    assert start.data["message"]["usage"] == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 12,
        "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7},
        "cache_read_input_tokens": 0,
        "service_tier": "standard",
        "inference_geo": "global",
        "output_tokens": 1,
    }


def test_a_call_that_does_not_fit_is_cut_in_the_middle_of_its_arguments() -> None:
    call = ToolUse(id="toolu_1", name="look", input={"where": "behind the sofa"})

    # 7 + 4 bytes of id and name, and 10 bytes of arguments: 21 bytes are 7 tokens.
    answer = answer_of(Reply((call,), "tool_use"), max_tokens=7)

    assert answer.blocks == (CutToolUse("toolu_1", "look", '{"where":"'),)
    assert (answer.stop_reason, answer.output_tokens) == ("max_tokens", 7)


@pytest.mark.parametrize(
    ("stops", "said", "found"),
    [
        (["STOP"], "one ", "STOP"),
        (["two", "STOP"], "one ", "STOP"),
        (["nothing"], "one STOP two", None),
        ([""], "one STOP two", None),
    ],
)
def test_a_stop_sequence_ends_the_answer_at_its_first_place(
    stops: list[str], said: str, found: str | None
) -> None:
    answer = answer_of(Reply((Text(text="one STOP two"),)), max_tokens=99, stop_sequences=stops)

    assert answer.blocks == (Text(text=said),)
    assert answer.stop_sequence == found
    assert answer.stop_reason == ("stop_sequence" if found else "end_turn")


@pytest.mark.parametrize(
    ("max_tokens", "window_left", "reason"),
    [
        (9, 100, "max_tokens"),
        (9, 9, "max_tokens"),
        (100, 9, "model_context_window_exceeded"),
        (100, 10, "end_turn"),
        (10, 10, "end_turn"),
    ],
)
def test_what_cuts_an_answer_is_told(max_tokens: int, window_left: int, reason: str) -> None:
    answer = answer_of(
        Reply((Text(text="x" * 30),)), max_tokens=max_tokens, window_left_tokens=window_left
    )

    assert answer.stop_reason == reason
    assert answer.output_tokens == (10 if reason == "end_turn" else 9)


def test_max_tokens_of_zero_only_warms_the_cache() -> None:
    answer = answer_of(Reply((Text(text="hello"),)), max_tokens=0)

    assert (answer.blocks, answer.stop_reason, answer.output_tokens) == ((), "max_tokens", 0)


def test_an_empty_reply_still_counts_a_token_but_a_refusal_counts_none() -> None:
    empty = answer_of(Reply(()), max_tokens=9)
    refusal = answer_of(Reply((), "refusal"), max_tokens=9)

    assert (empty.output_tokens, empty.unbilled) == (1, False)
    assert (refusal.output_tokens, refusal.unbilled) == (0, True)


def test_a_refusal_after_some_output_is_billed() -> None:
    assert not answer_of(Reply((Text(text="I"),), "refusal"), max_tokens=9).unbilled


def test_thinking_is_part_of_the_output_and_counted_by_itself() -> None:
    thought = Thinking(thinking="hm " * 30, signature=signature_of("hm " * 30))
    answer = answer_of(Reply((thought, Text(text="so"))), max_tokens=999)

    usage = body_of(answer, ENVELOPE)["usage"]

    assert usage["output_tokens_details"] == {"thinking_tokens": count_block(thought)}
    assert usage["output_tokens"] == count_block(thought) + 1


def test_an_event_is_one_line_of_json_after_its_name() -> None:
    answer = answer_of(Reply((Text(text="zwei\n\nZeilen ü"),)), max_tokens=99)

    lines = [event.encode().decode().split("\n") for event in events_of(answer, ENVELOPE)]

    assert all(len(line) == 4 and line[2:] == ["", ""] for line in lines)
    assert [line[0] for line in lines] == [
        f"event: {json.loads(line[1].removeprefix('data: '))['type']}" for line in lines
    ]
