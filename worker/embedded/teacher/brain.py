"""The simulated teacher's mind: which kind of request this is, and who answers it.

Rule: the kind follows from the shape of the request alone (its tools and its words), never from who
sends it; the same request gets the same reply.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from worker.embedded.teacher.closing import Closing, is_closing
from worker.embedded.teacher.explorer import Explorer, Plan
from worker.embedded.teacher.findings import SUBMIT
from worker.embedded.teacher.judge import MARKER, VERDICT_TOOLS, Judge
from worker.embedded.teacher.keys import AnswerKey, JudgeKey
from worker.embedded.teacher.solver import Solver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.embedded.teacher.reply import Brain, Reply
    from worker.embedded.teacher.wire import MessagesRequest

__all__ = ["Kind", "SimulatedBrain", "kind_of"]


class Kind(StrEnum):
    """What a request wants."""

    #: Tools to explore with are offered.
    EXPLORER = "explorer"
    #: A diagnosis, or its clusters, from what the request itself holds.
    CLOSING = "closing"
    #: A verdict on an output.
    JUDGE = "judge"
    #: The answer to a task.
    SOLVER = "solver"


def kind_of(request: MessagesRequest) -> Kind:
    """Return what the request wants."""
    names = {tool.name for tool in request.tools}
    if MARKER in request.system_text or names & set(VERDICT_TOOLS):
        return Kind.JUDGE
    if names - {SUBMIT}:
        return Kind.EXPLORER
    return Kind.CLOSING if is_closing(request) else Kind.SOLVER


class SimulatedBrain:
    """Answers every kind of request."""

    def __init__(
        self,
        *,
        answers: AnswerKey | None = None,
        scores: JudgeKey | None = None,
        plan: Plan | None = None,
    ) -> None:
        key = answers or AnswerKey()
        self._brains: Mapping[Kind, Brain] = {
            Kind.EXPLORER: Explorer(plan),
            Kind.CLOSING: Closing(),
            Kind.JUDGE: Judge(scores or JudgeKey(), key),
            Kind.SOLVER: Solver(key),
        }

    def reply(self, request: MessagesRequest) -> Reply:
        """Return the reply of the brain that the request is for."""
        return self._brains[kind_of(request)].reply(request)
