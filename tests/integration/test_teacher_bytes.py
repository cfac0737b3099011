"""The bytes of three consecutive turns, as they leave the worker.

Rule: transcript, adapter and SDK are the real ones and the bytes are those that a server read from its
socket; the golden files fix them. `GOLDEN=write` writes them again: every session that is under way
when such a change is rolled out misses its cache once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.core.told import Told, text_of
from worker.core.caching import cache_uses, sent_prompt
from worker.core.events import CallAnswered, TeacherReplied
from worker.core.machine import fold
from worker.core.transcript import exploring_request
from worker.core.values import Purpose, Text, ToolCall
from worker.embedded.teacher.rules import signature_of
from worker.embedded.teacher.server import SimulatedTeacher
from worker.teacher.anthropic import AnthropicTeacher
from worker.tools.schemas import anthropic_tools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.core.events import Event
    from worker.core.teaching import TeacherReply

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

GOLDEN = Path(__file__).parents[1] / "golden" / "requests"
TURNS = 3

#: What a careless round through JSON changes: key order, numbers, escapes, empty and unknown fields.
REPLIES: tuple[tuple[dict[str, Any], ...], ...] = (
    (
        {"type": "thinking", "thinking": "", "signature": signature_of("")},
        {
            "type": "thinking",
            "thinking": "ü — \u2028 😀",
            "signature": signature_of("ü — \u2028 😀"),
        },
        {"type": "text", "text": 'Look\n first: "quotes", \\ and tab\t.'},
        {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "list_traces",
            "input": {"outcome": "failure", "limit": 5, "min_feedback": 1e-07, "agent": "ä/b"},
        },
        {"type": "tool_use", "id": "toolu_2", "name": "get_current_config", "input": {}},
    ),
    (
        {
            "type": "tool_use",
            "id": "toolu_3",
            "name": "get_trace",
            "input": {"trace_id": "t-1", "step_from": 0, "max_chars": 2000.0, "x": [None, True]},
        },
    ),
    ({"type": "text", "text": "Enough."},),
)


def told() -> list[Event]:
    """Return the events of a session up to its third turn's request."""
    events = list(Told.prepared(teacher_model="claude-opus-5").events)
    for number, blocks in enumerate(REPLIES[:-1], start=1):
        calls = tuple(
            ToolCall(
                call_id=block["id"],
                tool=block["name"],
                arguments_json=json.dumps(block["input"], ensure_ascii=False),
            )
            for block in blocks
            if block["type"] == "tool_use"
        )
        events.append(
            TeacherReplied(
                turn=number,
                purpose=Purpose.EXPLORE,
                content=Text(text=json.dumps(blocks, ensure_ascii=False)),
                stop_reason="tool_use",
                calls=calls,
            )
        )
        for index, call in enumerate(calls):
            text = json.dumps({"untrusted_data": True, "of": call.tool, "é": "\x01"})
            result = Text(text=text * (40 * number))
            events.append(
                CallAnswered(turn=number, index=index, result=result, is_error=index == 1)
            )
    return events


def upto(events: Sequence[Event], turn: int) -> Sequence[Event]:
    """Return what was known when a turn was asked."""
    return [event for event in events if getattr(event, "turn", 0) < turn]


def send(teacher: SimulatedTeacher, events: Sequence[Event]) -> list[TeacherReply]:
    """Ask all turns and return the replies."""
    adapter = AnthropicTeacher(base_url=teacher.url, api_key=teacher.api_key)
    try:
        return [
            adapter.send(
                exploring_request(fold(upto(events, turn)), anthropic_tools(), text_of),
                on_answer=lambda _: None,
                on_start=lambda _: None,
                stopped=lambda: False,
            )
            for turn in range(1, TURNS + 1)
        ]
    finally:
        adapter.close()


def bodies() -> list[bytes]:
    with SimulatedTeacher() as teacher:
        send(teacher, told())
        assert teacher.desk.crashes == []
        return [body.encode() for body in teacher.desk.log.bodies()]


def bare(body: bytes) -> bytes:
    """Return a body's prompt without breakpoints, which are no part of what the provider hashes."""
    messages = body[body.index(b'"messages":') :]
    return re.sub(rb',"cache_control":\{[^}]*\}', b"", messages)


@pytest.mark.parametrize("turn", range(1, TURNS + 1))
def test_a_turns_request_is_these_bytes(turn: int) -> None:
    file = GOLDEN / f"turn-{turn}.json"
    body = bodies()[turn - 1]

    if os.environ.get("GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)

    assert body == file.read_bytes()


def test_another_process_sends_the_same_bytes() -> None:
    """Order of dicts and sets, and the seed of hashes, change nothing."""
    code = (
        "import json, sys\n"
        "from tests.integration.test_teacher_bytes import bodies\n"
        "sys.stdout.write(json.dumps([body.decode() for body in bodies()]))\n"
    )
    env = {**os.environ, "PYTHONHASHSEED": "4711"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=root, check=True, capture_output=True
    )

    assert [body.encode() for body in json.loads(done.stdout)] == bodies()


def test_each_turn_begins_with_the_bytes_of_the_one_before() -> None:
    first, second, third = bodies()
    head = first[: first.index(b'"messages":')]

    def messages(body: bytes) -> bytes:
        """Return the messages as they stand in a body, without the end of the list."""
        text = bare(body)
        return text[: text.index(b'],"stream"')]

    assert second.startswith(head)
    assert third.startswith(head)
    assert messages(second).startswith(messages(first))
    assert messages(third).startswith(messages(second))
    assert first[first.index(b'"tools":') :] == third[third.index(b'"tools":') :]


def test_a_reply_goes_back_as_it_was_written() -> None:
    third = json.loads(bodies()[2])

    said = [message["content"] for message in third["messages"] if message["role"] == "assistant"]

    assert json.dumps(said, ensure_ascii=False) == json.dumps(REPLIES[:-1], ensure_ascii=False)


def test_every_turn_after_the_first_reads_all_that_was_kept() -> None:
    with SimulatedTeacher() as teacher:
        events = told()
        got = send(teacher, events)

    session = fold(events)
    replies = [
        replace(
            turn.reply if turn else session.turns[-1].reply,
            usage=reply.usage,
            model=reply.model,
            sent=sent_prompt(
                exploring_request(fold(upto(events, number)), anthropic_tools(), text_of),
                asked_ms=number,
            ),
        )
        for number, (turn, reply) in enumerate(
            zip([*session.turns, None], got, strict=True), start=1
        )
    ]
    uses = cache_uses(replies)

    assert [use.missed_tokens for use in uses] == [0, 0, 0]
    assert [use.uncached_tokens for use in uses] == [0, 0, 0]
    assert uses[1].read_tokens == uses[0].written_tokens
    assert uses[2].read_tokens == uses[1].read_tokens + uses[1].written_tokens
