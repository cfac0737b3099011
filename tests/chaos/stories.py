"""Sessions that are told again and again: what the teacher says, and how each may end.

Rule: a story is plain data and pure functions of the request, so that a call that is bought twice is
answered twice with the same words. Sessions are small: a sweep runs each one many hundred times.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from worker.core.rates import Limits, Rates
from worker.core.replies import SUBMIT
from worker.errors import StudentFault, TeacherFault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.core.teaching import TeacherRequest

__all__ = [
    "BATCHES",
    "END",
    "ENDINGS",
    "LIMITED",
    "PAUSES",
    "STORIES",
    "TASKS",
    "WHOLE",
    "Asked",
    "Said",
    "Story",
    "student_says",
]

Block = dict[str, Any]
ToolUse = tuple[str, dict[str, Any]]

#: task id -> (query, reference answer, scorer; None leaves it to the judge)
TASKS: Mapping[str, tuple[str, str, str | None]] = {
    "sum-1": ("What is 17 + 25?", "42", "numeric"),
    "sum-2": ("What is 8 + 5?", "13", "numeric"),
    "poem-1": ("Write a line about rain.", "A line that mentions rain.", None),
    "poem-2": ("Write a line about snow.", "A line that mentions snow.", None),
}

#: What the student says to a query; it cannot add.
_ANSWERS = {
    "What is 17 + 25?": "The answer is 32.",
    "What is 8 + 5?": "The answer is 13.",
    "Write a line about rain.": "Rain falls on the roof all night.",
    "Write a line about snow.": "The sun is warm today.",
}


def student_says(query: str) -> str:
    """Return the student's answer to a task."""
    return _ANSWERS[query]


class Asked(StrEnum):
    """What an operator does with a session."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    #: Gives the campaign the money that it lacked.
    RAISE = "raise"


@dataclass(frozen=True, slots=True)
class Said:
    """A reply of the teacher."""

    content: list[Block]
    stop_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A session: its limits, what is said in it, what befalls it, and how it may end."""

    name: str
    #: A text, or the tool calls of one turn each.
    turns: tuple[tuple[ToolUse, ...] | str, ...]
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    #: What else the request says.
    request: Mapping[str, Any] = field(default_factory=dict[str, Any])
    #: What the campaign may spend until somebody raises it.
    funds_nusd: int = 100_000_000_000
    #: How long a batch of the provider takes.
    batches_take_ms: int = 60_000
    #: Purposes whose every call the provider refuses, as `Story.purpose_of` names them.
    refused: frozenset[str] = frozenset()
    #: Steps that kill their worker each time.
    poison: frozenset[str] = frozenset()
    #: Tasks whose student runs never succeed.
    sick_tasks: frozenset[str] = frozenset()
    #: What the operator does, each so long after the one before was heard.
    asked: tuple[tuple[int, Asked], ...] = ()
    has_bundle: bool = True
    #: `Outcome`s that the session may end with.
    outcomes: frozenset[str] = frozenset({"concluded"})
    #: `Stop`s that it may give as the reason; empty for any.
    stops: frozenset[str] = frozenset()
    #: How much the teacher says in each turn beside its calls.
    said_chars: int = 240
    #: What the limits say of the teacher's account and of the student's server; None: nobody asks.
    teacher_limits: Limits | None = None
    student_limits: Limits | None = None
    #: Nothing in it depends on time, so a run with a crash leaves what a run without one does.
    exact: bool = True

    def answer(self, request: TeacherRequest) -> Said:
        """Return what is said to a request.

        Raises:
            TeacherFault: The provider refuses the request.
        """
        purpose = purpose_of(request)
        if purpose in self.refused:
            raise TeacherFault("the key is refused", billing="unbilled", retry="stop", status=401)
        match purpose:
            case "explore":
                replies = sum(message["role"] == "assistant" for message in request.messages)
                turn = self.turns[min(replies, len(self.turns) - 1)]
                if isinstance(turn, str):
                    return _says(turn)
                return _calls(f"turn{replies + 1}", turn, self.said_chars)
            case "close":
                return _calls("close", END, self.said_chars)
            case "extract":
                return _says(json.dumps(_CLUSTERS))
            case "judge":
                return _says(json.dumps(_verdict(request)))
            case _:
                return _says("The answer is 42. It rains and snows.")

    def student_fault(self, query: str) -> StudentFault | None:
        """Return why the student's server fails at this task, None where it does not."""
        if not any(TASKS[task_id][0] == query for task_id in self.sick_tasks):
            return None
        return StudentFault("connection lost", reason="connect", retryable=True)


def purpose_of(request: TeacherRequest) -> str:
    """Return what a request is for: `explore`, `close`, `extract`, `judge` or `self_run`."""
    names = {tool["name"] for tool in request.tools}
    if len(names) > 1:
        return "explore"
    if SUBMIT in names:
        return "close"
    if names:
        return "judge"
    text: str = request.messages[0]["content"][0]["text"]
    return "extract" if text.startswith("Your diagnosis of the student") else "self_run"


def _calls(place: str, uses: tuple[ToolUse, ...], chars: int) -> Said:
    said = f"In {place} I look closer. " + "Hm. " * (chars // 4)
    blocks: list[Block] = [{"type": "text", "text": said}]
    for index, (name, arguments) in enumerate(uses):
        call_id = f"toolu_{place}_{index}"
        blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": arguments})
    return Said(blocks, "tool_use")


def _says(text: str) -> Said:
    return Said([{"type": "text", "text": text}], "end_turn")


def _verdict(request: TeacherRequest) -> dict[str, Any]:
    properties = request.tools[0]["input_schema"]["properties"]
    if "student_score" in properties:
        return {"student_score": 0.2, "teacher_score": 0.9, "reasoning": "One is on the subject."}
    case = json.loads(request.messages[0]["content"][0]["text"])
    subject = "rain" if "rain" in case["task"] else "snow"
    right = subject in case["output"].lower()
    return {"score": 1.0 if right else 0.0, "passed": right, "reasoning": f"About {subject}?"}


_CLUSTERS: list[dict[str, Any]] = [
    {
        "id": "sums",
        "description": "Sums that carry are wrong.",
        "skill_gap": "Adding with a carry.",
        "sample_trace_ids": ["sum-1", "sum-2"],
        "student_failure_rate": 0.5,
        "teacher_success_rate": 1.0,
    },
    {
        "id": "subjects",
        "description": "Lines are about something else.",
        "skill_gap": "Keeping to the subject.",
        "sample_trace_ids": ["poem-1", "poem-2"],
    },
]
_SUBMISSION = {"diagnosis_md": "# Diagnosis\n\nIt drops the carry.", "clusters": _CLUSTERS}

_LOOK: tuple[ToolUse, ...] = (("list_personal_benchmark", {}), ("list_traces", {"limit": 5}))
_MEASURE: tuple[ToolUse, ...] = (
    ("run_student_on_tasks", {"task_ids": ["sum-1", "poem-2"], "repeats": 1}),
    ("run_self_on_task", {"task_id": "poem-2"}),
)
_WEIGH: tuple[ToolUse, ...] = (
    (
        "compare_outputs",
        {"student_output": "The sun.", "teacher_output": "Snow.", "task": "poem-2"},
    ),
    ("no_such_tool", {}),
)
#: The turn that hands the diagnosis in.
END: tuple[ToolUse, ...] = ((SUBMIT, _SUBMISSION),)
_TEXT_END = "It drops the carry.\n\n```json\n" + json.dumps(_CLUSTERS) + "\n```"

#: Everything that a session can do, once.
WHOLE = Story(
    name="whole session",
    turns=(_LOOK, _MEASURE, _WEIGH, END),
    stops=frozenset({"submitted"}),
)

#: Shorter sessions, one for each way to end.
ENDINGS = (
    Story(
        name="ends as text",
        turns=(_MEASURE, _TEXT_END),
        stops=frozenset({"submitted"}),
    ),
    Story(
        name="clusters extracted",
        turns=(_LOOK, "It cannot add, I would say."),
        outcomes=frozenset({"inconclusive"}),
        stops=frozenset({"submitted"}),
    ),
    Story(
        name="all turns used",
        turns=(_LOOK, _MEASURE),
        limits={"max_turns": 2},
        stops=frozenset({"turns"}),
    ),
    Story(
        name="all tool calls used",
        turns=(_LOOK, _MEASURE),
        limits={"max_tool_calls": 3},
        stops=frozenset({"tool_calls"}),
    ),
    Story(
        name="budget used",
        turns=(_LOOK,) * 30,
        limits={"max_cost_usd": "0.4"},
        outcomes=frozenset({"inconclusive"}),
        stops=frozenset({"budget"}),
        exact=False,
    ),
    Story(
        name="deadline",
        turns=(_LOOK, _MEASURE) * 15,
        limits={"max_duration_s": 10},
        outcomes=frozenset({"concluded", "inconclusive"}),
        stops=frozenset({"time"}),
        exact=False,
    ),
    Story(
        name="cancelled",
        turns=(_LOOK, _MEASURE) * 15,
        asked=((6_000, Asked.CANCEL),),
        outcomes=frozenset({"cancelled"}),
        stops=frozenset({"cancelled"}),
        exact=False,
    ),
    Story(
        name="teacher refuses",
        turns=(_LOOK,),
        refused=frozenset({"explore"}),
        outcomes=frozenset({"inconclusive"}),
        stops=frozenset({"fault"}),
    ),
    Story(
        name="teacher refuses all",
        turns=(_LOOK,),
        refused=frozenset({"explore", "close", "extract"}),
        outcomes=frozenset({"failed"}),
        stops=frozenset({"fault"}),
    ),
    Story(
        name="judge refuses",
        turns=(_MEASURE, _WEIGH, END),
        refused=frozenset({"judge"}),
        stops=frozenset({"submitted"}),
    ),
    Story(
        name="student is sick",
        turns=(_MEASURE, END),
        sick_tasks=frozenset({"sum-1"}),
        stops=frozenset({"submitted"}),
    ),
    Story(
        name="no bundle",
        turns=(),
        has_bundle=False,
        outcomes=frozenset({"failed"}),
        stops=frozenset({"not_prepared"}),
    ),
)

#: Sessions that stand still, for each reason, and what ends it.
PAUSES = (
    Story(
        name="paused and resumed",
        turns=(_LOOK, _MEASURE, END),
        asked=((2_000, Asked.PAUSE), (30_000, Asked.RESUME)),
        stops=frozenset({"submitted"}),
    ),
    Story(
        name="paused and forgotten",
        turns=(_LOOK, _MEASURE) * 15,
        limits={"max_pause_s": 60},
        asked=((6_000, Asked.PAUSE),),
        outcomes=frozenset({"concluded", "inconclusive"}),
        stops=frozenset({"paused"}),
        exact=False,
    ),
    Story(
        name="paused and cancelled",
        turns=(_LOOK, _MEASURE) * 15,
        asked=((6_000, Asked.PAUSE), (10_000, Asked.CANCEL)),
        outcomes=frozenset({"cancelled"}),
        stops=frozenset({"cancelled"}),
        exact=False,
    ),
    Story(
        name="money runs out and comes",
        turns=(_LOOK, _MEASURE, END),
        request={"when_money_lacks": "pause"},
        funds_nusd=500_000_000,
        asked=((12_000, Asked.RAISE),),
        stops=frozenset({"submitted"}),
    ),
    Story(
        name="waits for its funds",
        turns=(_MEASURE, END),
        request={"when_funds_lack": "wait"},
        funds_nusd=500_000_000,
        asked=((12_000, Asked.RAISE),),
        stops=frozenset({"submitted"}),
    ),
)

_CAN_WAIT = {"batches": True}
#: Sessions whose judgements and extraction are bought in batches, at half the price.
BATCHES = (
    Story(
        name="bought in batches",
        turns=(_MEASURE, "It cannot add, I would say."),
        request=_CAN_WAIT,
        stops=frozenset({"submitted"}),
    ),
    Story(
        name="paused while in a batch",
        turns=(_MEASURE, END),
        request=_CAN_WAIT,
        asked=((20_000, Asked.PAUSE), (90_000, Asked.RESUME)),
        stops=frozenset({"submitted"}),
    ),
    Story(
        name="cancelled while in a batch",
        turns=(_MEASURE, END),
        request=_CAN_WAIT,
        batches_take_ms=600_000,
        asked=((20_000, Asked.CANCEL),),
        outcomes=frozenset({"cancelled"}),
        stops=frozenset({"cancelled"}),
        exact=False,
    ),
)

#: A session whose servers have little room.
LIMITED = Story(
    name="servers with little room",
    turns=(_LOOK, _MEASURE, END),
    teacher_limits=Limits(rates=Rates(requests=20), most=1),
    student_limits=Limits(most=1),
    stops=frozenset({"submitted"}),
)

STORIES: Mapping[str, Story] = {
    story.name: story for story in (WHOLE, *ENDINGS, *PAUSES, *BATCHES, LIMITED)
}
