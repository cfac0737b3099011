"""The judge that scores an output against a reference answer.

Rule: an output passes when it holds the reference as words of its own, case and blanks aside; a
judge key overrules that. Every verdict says that it is simulated.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.embedded.teacher.findings import as_object, json_in, objects_in
from worker.embedded.teacher.keys import normalised
from worker.embedded.teacher.reply import Reply, Wish, saying, wishing

if TYPE_CHECKING:
    from worker.embedded.teacher.keys import AnswerKey, JudgeKey
    from worker.embedded.teacher.wire import MessagesRequest, Tool

__all__ = ["MARKER", "VERDICT_TOOLS", "Judge"]

#: Stands in the system prompt of every request to a judge.
MARKER = "You are the judge"
VERDICT_TOOLS = ("submit_verdict", "verdict")

_PASS_SCORE = 0.5
#: Names under which a request may give what is judged, and against what.
_OUTPUT_KEYS = ("output", "student_output", "teacher_output", "answer")
_REFERENCE_KEYS = ("reference_answer", "reference", "expected")
_TASK_KEYS = ("task", "query", "question")


@dataclass(frozen=True, slots=True)
class _Scored:
    score: float
    why: str


class Judge:
    """Scores outputs."""

    def __init__(self, key: JudgeKey, answers: AnswerKey) -> None:
        self._key = key
        self._answers = answers

    def reply(self, request: MessagesRequest) -> Reply:
        """Return the verdict, by tool where one is offered."""
        case = _case_in(request.last_user_text)
        verdict = self._verdict(case)
        tool = next((tool for tool in request.tools if tool.name in VERDICT_TOOLS), None)
        choice = request.tool_choice
        if tool is None or (choice is not None and choice.type == "none"):
            return saying(json.dumps(verdict, ensure_ascii=False))
        wish = Wish(tool.name, _fitted(verdict, tool))
        return wishing(request, "[simulated judge] My verdict.", [wish])

    def _verdict(self, case: dict[str, Any]) -> dict[str, Any]:
        scored = {key: self._scored(case, str(case[key])) for key in _OUTPUT_KEYS if key in case}
        if not scored:
            return _as_verdict(_Scored(0.0, "the request holds no output to judge"))
        first = next(iter(scored.values()))
        verdict = _as_verdict(first)
        for key in ("student_output", "teacher_output"):
            if key in scored:
                verdict[key.replace("output", "score")] = scored[key].score
        return verdict

    def _scored(self, case: dict[str, Any], output: str) -> _Scored:
        task = _first(case, _TASK_KEYS)
        known = self._key.score_of(output, task)
        if known is not None:
            return _Scored(known, "the judge key says so")
        reference = _first(case, _REFERENCE_KEYS) or self._answers.answer_to(task) or ""
        if not normalised(reference):
            return _Scored(0.0, "there is no reference answer, so nothing can be said for it")
        if _holds(normalised(output), normalised(reference)):
            return _Scored(1.0, "the output holds the reference answer")
        return _Scored(0.0, "the output does not hold the reference answer")


def _as_verdict(scored: _Scored) -> dict[str, Any]:
    return {
        "score": scored.score,
        "passed": scored.score >= _PASS_SCORE,
        "reasoning": f"Simulated judge: {scored.why}.",
    }


def _case_in(text: str) -> dict[str, Any]:
    """Return the JSON object that is to be judged, empty where there is none."""
    objects = objects_in(json_in(text))
    judged = (found for found in objects if found.keys() & set(_OUTPUT_KEYS))
    return next(judged, as_object(None))


def _first(case: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((str(case[key]) for key in keys if case.get(key)), "")


def _holds(output: str, reference: str) -> bool:
    """Whether the reference stands in the output as a whole: 4 is not in 14, nor in 4.5."""
    pattern = rf"(?<![\w])(?<!\d[.,]){re.escape(reference)}(?![\w]|[.,]\d)"
    return re.search(pattern, output) is not None


def _fitted(verdict: dict[str, Any], tool: Tool) -> dict[str, Any]:
    """Return the verdict with the keys that the tool's schema has; all where it names none."""
    wanted = as_object(tool.input_schema.get("properties"))
    return {key: value for key, value in verdict.items() if key in wanted} if wanted else verdict
