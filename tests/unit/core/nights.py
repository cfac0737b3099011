"""Nights as a researcher finds them in the morning: one session for each way to end.

Rule: every amount is odd, so that a sum that is off shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.core.told import Told, cluster, ending, text_of
from worker.core.costs import Cost
from worker.core.events import CancelRequested, PreparationFailed, TeacherStopped
from worker.core.evidence import check, conclude_outcome
from worker.core.findings import Findings
from worker.core.values import Limits, Purpose, Stop, Usage

if TYPE_CHECKING:
    from worker.core.findings import TextOf
    from worker.core.machine import Session

__all__ = ["NIGHTS", "found", "result_of"]

TASKS = frozenset(
    f"{kind}-{number:02d}" for kind in ("date", "format", "sum") for number in range(1, 5)
)
TRACES = {"tr-77": "date-04", "tr-78": None}
DIAGNOSIS = """\
# Diagnosis of smol

The student adds days as if every month had 30 of them (date-01, date-02, date-03), and
it answers in prose where JSON is asked for.

```json
[{"id": "month-ends", "description": "…", "sample_trace_ids": ["date-01"]}]
```
"""
MONTH_ENDS = cluster(
    "month-ends",
    *("date-01", "date-02", "date-03", "tr-77", "tr-4711"),
    description="Adds days across the end of a month as if every month had 30 days.",
    skill_gap="Carrying over month lengths | leap years.",
    student_failure_rate=0.7,
    teacher_success_rate=1.0,
)
NO_JSON = cluster(
    "no-json",
    "format-01",
    description="Answers in prose where JSON is asked for.",
    student_failure_rate=0.9,
)
TONE = cluster("tone", "format-04", description="Is rude to people who are in a hurry.")
UNTRUE = cluster("long-sums", "sum-01", "sum-02", description="Fails at long sums.")


def result_of(session: Session, turn: int, index: int, text_of: TextOf) -> tuple[str, bool]:
    """Return a call's result, in few words."""
    call = session.turns[turn - 1].calls[index]
    if call.answer is not None:
        return text_of(call.answer.result), call.answer.is_error
    if call.refused is not None:
        return f"Not executed: {call.refused.value}.", True
    runs = call.runs or (call.self_run,)
    return ", ".join(str(run.passed if run else None) for run in runs), False


def found(told: Told, costs: tuple[Cost, ...] | None = None) -> Findings:
    """Return what a session leaves, each of its calls paid."""
    session = told.session
    checked = check(session.ending, session.runs, TASKS, TRACES)
    outcome, reason = conclude_outcome(session, checked)
    return Findings(
        session=session,
        outcome=outcome,
        reason=reason,
        clusters=checked,
        costs=_paid(told) if costs is None else costs,
        text_of=text_of,
        call_result=result_of,
        times={
            key: f"2026-01-05T02:{number // 60:02d}:{number % 60:02d}.000Z"
            for number, key in enumerate(told.keys)
        },
        versions={"worker": "0.1.0", "prices": session.spec.price_version},
    )


def _paid(told: Told) -> tuple[Cost, ...]:
    kinds = {"turn": "explore", "close": "close", "extract": "extract", "judge": "judge"}
    steps = [key for key in told.keys if key.split("/")[0] in kinds]
    settled = [
        _cost(step, kinds[step.split("/")[0]], 41_234_567 + 1_000_003 * number)
        for number, step in enumerate(steps)
    ]
    hold = _cost("closing-hold", "close", 0, state="void", why="the closing call was not needed")
    return (hold, *settled)


def _cost(step_id: str, kind: str, nusd: int, *, state: str = "settled", why: str = "") -> Cost:
    return Cost(
        reservation_id=f"night-2026-01-05-smol/{step_id}/1.1",
        step_id=step_id,
        kind=kind,
        model="claude-opus-4-6",
        state=state,
        amount_nusd=300_000_000,
        actual_nusd=nusd,
        usage=None if why else Usage(input_tokens=900, output_tokens=150),
        request_id="" if why else f"req_{step_id}",
        why=why,
        created_ms=1_767_571_200_000,
        ended_ms=1_767_571_203_250,
    )


def _explored() -> Told:
    return (
        Told.prepared()
        .reads("list_traces", {"outcome": "failure", "limit": 3}, '[{"trace_id": "tr-77"}]')
        .students(
            **{f"date_0{number}": runs for number, runs in enumerate(("fff", "ffp", "fjx"), 1)},
            format_01="fu",
            format_02="ff",
            sum_01="pppp",
            sum_02="ppp",
        )
        .teacher(date_01="p", date_02="p", date_03="p", format_01="f")
    )


def concluded() -> Findings:
    """Two clusters that hold, one that is only claimed, one made-up id."""
    remarks = ("cluster 'month-ends': its student_failure_rate: 70 was read as 0.7",)
    told = _explored().submits(ending(MONTH_ENDS, NO_JSON, TONE, text=DIAGNOSIS, remarks=remarks))
    lost = _cost("turn/2", "explore", 7_000_001, state="expired", why="the connection was cut")
    before, *others = _paid(told)
    return found(told, (before, lost, *others))


def nothing_wrong() -> Findings:
    """The student can do it all."""
    told = Told.prepared().students(sum_01="ppp", sum_02="ppp", sum_03="pp", format_01="p")
    text = "Nothing is wrong with this student.\n\n```json\n[]\n```"
    return found(told.writes(ending(text=text, nothing_found=True)))


def refuted() -> Findings:
    """What was claimed is not what was measured; the text breaks off in its fence."""
    told = Told.prepared().students(sum_01="ppp", sum_02="pp").teacher(sum_01="p")
    text = '# Diagnosis\n\nLong sums fail.\n\n```json\n[{"id": "long-sums", "descr'
    return found(told.writes(ending(UNTRUE, text=text)))


def out_of_money() -> Findings:
    """The budget ended the exploration, and the closing call failed."""
    told = _explored().then(
        TeacherStopped(
            turn=4, purpose=Purpose.EXPLORE, stop=Stop.BUDGET, detail="campaign has $0.02 left"
        ),
        TeacherStopped(turn=0, purpose=Purpose.CLOSE, stop=Stop.FAULT, detail="HTTP 529"),
    )
    return found(told)


def cut_at_tool_calls() -> Findings:
    """The last calls were refused; the closing call wrote what was known."""
    told = Told.prepared(limits=Limits(max_tool_calls=3))
    told.students(date_01="ff", date_02="f", date_03="f").teacher(
        date_01="p", date_02="p", date_03=" "
    )
    return found(told.writes(ending(MONTH_ENDS, text="Dates fail."), Purpose.CLOSE))


def cancelled() -> Findings:
    """Somebody stopped it while students ran."""
    told = Told.prepared().students(date_01="fx ", date_02="  ")
    return found(told.then(CancelRequested(reason="the GPU is needed")))


def not_prepared() -> Findings:
    """There was no bundle."""
    opened = Told.prepared().events[0]
    told = Told([opened, PreparationFailed(reason="bundle 3f… is not in the store")])
    return found(told, ())


NIGHTS = {
    make.__name__: make
    for make in (
        concluded,
        nothing_wrong,
        refuted,
        out_of_money,
        cut_at_tool_calls,
        cancelled,
        not_prepared,
    )
}
