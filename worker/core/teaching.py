"""What is said to a teacher or a judge, and what comes back.

Rule: a request is complete: the adapter that sends it adds nothing to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from worker.core.rates import Rates
from worker.core.values import Usage  # noqa: TC001 - dataclass fields, read at run time

__all__ = ["JudgeRequest", "TeacherReply", "TeacherRequest", "Verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRequest:
    """A Messages API call. Built by the core; the adapter adds nothing to it."""

    model: str
    max_tokens: int
    #: System blocks, with cache breakpoints.
    system: list[dict[str, Any]]
    #: Messages, with cache breakpoints.
    messages: list[dict[str, Any]]
    #: Empty: no tools are offered.
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    timeout_ms: int = 600_000

    @property
    def parts(self) -> list[list[dict[str, Any]]]:
        """The prompt's blocks: those of the tools, of the system prompt, of each message."""
        return [self.tools, self.system, *(_blocks(one["content"]) for one in self.messages)]


def _blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherReply:
    """A whole reply."""

    #: The content blocks, as received.
    content: list[dict[str, Any]]
    stop_reason: str
    usage: Usage
    model: str
    message_id: str
    request_id: str
    latency_ms: int
    #: The provider says that it did not charge (a refusal before any output).
    unbilled: bool = False
    #: The account's limits a minute, where the provider said them.
    rates: Rates = field(default_factory=Rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRequest:
    """What a judge needs to score one output."""

    task: str
    output: str
    #: Empty where the benchmark has none.
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judge's score with its reason."""

    #: 0..1.
    score: float
    passed: bool
    reasoning: str
