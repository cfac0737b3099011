"""Results of tool calls, as the teacher is shown them and as it may read on in them.

Rule: every character of a result is paid for again in every later turn, so what is shown at first is
short, the JSON is always whole, and what was left out names the `read_more` call that shows it. Such
a handle names a call or a run of the session itself, and is nobody's key or path.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from worker.core.evidence import run_name
from worker.core.values import Payload, RunOutcome, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from worker.core.machine import Call, Run, Session, Turn

    TextOf = Callable[[Payload], str]

__all__ = ["HANDLES", "SHOWN_CHARS", "WHY", "call_result", "cut", "find_result", "result_of"]

#: About what a result takes at first, in characters of its JSON: at 2 to 4 KB a result a session
#: costs half of what it does at 10 to 20 KB.
SHOWN_CHARS = 4_000
#: Characters of a single run's output: the first that fit, escapes and numbers included.
_OUTPUT_CHARS = (3_000, 1_500, 500)
_WHY_CHARS = 300


class _BatchChars(NamedTuple):
    """How much of one run is shown within a batch."""

    #: Of the output of a run that failed, and of one that passed.
    failed: int
    passed: int
    #: Of the reason for its score.
    why: int


#: The first that fit. What a batch is asked for are its rates; then failures are looked at.
_BATCH_CHARS = (
    _BatchChars(failed=280, passed=280, why=200),
    _BatchChars(failed=280, passed=80, why=120),
    _BatchChars(failed=160, passed=0, why=80),
    _BatchChars(failed=80, passed=0, why=80),
    _BatchChars(failed=40, passed=0, why=40),
)

#: What a handle of this kind looks like, for people and models.
HANDLES = "call@<turn>.<index>, run@<trace_id of a student run>"
_HANDLE = re.compile(
    r"call@(?P<turn>[0-9]{1,6})\.(?P<index>[0-9]{1,6})"
    r"|run@run-(?P<run>[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6})"
)

#: Why a call was not made, in words for the teacher.
WHY = {
    Stop.TURNS: "all turns are used",
    Stop.TOOL_CALLS: "all tool calls are used",
    Stop.BUDGET: "the budget is used",
    Stop.TIME: "the time is up",
    Stop.CONTEXT: "the conversation became too long",
    Stop.REFUSED: "the last turn was refused",
    Stop.EMPTY: "the last turn was empty",
    Stop.FAULT: "the conversation could not be continued",
    Stop.PAUSED: "the session was paused for too long",
}


def call_result(session: Session, turn: int, index: int, text_of: TextOf) -> tuple[str, bool]:
    """Return (text, is_error) of a call's result, as the teacher sees it."""
    return result_of(session.turns[turn - 1].calls[index], f"{turn}.{index}", text_of)


def result_of(call: Call, place: str, text_of: TextOf) -> tuple[str, bool]:
    """Return (text, is_error) of a call's result, as the teacher sees it.

    Args:
        call: With what became of it.
        place: Its `turn.index`, for the handles of what is left out.
        text_of: Reads payloads.
    """
    if call.refused is not None:
        return f"Not executed: {WHY.get(call.refused, 'a limit was reached')}.", True
    if call.self_run is not None:
        return _fitting(
            _self_row(call.self_run, f"call@{place}", text_of, chars) for chars in _OUTPUT_CHARS
        ), False
    if call.runs is not None:
        return _shown_runs(call, call.runs, place, text_of), False
    if call.answer is not None:
        return text_of(call.answer.result), call.answer.is_error
    return "Not executed: the exploration ended first.", True


# ----------------------------------------------------------------------------------- reading on


def find_result(session: Session, given: str, text_of: TextOf) -> str | None:
    """Return the whole text that a handle of this session names; None where it names none."""
    match = _HANDLE.fullmatch(given)
    if match is None:
        return None
    if match["run"]:
        turn, index, ordinal = map(int, match["run"].split("."))
        call = _call(session, turn, index)
        return None if call is None else _output(call.runs or (), ordinal, text_of)
    place = int(match["turn"]), int(match["index"])
    call = _call(session, *place)
    if call is None or not call.complete:
        return None
    return _whole(call, ".".join(map(str, place)), text_of)


def _call(session: Session, turn: int, index: int) -> Call | None:
    turns: tuple[Turn, ...] = session.turns[turn - 1 : turn] if turn else ()
    calls = turns[0].calls if turns else ()
    return calls[index] if index < len(calls) else None


def _output(runs: Sequence[Run], ordinal: int, text_of: TextOf) -> str | None:
    record = runs[ordinal].record if ordinal < len(runs) else None
    return None if record is None or record.output is None else text_of(record.output)


def _whole(call: Call, place: str, text_of: TextOf) -> str:
    """Return a call's result with nothing left out."""
    if call.runs is not None:
        rows = [
            {"task_id": task_id, **_counts(runs), "runs": [_bare(run, text_of) for run in runs]}
            for task_id, runs in _by_task(call.runs)
        ]
        return _json({"untrusted_data": True, "tasks": rows} | _refused(call))
    if call.self_run is not None:
        return _json(_self_row(call.self_run, f"call@{place}", text_of, None))
    return result_of(call, place, text_of)[0]


def _bare(run: Run, text_of: TextOf) -> dict[str, Any]:
    row = _run_row(run, text_of, output_chars=None, why_chars=None)
    return {key: value for key, value in row.items() if key != "task_id"}


# ----------------------------------------------------------------------------------------- runs


def _shown_runs(call: Call, runs: Sequence[Run], place: str, text_of: TextOf) -> str:
    """Return the records of a call's student runs, as valid JSON of about `SHOWN_CHARS`."""
    if call.call.tool == "run_student_on_task" and len(runs) == 1:
        rows = (_single_row(runs[0], place, text_of, chars) for chars in _OUTPUT_CHARS)
        return _fitting({**row, **_refused(call)} for row in rows)
    frame = {"untrusted_data": True} | _refused(call)
    for chars in _BATCH_CHARS:
        rows = [_task_row(task_id, group, text_of, chars) for task_id, group in _by_task(runs)]
        text = _json({**frame, "tasks": rows, **_batch_more(place, rows)})
        if len(text) <= SHOWN_CHARS:
            return text
    return _json({**frame, **_counts_alone(runs), **_read_more(f"call@{place}")})


def _single_row(run: Run, place: str, text_of: TextOf, chars: int) -> dict[str, Any]:
    row = _run_row(run, text_of, output_chars=chars, why_chars=_WHY_CHARS)
    if "output_chars" in row:
        return row | _read_more(f"run@{row['trace_id']}", chars)
    return row | (_read_more(f"call@{place}") if "why_chars" in row else {})


def _batch_more(place: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how to read on in a batch, if something of it is not shown."""
    runs = [run for row in rows for run in row["runs"]]
    is_cut = any("output_chars" in run or "why_chars" in run for run in runs)
    return _read_more(f"call@{place}") if is_cut else {}


def _read_more(handle: str, offset: int = 0) -> dict[str, Any]:
    return {"read_more": {"handle": handle, "offset": offset}}


def _fitting(rows: Iterable[dict[str, Any]]) -> str:
    """Return the first row that is short enough as JSON, else the last."""
    text = ""
    for row in rows:
        text = _json(row)
        if len(text) <= SHOWN_CHARS:
            break
    return text


def _counts_alone(runs: Sequence[Run]) -> dict[str, Any]:
    """Return how the runs came out by task, as many tasks as fit; the rest has a count."""
    rows: list[dict[str, Any]] = []
    left = SHOWN_CHARS - 400
    for task_id, group in _by_task(runs):
        row = {"task_id": task_id, **_counts(group)}
        left -= len(_json(row)) + 1
        if left < 0:
            break
        rows.append(row)
    totals = {"runs": len(runs), "tasks": len({run.spec.task_id for run in runs}), **_counts(runs)}
    return {"totals": totals, "tasks": rows, "truncated": True}


def _refused(call: Call) -> dict[str, Any]:
    if not call.runs_refused:
        return {}
    return {"not_run": call.runs_refused, "not_run_why": "the limit of student runs is reached"}


def _by_task(runs: Sequence[Run]) -> Iterable[tuple[str, list[Run]]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.spec.task_id, []).append(run)
    return groups.items()


def _counts(runs: Sequence[Run]) -> dict[str, Any]:
    counted = [run for run in runs if run.counts]
    passed = sum(bool(run.passed) for run in counted)
    rate = round((len(counted) - passed) / len(counted), 4) if counted else None
    return {
        "passed": passed,
        "counted": len(counted),
        "faults": len(runs) - len(counted),
        "failure_rate": rate,
    }


def _task_row(
    task_id: str, runs: Sequence[Run], text_of: TextOf, chars: _BatchChars
) -> dict[str, Any]:
    rows = [
        _lean(run, text_of, chars.passed if run.passed else chars.failed, chars.why) for run in runs
    ]
    return {"task_id": task_id, **_counts(runs), "runs": rows}


def _lean(run: Run, text_of: TextOf, output_chars: int, why_chars: int) -> dict[str, Any]:
    """Return a run's row without what its task's row says, and without what a batch is not for."""
    row = _run_row(run, text_of, output_chars=output_chars, why_chars=why_chars)
    left_out = {"task_id", "latency_seconds", "tokens_used"}
    if row["outcome"] == RunOutcome.ANSWERED.value:
        left_out.add("outcome")
    return {key: value for key, value in row.items() if key not in left_out}


def _run_row(
    run: Run, text_of: TextOf, *, output_chars: int | None, why_chars: int | None
) -> dict[str, Any]:
    """Return a run's record, texts cut to so many characters; None cuts nothing."""
    record = run.record
    if record is None:
        return {"task_id": run.spec.task_id, "outcome": "not run"}
    output = text_of(record.output) if record.output else None
    row: dict[str, Any] = {
        "task_id": run.spec.task_id,
        "outcome": record.outcome.value,
        "score": run.score,
        "passed": run.passed,
        **_shown("output", output, output_chars),
        "trace_id": run_name(record),
        "latency_seconds": round(record.latency_ms / 1000, 3),
        "tokens_used": record.tokens,
    }
    why = run.verdict.why if run.verdict else record.why
    if why and (record.outcome is RunOutcome.FAULT or not run.passed):
        row |= _shown("why", why, why_chars)
    return row


def _self_row(run: Run, handle: str, text_of: TextOf, output_chars: int | None) -> dict[str, Any]:
    why_chars = None if output_chars is None else _WHY_CHARS
    row = _run_row(run, text_of, output_chars=output_chars, why_chars=why_chars)
    del row["trace_id"], row["latency_seconds"]
    is_cut = "output_chars" in row or "why_chars" in row
    cost_nusd = run.record.cost_nusd if run.record else 0
    return {**row, "cost_usd": round(cost_nusd / 1e9, 6), **(_read_more(handle) if is_cut else {})}


def _shown(name: str, text: str | None, chars: int | None) -> dict[str, Any]:
    """Return a text as a field, and how long it is where it is cut."""
    if text is None or chars is None or len(text) <= chars:
        return {name: text}
    return {name: text[:chars] + "…" if chars else None, f"{name}_chars": len(text)}


def cut(text: str, limit: int) -> str:
    """Return at most `limit` characters, saying how many there were."""
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text)} characters]"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
