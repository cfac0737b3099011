"""What a teacher may send instead of a good turn, and what its API may do instead of answering.

Rule: a case is a script (or faults) for the simulated teacher and what the session's reason must
say. Whatever it is, the session ends, in seconds, with artifacts and a bill that the ledger covers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from worker.tools.schemas import TOOLS

__all__ = ["BadReply", "Fault", "arguments_of_every_tool", "bad_endings", "bad_replies", "faults"]

Reply = dict[str, Any]

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BadReply:
    """Replies to the explorer, in order; every other request is answered as usual."""

    name: str
    replies: tuple[Reply, ...]
    #: Found in the session's reason.
    says: str
    max_turns: int | None = None


def text(words: str, stop_reason: str = "end_turn") -> Reply:
    """Return a reply of words."""
    return {"blocks": [{"type": "text", "text": words}], "stop_reason": stop_reason}


def calls(*made: tuple[str, Any], stop_reason: str = "tool_use", call_id: str = "") -> Reply:
    """Return a reply that calls tools: (name, arguments) each, all with one id if one is given."""
    own = {"id": call_id} if call_id else {}
    blocks = [{"type": "tool_use", "name": name, "input": given, **own} for name, given in made]
    return {"blocks": blocks, "stop_reason": stop_reason}


#: A good last turn, so that a case shows that the session went on to it.
END = text("All is well.\n\n```json\n[]\n```")
ENDED = "ended the exploration with its diagnosis"
BROKEN = "the teacher's API failed for good"


def bad_replies() -> tuple[BadReply, ...]:
    """Return all of them."""
    return (*_empty(), *_stopped(), *_called(), *_submitted(), *_long())


def _empty() -> tuple[BadReply, ...]:
    says = "answered with nothing"
    thinking = {"type": "thinking", "thinking": "Hm."}
    hidden = {"type": "redacted_thinking", "data": "AAAA"}
    blank = {"type": "text", "text": " \n\t"}
    contents: dict[str, list[Any]] = {
        "no content": [],
        "only thoughts": [thinking],
        "only hidden thoughts": [hidden],
        "only blanks": [thinking, blank],
    }
    return tuple(
        BadReply(name=name, replies=({"blocks": blocks, "stop_reason": "end_turn"},), says=says)
        for name, blocks in contents.items()
    )


def _stopped() -> tuple[BadReply, ...]:
    return (
        BadReply(
            name="a refusal",
            replies=({"blocks": [], "stop_reason": "refusal"},),
            says="refused to go on",
        ),
        BadReply(
            name="a refusal in words", replies=(text("No.", "refusal"),), says="refused to go on"
        ),
        BadReply(
            name="a refused call",
            replies=(calls(("list_traces", {}), stop_reason="refusal"),),
            says="refused to go on",
        ),
        BadReply(
            name="a full context",
            replies=(text("And then", "model_context_window_exceeded"),),
            says="context window was full",
        ),
        BadReply(name="an unknown stop", replies=(text("x", "because"),), says=ENDED),
        BadReply(
            name="an unknown stop after a call",
            replies=(calls(("list_traces", {}), stop_reason="because"), END),
            says=ENDED,
        ),
        BadReply(
            name="an end after a call",
            replies=(calls(("list_traces", {}), stop_reason="end_turn"), END),
            says=ENDED,
        ),
        BadReply(name="cut words", replies=(text("I think th", "max_tokens"), END), says=ENDED),
        BadReply(
            name="a cut call",
            replies=(calls(("list_traces", {}), stop_reason="max_tokens"), END),
            says=ENDED,
        ),
        # What follows depends on the model: some take a turn that begins with their own words.
        BadReply(name="a pause", replies=(text("Wait.", "pause_turn"), END), says=""),
        BadReply(name="calls without a call", replies=(text("Now.", "tool_use"), END), says=""),
    )


def _called() -> tuple[BadReply, ...]:
    listing = ("list_traces", {"limit": 1})
    return (
        BadReply(
            name="an unknown tool", replies=(calls(("rm_rf", {"path": "/"})), END), says=ENDED
        ),
        BadReply(
            name="a tool called like a path",
            replies=(calls(("___etc_passwd", {}), ("__class__", {})), END),
            says=ENDED,
        ),
        BadReply(
            name="one id twice",
            replies=(calls(listing, listing, call_id="toolu_1"), END),
            says=BROKEN,
        ),
        BadReply(
            name="200 calls at once",
            replies=(calls(*[listing] * 200), END),
            says="the limit of 150 tool calls was reached",
        ),
        BadReply(
            name="a call that is longer than a turn",
            replies=(calls(("search_traces", {"query": "x" * 60_000})), END),
            says=ENDED,
        ),
        BadReply(
            name="runs beyond the limit of a call",
            replies=(calls(("run_student_on_tasks", {"task_ids": ["right"], "repeats": 21})), END),
            says=ENDED,
        ),
    )


def _submitted() -> tuple[BadReply, ...]:
    wrong = calls(("submit_diagnosis", {"diagnosis_md": "It fails.", "clusters": [{"id": 5}]}))
    unknown = calls(
        ("submit_diagnosis", {"diagnosis_md": "It fails.", "clusters": [_cluster("nobody")]})
    )
    right = calls(("submit_diagnosis", {"diagnosis_md": "It fails.", "clusters": []}))
    fine: dict[str, Any] = {"diagnosis_md": "It fails.", "clusters": []}
    twice = calls(*[("submit_diagnosis", fine)] * 2)
    return (
        BadReply(name="a submission that is mended", replies=(wrong, unknown, right), says=ENDED),
        BadReply(
            name="a submission that is never mended",
            replies=(wrong,) * 4,
            max_turns=4,
            says="the limit of 4 turns was reached",
        ),
        BadReply(name="two submissions at once", replies=(twice,), says=ENDED),
        BadReply(
            name="a submission of null",
            replies=(calls(("submit_diagnosis", {"diagnosis_md": None, "clusters": None})), END),
            says=ENDED,
        ),
    )


def _long() -> tuple[BadReply, ...]:
    return (
        BadReply(name="a megabyte of words", replies=(text("x" * MEGABYTE), END), says=ENDED),
        BadReply(
            name="a megabyte of brackets", replies=(text("[{" * (MEGABYTE // 2)), END), says=ENDED
        ),
        BadReply(name="controls", replies=(text("a\0b \x1b[2J \u2028 \u202e"),), says=ENDED),
    )


def _cluster(*task_ids: str) -> dict[str, Any]:
    return {"id": "c", "description": "d", "skill_gap": "s", "sample_trace_ids": list(task_ids)}


def bad_endings() -> dict[str, str]:
    """Return final texts whose list of clusters is broken, by name."""
    good = json.dumps([_cluster("right", "wrong")])
    lists = {
        "no list": "It fails at dates.",
        "an empty fence": "```json\n```",
        "half a list": f"```json\n{good[:40]}",
        "a list without its fence": good,
        "a fence that stays open": f"```json\n{good}",
        "two lists": f"```json\n[]\n```\n```json\n{good}\n```",
        "NaN": '```json\n[{"id": "a", "description": "d", "student_failure_rate": NaN}]\n```',
        "infinity": '```json\n[{"id": "a", "description": "d", "student_failure_rate": -Infinity}]\n```',
        "a number without end": f'```json\n[{{"id": "a", "description": "d", "x": {"9" * 5_000}}}]\n```',
        "nesting without end": "```json\n" + "[" * 20_000,
        "numbers": "```json\n[1, 2, 3]\n```",
        "nulls": "```json\n[null, null]\n```",
        "lists in the list": "```json\n[[[]]]\n```",
        "an object": f'```json\n{{"clusters": {good}}}\n```',
        "null fields": '```json\n[{"id": null, "description": null, "sample_trace_ids": null}]\n```',
        "texts for lists": '```json\n[{"description": "d", "sample_trace_ids": "right, wrong"}]\n```',
        "a path as id": '```json\n[{"id": "../../x", "description": "d"}]\n```',
        "single quotes": "```json\n[{'id': 'a', 'description': 'd'}]\n```",
        "a comma too many": f"```json\n{good[:-1]},]\n```",
        "a hundred clusters": f"```json\n{json.dumps([_cluster('right')] * 100)}\n```",
    }
    return {name: f"The student fails.\n\n{words}" for name, words in lists.items()}


#: What is wrong for most arguments of most tools.
_WRONG: tuple[Any, ...] = (
    *(None, {}, "", 0, -1, True, 1.5, 10**40, 1e308),
    *("../../etc/passwd", "..\\..\\x", "file:///etc/passwd", "%2e%2e%2f", "*"),
    *("a\0b", "nobody", "NaN", '{"a": 1}', '"; SELECT 1; --', "\U0001f600" * 50),
    *([None], [[]], ["../x"], ["right"] * 101),
)


def arguments_of_every_tool() -> dict[str, list[tuple[str, Any]]]:
    """Return calls of each tool: every wrong value for every argument, and no arguments at all."""
    made: dict[str, list[tuple[str, Any]]] = {}
    for name, tool in TOOLS.items():
        given = [{argument: value} for argument in tool.properties for value in _WRONG]
        strange: list[dict[str, Any]] = [{}, {"nosuch": 1}, {"": ""}, {"__proto__": {}}]
        made[name] = [(name, arguments) for arguments in (*strange, *given)]
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Faults of the teacher's API, as the simulator plays them."""

    name: str
    faults: tuple[dict[str, Any], ...]
    #: Found in the session's reason.
    says: str
    #: Whether some call may have been billed without our knowing: charged at its bound.
    unknown: bool = False
    #: The longest that the session may take.
    seconds: float = 20.0
    limits: dict[str, Any] = field(default_factory=lambda: {"max_turns": 1})


def faults() -> tuple[Fault, ...]:
    """Return all of them: first those that stay, then those that pass."""
    limit = "the limit of 1 turn was reached"
    stays = (400, 401, 402, 403, 404, 413, 418)
    day = {"retry-after": "86400"}
    return (
        *(
            Fault(
                name=f"always {status}",
                faults=({"fault": "status", "status": status, "times": None},),
                says=rf"{BROKEN} .*status {status}",
                unknown=status == 418,
                seconds=10.0,
            )
            for status in stays
        ),
        Fault(
            name="a day to wait",
            faults=({"fault": "status", "status": 429, "headers": day, "times": None},),
            says=rf"{BROKEN} .*status 429",
            seconds=10.0,
        ),
        Fault(
            name="no word, ever",
            faults=({"fault": "empty_content", "times": None},),
            says="answered with nothing",
            seconds=10.0,
        ),
        Fault(
            name="a refusal before any word",
            faults=({"fault": "stop_reason", "stop_reason": "refusal", "empty": True},),
            says="refused to go on",
        ),
        Fault(
            name="a 429 with its wait",
            faults=({"fault": "status", "status": 429, "headers": {"retry-after": "1"}},),
            says=limit,
        ),
        Fault(name="a 529", faults=({"fault": "status", "status": 529},), says=limit),
        Fault(name="a 500", faults=({"fault": "status", "status": 500},), says=limit, unknown=True),
        Fault(
            name="a cut",
            faults=({"fault": "cut_stream", "after_events": 3},),
            says=limit,
            unknown=True,
        ),
        Fault(
            name="an error in the stream",
            faults=({"fault": "stream_error", "after_events": 3},),
            says=limit,
            unknown=True,
        ),
        Fault(name="a pause in the stream", faults=({"fault": "stall", "ms": 500},), says=limit),
        Fault(name="a reset", faults=({"fault": "reset"},), says=limit, unknown=True),
        Fault(
            name="a billed reset",
            faults=({"fault": "reset", "billed": True},),
            says=limit,
            unknown=True,
        ),
        Fault(
            name="a reply without a stop",
            faults=({"fault": "stop_reason", "stop_reason": None},),
            says=limit,
            unknown=True,
        ),
        Fault(
            name="a judge that is refused",
            faults=({"fault": "status", "status": 401, "times": None, "match": {"kind": "judge"}},),
            says=limit,
        ),
        Fault(
            name="a closing call that is refused",
            faults=(
                {"fault": "status", "status": 400, "times": None, "match": {"kind": "closing"}},
            ),
            says="No diagnosis was written",
        ),
    )
