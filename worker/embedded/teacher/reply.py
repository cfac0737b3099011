"""What a brain says, before limits and faults shape it into an answer.

Rule: a reply is a pure function of its request; ids of tool calls come from the request's hash, so
the same request gets the same reply, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from worker.embedded.teacher.prompt import prompt_of
from worker.embedded.teacher.wire import Text, ToolUse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.embedded.teacher.wire import (
        MessagesRequest,
        PromptRequest,
        RedactedThinking,
        Thinking,
    )

    SaidBlock = Text | Thinking | RedactedThinking | ToolUse

__all__ = ["Brain", "Reply", "Wish", "call_id_stem", "saying", "wishing"]

#: How much of the request's hash goes into the ids of its reply's calls.
_ID_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Reply:
    """The blocks of one turn and why it ends."""

    blocks: tuple[SaidBlock, ...]
    stop_reason: str | None = "end_turn"
    stop_details: Mapping[str, Any] | None = None


class Brain(Protocol):
    """Decides what the simulated teacher says."""

    def reply(self, request: MessagesRequest) -> Reply:
        """Return the reply: the same for the same request, always."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """A tool call that a brain would like to make."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])


def saying(text: str) -> Reply:
    """Return a reply of text alone."""
    return Reply((Text(text=text),))


def wishing(request: PromptRequest, text: str, wishes: Sequence[Wish]) -> Reply:
    """Return a reply that says `text` and makes the calls."""
    stem = call_id_stem(request)
    calls = [
        ToolUse(id=f"{stem}_{index:02d}", name=wish.tool, input=wish.arguments)
        for index, wish in enumerate(wishes)
    ]
    return Reply((Text(text=text), *calls), "tool_use")


def call_id_stem(request: PromptRequest) -> str:
    """Return what the ids of all calls of the reply to `request` begin with."""
    return f"toolu_sim_{prompt_of(request).digest[:_ID_DIGITS]}"
