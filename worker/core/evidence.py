"""Checking a teacher's claims against the runs, and saying how a session ended.

Rule: a rate is a quotient of counted runs or it is None. A fault, and a run that nobody could
judge, is counted apart and stands in no denominator; a claim is kept beside the rate and changes
nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from worker.core.values import Outcome, Runner, RunOutcome, Stop

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from worker.core.events import RunRecorded
    from worker.core.machine import Run, Session
    from worker.core.values import ClaimedCluster, Ending

__all__ = [
    "check",
    "conclude_outcome",
    "run_name",
    "run_tasks",
    "task_table",
    "tally",
    "why_it_stopped",
    "CheckedCluster",
    "Evidence",
    "Share",
    "Tally",
    "TaskRow",
    "fisher_two_sided",
    "MIN_TASKS",
]

#: The fewest tasks that carry a measurement: what the teacher is asked for in each cluster.
MIN_TASKS = 3
#: The 97.5 % quantile of the normal distribution: two-sided 95 %.
_Z_95 = 1.959963984540054
#: How much of a detail that came from outside a reason quotes.
_MAX_DETAIL_CHARS = 300


class Evidence(StrEnum):
    """How far a cluster's rates were measured.

    Counted runs only: no faults, nothing unjudged.
    """

    #: The student was measured on at least `MIN_TASKS` of the cluster's tasks, the teacher too.
    MEASURED = "measured"
    #: At least one run was measured, but fewer tasks than that, or one of the two not at all.
    PARTIAL = "partial"
    #: No run on the cluster's tasks was measured: there is only the teacher's word.
    CLAIMED = "claimed"


# ---------------------------------------------------------------------------------------- numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """`hits` of `total` counted runs."""

    hits: int
    total: int

    @property
    def rate(self) -> float | None:
        """The share, 0..1; None where nothing was counted."""
        return self.hits / self.total if self.total else None

    @property
    def interval_95(self) -> tuple[float, float] | None:
        """The 95 % score interval of the rate; None where nothing was counted.

        With p = hits / n: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), after E. B. Wilson,
        "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc.
        22 (1927) 209-212. It takes the runs as independent: with many repeats of few tasks the
        truth is wider.
        """
        if not self.total:
            return None
        n, p, z2 = self.total, self.hits / self.total, _Z_95**2
        middle = p + z2 / (2 * n)
        half = _Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        low = 0.0 if self.hits == 0 else (middle - half) / (1 + z2 / n)
        high = 1.0 if self.hits == n else (middle + half) / (1 + z2 / n)
        return low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The runs of one model on some tasks, counted."""

    passed: int = 0
    failed: int = 0
    #: The infrastructure failed.
    faults: int = 0
    #: Answered, but no scorer or judge could say whether it was right.
    unjudged: int = 0
    #: Asked for, but not over when the session ended.
    unfinished: int = 0
    #: Tasks with at least one counted run.
    tasks: int = 0

    @property
    def counted(self) -> int:
        """The denominator: runs that say something about the model."""
        return self.passed + self.failed

    @property
    def asked(self) -> int:
        """All runs."""
        return self.counted + self.faults + self.unjudged + self.unfinished

    @property
    def failures(self) -> Share:
        """The share of failed runs among the counted ones."""
        return Share(hits=self.failed, total=self.counted)

    @property
    def successes(self) -> Share:
        """The share of passed runs among the counted ones."""
        return Share(hits=self.passed, total=self.counted)


def tally(runs: Iterable[Run], runner: Runner, task_ids: Collection[str] | None = None) -> Tally:
    """Return the counts of a runner's runs, on some tasks or on all of them."""
    mine = [
        run
        for run in runs
        if run.runner is runner and (task_ids is None or run.spec.task_id in task_ids)
    ]
    counts = Counter(map(_place, mine))
    return Tally(
        passed=counts["passed"],
        failed=counts["failed"],
        faults=counts["faults"],
        unjudged=counts["unjudged"],
        unfinished=counts["unfinished"],
        tasks=len({run.spec.task_id for run in mine if run.counts}),
    )


def _place(run: Run) -> str:
    """Return the one field of a tally in which a run counts."""
    if run.counts:
        return "passed" if run.passed else "failed"
    if run.record is not None and run.record.outcome is RunOutcome.FAULT:
        return "faults"
    return "unjudged" if run.complete else "unfinished"


def fisher_two_sided(inside: Share, outside: Share) -> float | None:
    """Return the exact p-value for "both shares come from one rate"; None where one is empty.

    With all margins fixed, the number of hits inside is hypergeometric; p is the summed probability
    of all tables that are no likelier than the one seen, after R. A. Fisher, "On the interpretation
    of χ² from contingency tables, and the calculation of P", J. R. Stat. Soc. 85 (1922) 87-94.
    Whole numbers up to the last division, so that equally likely tables tie exactly.
    """
    if not inside.total or not outside.total:
        return None
    n, other, hits = inside.total, outside.total, inside.hits + outside.hits
    least, most = max(0, hits - other), min(n, hits)
    weights = [math.comb(n, least) * math.comb(other, hits - least)]
    for k in range(least, most):
        weights.append(weights[-1] * (n - k) * (hits - k) // ((k + 1) * (other - hits + k + 1)))
    seen = weights[inside.hits - least]
    return sum(weight for weight in weights if weight <= seen) / sum(weights)


# ------------------------------------------------------------------------------------------ tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """What was measured on one task."""

    task_id: str
    student: Tally
    teacher: Tally


def task_table(runs: Iterable[Run]) -> tuple[TaskRow, ...]:
    """Return what was measured on each task that was run, in the order of the task ids."""
    by_task: dict[str, list[Run]] = {}
    for run in runs:
        by_task.setdefault(run.spec.task_id, []).append(run)
    return tuple(
        TaskRow(
            task_id=task_id,
            student=tally(of_task, Runner.STUDENT),
            teacher=tally(of_task, Runner.TEACHER),
        )
        for task_id, of_task in sorted(by_task.items())
    )


def run_tasks(runs: Iterable[Run]) -> dict[str, str]:
    """Return the tasks of the student's runs by the name under which the teacher was shown each.

    A teacher may name these runs as samples, as it may name the traces of the bundle.
    """
    return {name: run.spec.task_id for run in runs if (name := run_name(run.record)) is not None}


def run_name(record: RunRecorded | None) -> str | None:
    """Return a student run's name, its `trace_id` in tool results; None for other runs."""
    if record is None or record.runner is not Runner.STUDENT:
        return None
    return f"run-{record.turn}.{record.index}.{record.ordinal}"


# --------------------------------------------------------------------------------------- clusters


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedCluster:
    """A cluster with what was measured beside what was claimed."""

    cluster_id: str
    description: str
    skill_gap: str
    #: The claimed ids that exist, in the teacher's order: tasks and traces.
    sample_ids: tuple[str, ...]
    #: The benchmark's tasks that these ids stand for, each once.
    task_ids: tuple[str, ...]
    #: Claimed ids that are neither a task nor a trace.
    unknown_ids: tuple[str, ...]
    claimed_student_failure_rate: float | None
    claimed_teacher_success_rate: float | None
    #: Runs on the cluster's tasks.
    student: Tally
    teacher: Tally
    #: The student's failures on all other tasks of the session.
    student_elsewhere: Share

    @property
    def student_failure_rate(self) -> float | None:
        """Measured, 0..1; None where nothing was."""
        return self.student.failures.rate

    @property
    def teacher_success_rate(self) -> float | None:
        """Measured, 0..1; None where nothing was."""
        return self.teacher.successes.rate

    @property
    def p_value_vs_rest(self) -> float | None:
        """How likely so large a difference to `student_elsewhere` would be by chance.

        None where there is nothing to compare. It is two-sided: look which rate is the higher one.
        The teacher chose the tasks after it saw the runs, so a small p says that these tasks stand
        out among those that were run, not that new ones would.
        """
        return fisher_two_sided(self.student.failures, self.student_elsewhere)

    @property
    def evidence(self) -> Evidence:
        """How far the two rates were measured."""
        if min(self.student.tasks, self.teacher.tasks) >= MIN_TASKS:
            return Evidence.MEASURED
        if self.student.counted or self.teacher.counted:
            return Evidence.PARTIAL
        return Evidence.CLAIMED


def check(
    ending: Ending | None,
    runs: Iterable[Run],
    known_task_ids: Collection[str],
    trace_tasks: Mapping[str, str | None],
) -> tuple[CheckedCluster, ...]:
    """Return the ending's clusters, in its order, with what the runs say about each.

    Args:
        ending: What the teacher wrote; None where it wrote nothing.
        runs: All runs of the session; the student's may be named as samples by their `run_name`.
        known_task_ids: The benchmark's tasks.
        trace_tasks: Every trace of the bundle; the task it is of, None where that is not known.
    """
    if ending is None:
        return ()
    all_runs = tuple(runs)
    tasks = frozenset(known_task_ids)
    traces = {**run_tasks(all_runs), **trace_tasks}
    return tuple(_checked(cluster, all_runs, tasks, traces) for cluster in ending.clusters)


def _checked(
    cluster: ClaimedCluster,
    runs: Sequence[Run],
    tasks: frozenset[str],
    trace_tasks: Mapping[str, str | None],
) -> CheckedCluster:
    known = {one: None for one in cluster.sample_ids if one in tasks or one in trace_tasks}
    meant = (one if one in tasks else trace_tasks[one] for one in known)
    task_ids = tuple(dict.fromkeys(one for one in meant if one in tasks))
    student = tally(runs, Runner.STUDENT, task_ids)
    return CheckedCluster(
        cluster_id=cluster.cluster_id,
        description=cluster.description,
        skill_gap=cluster.skill_gap,
        sample_ids=tuple(known),
        task_ids=task_ids,
        unknown_ids=tuple(one for one in cluster.sample_ids if one not in known),
        claimed_student_failure_rate=cluster.student_failure_rate,
        claimed_teacher_success_rate=cluster.teacher_success_rate,
        student=student,
        teacher=tally(runs, Runner.TEACHER, task_ids),
        student_elsewhere=_elsewhere(runs, student),
    )


def _elsewhere(runs: Iterable[Run], inside: Tally) -> Share:
    everywhere = tally(runs, Runner.STUDENT)
    return Share(hits=everywhere.failed - inside.failed, total=everywhere.counted - inside.counted)


# ---------------------------------------------------------------------------------------- outcome


def conclude_outcome(session: Session, checked: Sequence[CheckedCluster]) -> tuple[Outcome, str]:
    """Return how the session ended, and the reason as a sentence for a person.

    * cancelled: somebody asked for it.
    * inconclusive: it waited for its start until it was too late; nothing was spent.
    * failed: the bundle could not be used; or the teacher failed before anything was known.
    * concluded: a cluster has measured failures of the student; or the teacher found nothing wrong,
      and the student passed every measured run, on `MIN_TASKS` tasks or all that there are.
    * inconclusive: everything else; the reason names what was missing.
    """
    outcome, known = _outcome(session, checked)
    reason = f"{known}; {why_it_stopped(session)}." if known else f"{why_it_stopped(session)}."
    return outcome, reason[0].upper() + reason[1:]


def _outcome(session: Session, checked: Sequence[CheckedCluster]) -> tuple[Outcome, str]:
    """Return the outcome and what is known; the reason adds why the exploration ended."""
    if session.stop is Stop.CANCELLED:
        return Outcome.CANCELLED, _progress(session)
    if session.stop is Stop.FUNDS and session.prepared is None:
        return Outcome.INCONCLUSIVE, ""
    if session.prepared is None or session.stop in {None, Stop.NOT_PREPARED}:
        return Outcome.FAILED, ""
    if found := _finding(session, checked):
        return Outcome.CONCLUDED, found
    if _teacher_failed(session):
        return Outcome.FAILED, f"{_no_diagnosis(session)}; {_progress(session)}"
    return Outcome.INCONCLUSIVE, _missing(session, checked)


def _teacher_failed(session: Session) -> bool:
    """Whether the teacher failed and left neither a diagnosis nor a measurement."""
    failed = session.stop in {Stop.FAULT, Stop.REFUSED, Stop.EMPTY}
    return failed and session.ending is None and not any(run.counts for run in session.runs)


def _finding(session: Session, checked: Sequence[CheckedCluster]) -> str:
    """Return what was found and measured; empty where nothing was."""
    shown = sum(cluster.student.failed > 0 for cluster in checked)
    if shown:
        rest = "rests" if shown == 1 else "rest"
        return f"{shown} of {_many(len(checked), 'cluster')} {rest} on measured student failures"
    if session.ending is None or not session.ending.nothing_found or session.prepared is None:
        return ""
    student = tally(session.runs, Runner.STUDENT)
    enough = max(min(MIN_TASKS, session.prepared.tasks), 1)
    if student.failed or student.tasks < enough:
        return ""
    runs, tasks = _many(student.counted, "measured run"), _many(student.tasks, "task")
    return f"the teacher found nothing wrong, and the student failed none of {runs} on {tasks}"


def _missing(session: Session, checked: Sequence[CheckedCluster]) -> str:
    """Return what kept the session from a measured result."""
    student = tally(session.runs, Runner.STUDENT)
    if session.ending is None:
        return f"{_no_diagnosis(session)}; {_progress(session)}"
    if session.ending.nothing_found:
        claim = "the teacher found nothing wrong, but"
        if student.failed:
            return f"{claim} {student.failed} of {student.counted} measured student runs failed"
        return f"{claim} {_progress(session)}"
    if not checked:
        return f"the diagnosis names no clusters that could be read; {_progress(session)}"
    counted = any(cluster.student.counted for cluster in checked)
    if counted:
        return f"the student failed no measured run of {_these(len(checked))}"
    if student.counted:
        return f"no student run was measured on the tasks of {_these(len(checked))}"
    return f"{_many(len(checked), 'cluster')} claimed, but {_progress(session)}"


def _no_diagnosis(session: Session) -> str:
    """Return that there is none, and why, where that is not the reason for the stop itself."""
    last = session.faults[-1] if session.faults else ""
    return _with_detail("no diagnosis was written", "" if last == session.stop_detail else last)


def _progress(session: Session) -> str:
    """Return how much was measured of the student."""
    student = tally(session.runs, Runner.STUDENT)
    if student.counted:
        runs, tasks = _many(student.counted, "run"), _many(student.tasks, "task")
        return f"the student was measured in {runs} on {tasks}"
    if student.asked:
        return f"none of {_many(student.asked, 'student run')} could be measured ({_lost(student)})"
    return "no student run was made"


def _lost(student: Tally) -> str:
    lost = {
        "faults of the infrastructure": student.faults,
        "not judged": student.unjudged,
        "not over": student.unfinished,
    }
    return ", ".join(f"{what}: {number}" for what, number in lost.items() if number)


def why_it_stopped(session: Session) -> str:
    """Return why the exploration ended, as part of a sentence."""
    limits = session.spec.limits
    match session.stop:
        case Stop.SUBMITTED:
            return "the teacher ended the exploration with its diagnosis"
        case Stop.TURNS:
            return f"the limit of {_many(limits.max_turns, 'turn')} was reached"
        case Stop.TOOL_CALLS:
            return f"the limit of {_many(limits.max_tool_calls, 'tool call')} was reached"
        case Stop.BUDGET:
            return _with_detail("the budget left no room for another call", session.stop_detail)
        case Stop.TIME if session.prepared is None:
            return "the time was up before the bundle was ready"
        case Stop.TIME:
            return f"the time limit of {limits.max_duration_ms / 60_000:g} minutes was reached"
        case Stop.CONTEXT:
            return _with_detail("the teacher's context window was full", session.stop_detail)
        case Stop.REFUSED:
            return _with_detail("the teacher refused to go on", session.stop_detail)
        case Stop.EMPTY:
            return _with_detail("the teacher answered with nothing", session.stop_detail)
        case Stop.FAULT:
            return _with_detail("the teacher's API failed for good", session.stop_detail)
        case Stop.CANCELLED:
            return _with_detail("the session was cancelled", session.stop_detail)
        case Stop.NOT_PREPARED:
            return _with_detail("the bundle could not be used", session.stop_detail)
        case Stop.PAUSED:
            return _with_detail("the session was paused and nobody resumed it", session.stop_detail)
        case Stop.FUNDS:
            return _with_detail("the session never started", session.stop_detail)
        case None:
            return f"the session was ended while it was {session.phase.value}"
    assert_never(session.stop)


def _with_detail(what: str, detail: str) -> str:
    detail = " ".join(detail.split()).rstrip(".")
    if len(detail) > _MAX_DETAIL_CHARS:
        detail = detail[: _MAX_DETAIL_CHARS - 1] + "…"
    return f"{what} ({detail})" if detail else what


def _many(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _these(clusters: int) -> str:
    return "the one cluster" if clusters == 1 else f"the {clusters} clusters"
