"""The reference's teacher engine as our `Teacher`: `generate(messages, model, max_tokens, tools)`.

Rule: the engine sees what it would see from the reference: messages with roles and tool calls in the
OpenAI shape, and its own types where the OpenJarvis package is installed.
"""

from __future__ import annotations

import importlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.core.teaching import TeacherReply, TeacherRequest
from worker.core.values import Usage
from worker.errors import TeacherFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["EngineReply", "EngineTeacher"]


@dataclass(slots=True)
class _ToolCall:
    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class _Message:
    role: str
    content: str | None = ""
    name: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    images: list[str] | None = None

    @property
    def text(self) -> str:
        return self.content or ""


@dataclass(frozen=True, slots=True)
class EngineReply:
    """A reply and what the engine says it cost."""

    reply: TeacherReply
    #: None where the engine says nothing that can be read.
    cost_nusd: int | None


class EngineTeacher:
    """Calls an engine, one thread at a time or many: as the engine allows."""

    def __init__(self, engine: Any) -> None:  # noqa: ANN401 - any object with the method
        self._engine = engine
        self._message, self._tool_call = _types()

    def generate(self, request: TeacherRequest, number: int) -> EngineReply:
        """Return what the engine answers.

        Raises:
            TeacherFault: The engine raised; what the provider did with the call is unknown.
        """
        arguments: dict[str, Any] = {
            "messages": list(self._messages(request)),
            "model": request.model,
            "max_tokens": request.max_tokens,
        }
        if request.tools:
            arguments["tools"] = [_function(tool) for tool in request.tools]
        began_s = time.monotonic()
        try:
            raw = self._engine.generate(**arguments)
        except Exception as exc:
            raise TeacherFault(
                f"the teacher engine raised {type(exc).__name__}: {exc}",
                billing="unknown",
                retry="never",
            ) from exc
        latency_ms = round((time.monotonic() - began_s) * 1000)
        return EngineReply(_reply(request, raw, number, latency_ms), _cost_nusd(raw))

    def _messages(self, request: TeacherRequest) -> Iterable[Any]:
        system = "\n\n".join(block["text"] for block in request.system)
        if system:
            yield self._message(role="system", content=system)
        for message in request.messages:
            if message["role"] == "assistant":
                yield self._assistant(message["content"])
            else:
                yield from self._answers(message["content"])

    def _assistant(self, blocks: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - theirs or ours
        text = "".join(block.get("text", "") for block in blocks if block["type"] == "text")
        calls = [
            self._tool_call(
                id=block["id"], name=block["name"], arguments=json.dumps(block["input"])
            )
            for block in blocks
            if block["type"] == "tool_use"
        ]
        return self._message(role="assistant", content=text, tool_calls=calls or None)

    def _answers(self, blocks: list[dict[str, Any]]) -> Iterable[Any]:
        for block in blocks:
            if block["type"] == "tool_result":
                yield self._message(
                    role="tool", content=block["content"], tool_call_id=block["tool_use_id"]
                )
            else:
                yield self._message(role="user", content=block["text"])


def _types() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the classes for messages and tool calls: OpenJarvis's own where it is installed."""
    try:
        theirs = importlib.import_module("openjarvis.core.types")
    except ImportError:
        return _Message, _ToolCall

    def message(**fields: Any) -> Any:  # noqa: ANN401 - theirs
        return theirs.Message(**{**fields, "role": theirs.Role(fields["role"])})

    return message, theirs.ToolCall


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": tool["name"],
            "description": tool["description"],
            "parameters": tool["input_schema"],
        },
    }


def _reply(request: TeacherRequest, raw: Any, number: int, latency_ms: int) -> TeacherReply:  # noqa: ANN401
    answer: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
    text = answer.get("content")
    calls = [
        _tool_use(call, f"{number}-{place}")
        for place, call in enumerate(answer.get("tool_calls") or ())
    ]
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    return TeacherReply(
        content=[*content, *calls],
        stop_reason=_stop_reason(answer.get("finish_reason"), calls=bool(calls)),
        usage=_usage(answer.get("usage")),
        model=request.model,
        message_id=f"local-{number}",
        request_id="",
        latency_ms=latency_ms,
    )


def _tool_use(call: Any, place: str) -> dict[str, Any]:  # noqa: ANN401 - a dict or an object
    """Return a tool call of the engine as a block; arguments may be text, an object or nothing."""
    of = (
        call.get
        if isinstance(call, dict)
        else lambda name, default=None: getattr(call, name, default)
    )
    function = of("function") or {}
    name = of("name") or (function.get("name") if isinstance(function, dict) else None)
    raw = of("arguments")
    if raw is None and isinstance(function, dict):
        raw = function.get("arguments")
    return {
        "type": "tool_use",
        "id": str(of("id") or f"call-{place}"),
        "name": str(name or ""),
        "input": _arguments(raw),
    }


def _arguments(raw: object) -> object:
    """Return arguments as they were meant; text that is no JSON stays text, to be refused."""
    if raw is None:
        return {}
    if not isinstance(raw, str):
        return raw
    try:
        return json.loads(raw)
    except ValueError:
        return raw


def _stop_reason(finish: object, *, calls: bool) -> str:
    if calls:
        return "tool_use"
    return {"length": "max_tokens", "max_tokens": "max_tokens", "content_filter": "refusal"}.get(
        str(finish), "end_turn"
    )


def _usage(raw: object) -> Usage:
    usage: Mapping[str, Any] = raw if isinstance(raw, dict) else {}

    def tokens(*names: str) -> int:
        for name in names:
            value = usage.get(name)
            if isinstance(value, int) and value > 0:
                return value
        return 0

    return Usage(
        input_tokens=tokens("prompt_tokens", "input_tokens"),
        output_tokens=tokens("completion_tokens", "output_tokens"),
    )


def _cost_nusd(raw: object) -> int | None:
    cost: Any = raw.get("cost_usd") if isinstance(raw, dict) else None
    if isinstance(cost, (int, float)) and 0 <= cost < 1e6:
        return round(cost * 1e9)
    return None
