"""Names for texts that are too long to be shown at once.

Rule: a handle says what it names and is checked like any argument; it holds no state, so it works in
any process, in any later turn.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.traces.cells import compact

if TYPE_CHECKING:
    from worker.bundle import Bundle
    from worker.traces.cells import Json

__all__ = ["FORMS", "find_text", "handle"]

#: What the teacher is told when a handle is none of these.
FORMS = (
    "trace.query@<trace_id>, trace.result@<trace_id>, trace.metadata@<trace_id>, "
    "trace.step.<n>.input@<trace_id> (or output, metadata), trace.message.<n>@<trace_id>, "
    "prompt@<agent_name>, tool@<tool_name>, config@, task.query@<task_id>"
)

_HANDLE = re.compile(
    r"(?:trace\.(?P<field>query|result|metadata)"
    r"|trace\.step\.(?P<step>[0-9]{1,9})\.(?P<part>input|output|metadata)"
    r"|trace\.message\.(?P<message>[0-9]{1,9})"
    r"|(?P<other>prompt|tool|config|task\.query|task\.reference))@(?P<named>.*)",
    re.DOTALL,
)


def handle(what: str, named: str = "") -> str:
    """Return the handle of a text, as `find_text` takes it."""
    return f"{what}@{named}"


def find_text(bundle: Bundle, given: str, *, reveal_references: bool) -> str | None:
    """Return the whole text that a handle names, without credentials; None where it names none."""
    match = _HANDLE.fullmatch(given)
    if match is None:
        return None
    named = match["named"]
    if match["other"]:
        text = _other(bundle, match["other"], named, reveal_references=reveal_references)
        return None if text is None else bundle.redactor.text(text)
    value = _of_trace(bundle, match, named)
    return None if value is None else compact(bundle.redactor.value(value))


def _of_trace(bundle: Bundle, match: re.Match[str], trace_id: str) -> Json:
    if match["step"]:
        n = int(match["step"])
        steps = bundle.traces.steps(trace_id, first=n)
        return getattr(steps[0], match["part"]) if steps and steps[0].n == n else None
    trace = bundle.traces.get(trace_id)
    if trace is None:
        return None
    if match["message"]:
        n = int(match["message"])
        return trace.messages[n] if n < len(trace.messages) else None
    return getattr(trace, match["field"])


def _other(bundle: Bundle, what: str, named: str, *, reveal_references: bool) -> str | None:
    match what:
        case "prompt":
            return bundle.agent_prompt(named)
        case "config":
            return None if named else bundle.config_text
        case "tool":
            tool = bundle.tool_descriptions.get(named)
            return None if tool is None else tool.description
        case _:
            sample = bundle.benchmark.get(named)
            if sample is None or (what == "task.reference" and not reveal_references):
                return None
            return sample.query if what == "task.query" else sample.reference_answer
