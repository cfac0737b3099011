"""What an engine of the reference is given: messages and tool calls in OpenJarvis's shape.

Rule: OpenJarvis's own classes where it is installed, since an engine may ask what they are; else
ones that have the same fields.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from worker.core.teaching import TeacherRequest

__all__ = ["messages_of", "tools_of"]


class Role(StrEnum):
    """Who says a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(slots=True)
class ToolCall:
    """A tool call in a message of the assistant."""

    id: str
    name: str
    #: JSON text.
    arguments: str


@dataclass(slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str | None = ""
    #: Of the tool, in a message that holds its result.
    name: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    images: list[str] | None = None

    @property
    def text(self) -> str:
        """The content, empty where there is none."""
        return self.content or ""


def messages_of(request: TeacherRequest) -> list[Any]:
    """Return a request's conversation as the reference would say it."""
    return list(_messages(request))


def tools_of(request: TeacherRequest) -> list[dict[str, Any]]:
    """Return a request's tools as OpenAI functions."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool["name"],
                "description": tool["description"],
                "parameters": tool["input_schema"],
            },
        }
        for tool in request.tools
    ]


@dataclass(frozen=True, slots=True)
class _Types:
    message: Callable[..., Any]
    tool_call: Callable[..., Any]
    role: Callable[[str], Any]


@cache
def _types() -> _Types:
    try:
        theirs = importlib.import_module("openjarvis.core.types")
    except Exception:  # noqa: BLE001 - not installed, or broken: then its engines are as well
        return _Types(Message, ToolCall, Role)
    return _Types(theirs.Message, theirs.ToolCall, theirs.Role)


def _message(role: str, content: str, **more: Any) -> Any:  # noqa: ANN401 - theirs or ours
    types = _types()
    return types.message(role=types.role(role), content=content, **more)


def _messages(request: TeacherRequest) -> Iterator[Any]:
    system = "\n\n".join(block["text"] for block in request.system)
    if system:
        yield _message("system", system)
    tools: dict[str, str] = {}
    for message in request.messages:
        blocks: list[dict[str, Any]] = message["content"]
        if message["role"] == "assistant":
            tools = {block["id"]: block["name"] for block in blocks if block["type"] == "tool_use"}
            yield _assistant(blocks)
        else:
            yield from (_answer(block, tools) for block in blocks)


def _assistant(blocks: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - theirs or ours
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    calls = [
        _types().tool_call(id=block["id"], name=block["name"], arguments=_arguments(block["input"]))
        for block in blocks
        if block["type"] == "tool_use"
    ]
    return _message("assistant", text, tool_calls=calls or None)


def _arguments(given: object) -> str:
    """Return arguments as text; what the engine gave as text that is no JSON goes back as it came."""
    return given if isinstance(given, str) else json.dumps(given)


def _answer(block: Mapping[str, Any], tools: Mapping[str, str]) -> Any:  # noqa: ANN401 - as above
    if block["type"] != "tool_result":
        return _message("user", block["text"])
    call_id = block["tool_use_id"]
    return _message("tool", block["content"], tool_call_id=call_id, name=tools.get(call_id))
