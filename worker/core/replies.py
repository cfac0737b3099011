"""What a teacher's reply means for the session.

Rule: every stop reason has an answer here, an unknown one too; a reply never ends a session with
nothing said.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from worker.core.clusters import Refused, read_submission, read_text
from worker.core.transcript import visible_text
from worker.core.values import Ending, Purpose, Stop, ToolCall

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from worker.core.teaching import TeacherReply

__all__ = ["Meaning", "read_reply"]

SUBMIT = "submit_diagnosis"
#: Stop reasons after which the conversation goes on if there is something to answer.
_GOES_ON = frozenset({"tool_use", "max_tokens", "pause_turn"})
_STOPS = {
    "refusal": Stop.REFUSED,
    "model_context_window_exceeded": Stop.CONTEXT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """A reply, read."""

    #: Tool calls to carry out; none where the reply ends the exploration.
    calls: tuple[ToolCall, ...] = ()
    #: The diagnosis, where the reply is one.
    ending: Ending | None = None
    #: Why the exploration ends without a diagnosis; None where it does not.
    stop: Stop | None = None


def read_reply(
    reply: TeacherReply,
    purpose: Purpose,
    *,
    task_ids: Collection[str] = (),
    trace_ids: Collection[str] = (),
) -> Meaning:
    """Return what a reply to a call of that purpose means.

    Args:
        reply: A whole reply.
        purpose: What the call was for.
        task_ids: The benchmark's tasks: a closing submission may name only what exists.
        trace_ids: The bundle's traces, likewise.
    """
    if purpose is not Purpose.EXPLORE:
        return Meaning(ending=_final(reply, task_ids, trace_ids))
    calls = tuple(_calls(reply.content))
    if reply.stop_reason in _STOPS:
        return Meaning(stop=_STOPS[reply.stop_reason])
    if calls:
        return Meaning(calls=calls)
    text = visible_text(reply.content)
    if not text.strip():
        return Meaning(stop=Stop.EMPTY)
    if reply.stop_reason in _GOES_ON:
        return Meaning()
    return Meaning(ending=read_text(text))


def _calls(content: Iterable[dict[str, Any]]) -> Iterable[ToolCall]:
    for block in content:
        if block.get("type") == "tool_use":
            yield ToolCall(
                call_id=str(block.get("id", "")),
                tool=str(block.get("name", "")),
                arguments_json=json.dumps(block.get("input"), ensure_ascii=False),
            )


def _final(
    reply: TeacherReply, task_ids: Collection[str], trace_ids: Collection[str]
) -> Ending | None:
    """Return the diagnosis of a closing reply: a submission, else its text; None for neither."""
    for block in reply.content:
        if block.get("type") == "tool_use" and block.get("name") == SUBMIT:
            submitted = _submitted(block.get("input"), task_ids, trace_ids)
            if submitted is not None:
                return submitted
    text = visible_text(reply.content)
    return read_text(text) if text.strip() else None


def _submitted(
    arguments: object, task_ids: Collection[str], trace_ids: Collection[str]
) -> Ending | None:
    """Return a submission that cannot be sent back for repair: strictly read, else as text."""
    if not isinstance(arguments, dict):
        return None
    fields = cast("dict[str, Any]", arguments)
    ending = read_submission(fields, task_ids=task_ids, trace_ids=trace_ids)
    if not isinstance(ending, Refused):
        return ending
    text = str(fields.get("diagnosis_md") or "")
    fence = json.dumps(fields.get("clusters"), ensure_ascii=False)
    read = read_text(f"{text}\n\n```json\n{fence}\n```")
    return read if text.strip() or read.clusters else None
