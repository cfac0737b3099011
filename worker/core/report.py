"""The artifacts that programs read: JSON and JSON Lines.

Rule: the same findings give the same bytes, in any process. A rate is measured or null, and a claim
is called a claim.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from worker.core.caching import cache_saved_nusd, cache_uses
from worker.core.events import key_of, turn_key
from worker.core.evidence import Evidence, run_name, tally
from worker.core.findings import paid_by_call, paid_by_step, usd_text
from worker.core.values import Runner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from worker.core.events import TeacherReplied
    from worker.core.evidence import CheckedCluster, Share, Tally
    from worker.core.findings import Findings
    from worker.core.machine import Call, Run, Turn
    from worker.core.values import Fork

__all__ = [
    "clusters_json",
    "costs_jsonl",
    "manifest_json",
    "runs_jsonl",
    "session_json",
    "teacher_traces_jsonl",
    "transcript_jsonl",
    "StoredFile",
]

#: Layout of `session.json` and `manifest.json`; grows when a key changes its meaning.
FORMAT_VERSION = 1
#: JSON Lines end at a line feed, but some readers split at these as well.
_ALSO_LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
#: Arguments that nest deeper are written as the text they came as.
_MAX_JSON_DEPTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An artifact as it lies in the store."""

    size_bytes: int
    sha256: str
    key: str


def _dumps(value: object, *, indent: int | None = None) -> str:
    """Return JSON text with a newline at its end that any UTF-8 file can hold.

    Half of a surrogate pair cannot be encoded, but its JSON escape can.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    encodable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return encodable.translate(_ALSO_LINE_BREAKS) + "\n"


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(_dumps(row) for row in rows)


def _json_or_text(text: str) -> object:
    """Return `text` as JSON where it can be written as JSON again, else the text itself."""
    try:
        value: object = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value if _is_shallow(value) else text


def _is_shallow(value: object) -> bool:
    """Whether `value` nests less deep than what every reader of JSON takes."""
    level: list[Any] = [value]
    for _ in range(_MAX_JSON_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return True
    return False


def _children(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).values()
    return cast("list[Any]", value) if isinstance(value, list) else ()


def _usd_number(nusd: int) -> float:
    """Return dollars as a JSON number that prints as the exact decimal, below $1,000,000.

    Such a number has at most 15 digits, and a double gives 15 digits back as they were.
    """
    return float(usd_text(nusd))


def clusters_json(found: Findings) -> str:
    """Return `clusters.json`: the reference's keys with measured rates, then what is ours."""
    return _dumps([_cluster_row(cluster) for cluster in found.clusters], indent=2)


def _cluster_row(cluster: CheckedCluster) -> dict[str, Any]:
    return {
        "id": cluster.cluster_id,
        "description": cluster.description,
        "sample_trace_ids": cluster.sample_ids,
        "student_failure_rate": cluster.student_failure_rate,
        "teacher_success_rate": cluster.teacher_success_rate,
        "skill_gap": cluster.skill_gap,
        "addressed_by_edit_ids": [],
        "evidence": cluster.evidence.value,
        "claimed_student_failure_rate": cluster.claimed_student_failure_rate,
        "claimed_teacher_success_rate": cluster.claimed_teacher_success_rate,
        "student_failure_interval_95": _interval(cluster.student.failures),
        "teacher_success_interval_95": _interval(cluster.teacher.successes),
        "student_failure_rate_elsewhere": cluster.student_elsewhere.rate,
        "p_value_vs_rest": cluster.p_value_vs_rest,
        "student": _tally_row(cluster.student),
        "teacher": _tally_row(cluster.teacher),
        "sample_task_ids": cluster.task_ids,
        "unknown_ids": cluster.unknown_ids,
    }


def _interval(share: Share) -> list[float] | None:
    interval = share.interval_95
    return [round(bound, 4) for bound in interval] if interval else None


def _tally_row(runs: Tally) -> dict[str, int]:
    return {**asdict(runs), "counted": runs.counted, "asked": runs.asked}


def teacher_traces_jsonl(found: Findings) -> str:
    """Return `teacher_traces/diagnose.jsonl`: a line a tool call, the reference's keys, then ours.

    `latency_ms` of a call that had runs is that of its longest one: they ran side by side.
    """
    paid = paid_by_call(found.costs)
    return _lines(
        _trace_row(found, turn, index, call, paid.get(f"{turn.reply.turn}.{index}", 0))
        for turn in found.session.turns
        for index, call in enumerate(turn.calls)
    )


def _trace_row(
    found: Findings, turn: Turn, index: int, call: Call, cost_nusd: int
) -> dict[str, Any]:
    number = turn.reply.turn
    place = f"{number}.{index}"
    result, is_error = found.call_result(found.session, number, index, found.text_of)
    return {
        "timestamp": found.times.get(f"call/{place}") or found.times.get(key_of(turn.reply)),
        "tool": call.call.tool,
        "args": _json_or_text(call.call.arguments_json),
        "result": result,
        "latency_ms": _latency_ms(call),
        "cost_usd": _usd_number(cost_nusd),
        "cost_nusd": cost_nusd,
        "turn": number,
        "index": index,
        "call_id": call.call.call_id,
        "is_error": is_error,
        "state": _state(call),
    }


def _state(call: Call) -> str:
    if call.refused is not None:
        return "refused"
    return "done" if call.complete else "unfinished"


def _latency_ms(call: Call) -> int:
    if call.answer is not None:
        return call.answer.latency_ms
    runs = call.runs or ((call.self_run,) if call.self_run else ())
    return max((run.record.latency_ms for run in runs if run.record), default=0)


def transcript_jsonl(found: Findings) -> str:
    """Return `transcript.jsonl`: a line a teacher's reply, with the results that went back."""
    return _lines(_transcript_rows(found))


def _transcript_rows(found: Findings) -> Iterator[dict[str, Any]]:
    paid = paid_by_step(found.costs)
    turns = found.session.turns
    for turn, use in zip(turns, cache_uses([turn.reply for turn in turns]), strict=True):
        row = _reply_row(found, turn.reply, paid, results=_result_rows(found, turn))
        yield {**row, "cache": asdict(use)}
    for reply in found.session.closings:
        yield _reply_row(found, reply, paid, results=[])


def _reply_row(
    found: Findings,
    reply: TeacherReplied,
    paid: Mapping[str, int],
    *,
    results: list[dict[str, Any]],
) -> dict[str, Any]:
    key = turn_key(reply.turn, reply.purpose)
    cost_nusd = paid.get(key, 0)
    return {
        "turn": reply.turn,
        "purpose": reply.purpose.value,
        "timestamp": found.times.get(key),
        "model": reply.model,
        "message_id": reply.message_id,
        "request_id": reply.request_id,
        "stop_reason": reply.stop_reason,
        "content": _json_or_text(found.text_of(reply.content)),
        "results": results,
        "usage": asdict(reply.usage),
        "latency_ms": reply.latency_ms,
        "cost_usd": _usd_number(cost_nusd),
        "cost_nusd": cost_nusd,
    }


def _result_rows(found: Findings, turn: Turn) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index, call in enumerate(turn.calls):
        result, is_error = found.call_result(found.session, turn.reply.turn, index, found.text_of)
        rows.append(
            {
                "call_id": call.call.call_id,
                "tool": call.call.tool,
                "result": result,
                "is_error": is_error,
            }
        )
    return rows


def runs_jsonl(found: Findings) -> str:
    """Return `runs.jsonl`: a line a run of student or teacher, those that never ended included."""
    return _lines(_run_rows(found))


def _run_rows(found: Findings) -> Iterator[dict[str, Any]]:
    paid = paid_by_step(found.costs)
    for turn in found.session.turns:
        for index, call in enumerate(turn.calls):
            place = f"{turn.reply.turn}.{index}"
            for ordinal, run in enumerate(call.runs or ()):
                steps = (f"run/{place}.{ordinal}", f"judge/{place}.{ordinal}")
                yield _run_row(found, run, sum(paid.get(step, 0) for step in steps))
            if call.self_run is not None:
                steps = (f"call/{place}", f"judge/{place}.0")
                yield _run_row(found, call.self_run, sum(paid.get(step, 0) for step in steps))


def _run_row(found: Findings, run: Run, cost_nusd: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "task_id": run.spec.task_id,
        "attempt": run.spec.attempt,
        "runner": run.runner.value,
        "outcome": run.record.outcome.value if run.record else "unfinished",
        "score": run.score,
        "passed": run.passed,
        "counts": run.counts,
    }
    record = run.record
    if record is None:
        return row
    return {
        **row,
        "scorer": record.scorer,
        "why": run.verdict.why if run.verdict else record.why,
        "output": found.text_of(record.output) if record.output else None,
        "trace_id": run_name(record),
        "turn": record.turn,
        "index": record.index,
        "ordinal": record.ordinal,
        "timestamp": found.times.get(key_of(record)),
        "latency_ms": record.latency_ms,
        "tokens": record.tokens,
        "cost_usd": _usd_number(cost_nusd),
        "cost_nusd": cost_nusd,
    }


def costs_jsonl(found: Findings) -> str:
    """Return `costs.jsonl`: a line a reservation, in the ledger's order."""
    return _lines(
        {
            "reservation_id": cost.reservation_id,
            "step_id": cost.step_id,
            "kind": cost.kind,
            "model": cost.model,
            "state": cost.state,
            "amount_nusd": cost.amount_nusd,
            "actual_nusd": cost.actual_nusd,
            "actual_usd": usd_text(cost.actual_nusd),
            "usage": asdict(cost.usage) if cost.usage else None,
            "request_id": cost.request_id,
            "why": cost.why,
            "created_ms": cost.created_ms,
            "ended_ms": cost.ended_ms,
        }
        for cost in found.costs
    )


def session_json(found: Findings) -> str:
    """Return `session.json`: what was asked for, how it ended, what was counted and paid."""
    session = found.session
    ending = session.ending
    return _dumps(
        {
            "version": FORMAT_VERSION,
            "session_id": session.spec.session_id,
            "outcome": found.outcome.value,
            "reason": found.reason,
            "stop": session.stop.value if session.stop else None,
            "stop_detail": session.stop_detail,
            "nothing_found": ending.nothing_found if ending else False,
            "remarks": ending.remarks if ending else (),
            "faults": session.faults,
            "forked": _fork_row(session.spec.forked),
            "pauses": session.pauses,
            "counts": _counts(found),
            "cost": _cost_row(found),
            "spec": asdict(session.spec),
            "versions": dict(sorted(found.versions.items())),
        },
        indent=2,
    )


def _fork_row(fork: Fork | None) -> dict[str, Any] | None:
    if fork is None:
        return None
    return {
        "from_session": fork.session_id,
        "at_turn": fork.at_turn,
        "without": fork.without,
        "inherited_nusd": fork.inherited_nusd,
        "inherited_usd": usd_text(fork.inherited_nusd),
    }


def _counts(found: Findings) -> dict[str, Any]:
    session = found.session
    runs = tuple(session.runs)
    levels = [cluster.evidence for cluster in found.clusters]
    return {
        "traces": session.prepared.traces if session.prepared else None,
        "tasks": session.prepared.tasks if session.prepared else None,
        "turns": len(session.turns),
        "tool_calls": session.tool_calls,
        "clusters": {level.value: levels.count(level) for level in Evidence},
        "student_runs": _tally_row(tally(runs, Runner.STUDENT)),
        "teacher_runs": _tally_row(tally(runs, Runner.TEACHER)),
    }


def _cost_row(found: Findings) -> dict[str, Any]:
    """Return the money; with what the cache did for the exploration's turns."""
    return {
        "total_nusd": found.total_nusd,
        "total_usd": usd_text(found.total_nusd),
        "cap_nusd": found.session.spec.limits.max_cost_nusd,
        "by_kind_nusd": found.by_kind_nusd,
        "unknown_outcome_nusd": found.unknown_nusd,
        "still_held_nusd": found.still_held_nusd,
        "cache": _cache_row([turn.reply for turn in found.session.turns]),
    }


def _cache_row(replies: Sequence[TeacherReplied]) -> dict[str, Any]:
    uses = cache_uses(replies)
    misses = [use.miss.value for use in uses if use.miss is not None]
    return {
        "read_tokens": sum(use.read_tokens for use in uses),
        "written_tokens": sum(use.written_tokens for use in uses),
        "uncached_tokens": sum(use.uncached_tokens for use in uses),
        "missed_tokens": sum(use.missed_tokens for use in uses),
        "misses": {miss: misses.count(miss) for miss in sorted(set(misses))},
        "saved_nusd": cache_saved_nusd(replies),
    }


def manifest_json(files: Mapping[str, StoredFile], *, session_id: str) -> str:
    """Return `manifest.json`: which files count, by name, with their sizes and hashes."""
    rows = {name: asdict(file) for name, file in sorted(files.items())}
    return _dumps({"version": FORMAT_VERSION, "session_id": session_id, "files": rows}, indent=2)
