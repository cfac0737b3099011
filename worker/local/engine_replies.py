"""Reading what an engine of the reference answers.

Rule: no answer is so odd that it raises. What is missing is empty, what cannot be read as it was
meant goes to the teacher as an error of its call, and a cost that is no amount is not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from worker.core.teaching import TeacherReply
from worker.core.values import Usage
from worker.local.objects import attribute, items_of, number, plain, text, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from worker.traces.cells import Json

__all__ = ["cost_nusd_of", "read_reply"]

#: A dearer call is a slip of the unit.
_CALL_USD_MAX = 1_000_000
#: More calls than any reply has room for.
_CALLS_MAX = 1_000

#: Every engine's word for an end, in small letters -> ours. What is not here is a plain end.
_STOP_REASONS: Mapping[str, str] = {
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_length": "max_tokens",
    "content_filter": "refusal",
    "refusal": "refusal",
    "safety": "refusal",
    "recitation": "refusal",
    "blocklist": "refusal",
    "prohibited_content": "refusal",
    "spii": "refusal",
    "model_length": "model_context_window_exceeded",
    "context_length_exceeded": "model_context_window_exceeded",
    "model_context_window_exceeded": "model_context_window_exceeded",
}


def read_reply(answer: object, *, model: str, call_number: int, latency_ms: int) -> TeacherReply:
    """Return an engine's answer as a reply.

    Args:
        answer: Meant to be a dict with `content`, `tool_calls`, `usage` and `finish_reason`.
        model: That was asked; the answer may name another.
        call_number: Of the call within the session; tool calls without an id are named by it.
        latency_ms: How long it took.
    """
    said = _said(answer if isinstance(answer, str) else attribute(answer, "content"))
    calls = list(_tool_uses(attribute(answer, "tool_calls"), call_number))
    blocks: list[dict[str, Any]] = [{"type": "text", "text": said}] if said.strip() else []
    return TeacherReply(
        content=[*blocks, *calls],
        stop_reason="tool_use" if calls else _stop_reason(attribute(answer, "finish_reason")),
        usage=_usage(attribute(answer, "usage")),
        model=text(attribute(answer, "model")) or model,
        message_id=f"local-{call_number}",
        request_id="",
        latency_ms=latency_ms,
    )


def cost_nusd_of(answer: object) -> int | None:
    """Return what an engine says that a call cost; None where it says nothing that can be one."""
    cost_usd = number(attribute(answer, "cost_usd"))
    if cost_usd is None or not 0 <= cost_usd < _CALL_USD_MAX:
        return None
    return round(cost_usd * 1e9)


def _said(content: object) -> str:
    """Return a reply's text, which may come in blocks."""
    if not isinstance(content, (list, tuple)):
        return text(content) or ""
    blocks = items_of(cast("object", content), _CALLS_MAX)
    texts = (block if isinstance(block, str) else attribute(block, "text") for block in blocks)
    return "".join(text(one) or "" for one in texts)


def _tool_uses(calls: object, call_number: int) -> Iterator[dict[str, Any]]:
    """Yield the calls as blocks whose ids are all different: a result goes back under its id."""
    used: set[str] = set()
    for place, call in enumerate(_listed(calls)):
        call_id = text(attribute(call, "id")) or f"call-{call_number}-{place}"
        while call_id in used:
            call_id = f"{call_id}-{place}"
        used.add(call_id)
        function = attribute(call, "function")
        given = (attribute(one, name) for one in (call, function) for name in _ARGUMENTS)
        yield {
            "type": "tool_use",
            "id": call_id,
            "name": text(attribute(call, "name") or attribute(function, "name")) or "",
            "input": _arguments(next((one for one in given if one is not None), None)),
        }


#: Where arguments stand: as the reference has them, and as Anthropic and Google do.
_ARGUMENTS = ("arguments", "input", "args")


def _listed(calls: object) -> Iterable[object]:
    if isinstance(calls, Mapping):
        return (cast("object", calls),)
    try:
        return items_of(calls, _CALLS_MAX)
    except Exception:  # noqa: BLE001 - an iterator of theirs
        return ()


def _arguments(given: object) -> Json:
    """Return arguments as they were meant; text that is no JSON stays text, to be refused."""
    if isinstance(given, bytes):
        given = text(given)
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else None
        except (ValueError, RecursionError):
            return text(given)
    return {} if given is None else plain(given)


def _stop_reason(finish: object) -> str:
    word = finish.name if isinstance(finish, Enum) else text(finish) or ""
    last = word.rpartition(".")[2].strip().lower().replace("-", "_").replace(" ", "_")
    return _STOP_REASONS.get(last, "end_turn")


def _usage(usage: object) -> Usage:
    def tokens(*names: str) -> int:
        return next((count for name in names if (count := whole(attribute(usage, name)))), 0)

    prompt = tokens("prompt_tokens", "input_tokens")
    output = tokens("completion_tokens", "output_tokens")
    if not prompt and not output:
        # Which of them is which is not known: all are taken for the dearer ones.
        output = tokens("total_tokens")
    return Usage(input_tokens=prompt, output_tokens=output)
