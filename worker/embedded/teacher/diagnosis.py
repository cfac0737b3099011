"""A diagnosis written from findings: clusters by category, with their rates, and a report.

Rule: every number is counted from runs that were seen; what was not measured is said to be so. The
first line says that no model wrote this.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.embedded.teacher.findings import Findings, RunSeen

__all__ = ["LABEL", "Cluster", "Diagnosis", "Verdict", "diagnose", "fenced"]

#: Stands first in everything that the simulated teacher writes as a teacher.
LABEL = (
    "> **Simulated teacher.** No language model wrote this: a deterministic stand-in for Claude "
    "counted it from the tool results of this session."
)

_MAX_CLUSTERS = 5
#: Sample tasks that a cluster names, and outputs that the report quotes for it.
_MAX_SAMPLES = 12
_MAX_QUOTES = 3
_MAX_QUOTE_CHARS = 120


class Verdict(StrEnum):
    """What a diagnosis comes to."""

    FAILURES = "failures"
    NOTHING = "nothing"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A group of tasks on which the student fails."""

    cluster_id: str
    category: str
    task_ids: tuple[str, ...]
    student_runs: int
    student_failures: int
    teacher_runs: int
    teacher_passes: int
    #: Outputs of failed runs, to be quoted.
    outputs: tuple[str, ...]
    pattern: str

    @property
    def failure_rate(self) -> float:
        """The student's, 0..1."""
        return round(self.student_failures / self.student_runs, 4)

    @property
    def teacher_rate(self) -> float | None:
        """The teacher's successes, 0..1; None where it did not run."""
        if not self.teacher_runs:
            return None
        return round(self.teacher_passes / self.teacher_runs, 4)

    @property
    def description(self) -> str:
        """What fails, in a sentence or two."""
        return (
            f"The student failed {self.student_failures} of {self.student_runs} runs on "
            f"{_many(len(self.task_ids), 'task')} ({self.category}). {self.pattern} "
            "(simulated diagnosis)"
        )

    @property
    def skill_gap(self) -> str:
        """What the teacher can do that the student cannot."""
        if self.teacher_rate is None:
            return (
                f"Solving tasks such as these ({self.category}); the teacher itself was not "
                "measured on them. (simulated)"
            )
        return (
            f"Solving tasks such as these ({self.category}): the teacher passed "
            f"{self.teacher_passes} of {_many(self.teacher_runs, 'run')} on them. (simulated)"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the cluster in the reference's keys, without a rate that was not measured."""
        own = {} if self.teacher_rate is None else {"teacher_success_rate": self.teacher_rate}
        return {
            "id": self.cluster_id,
            "description": self.description,
            "sample_trace_ids": list(self.task_ids),
            "student_failure_rate": self.failure_rate,
            **own,
            "skill_gap": self.skill_gap,
            "addressed_by_edit_ids": [],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What the teacher has to say."""

    verdict: Verdict
    markdown: str
    clusters: tuple[Cluster, ...]

    @property
    def as_text(self) -> str:
        """The diagnosis as a final text: the report, then the array in a fence."""
        return f"{self.markdown}\n\n{fenced([cluster.as_json() for cluster in self.clusters])}"


def diagnose(findings: Findings) -> Diagnosis:
    """Return the diagnosis that follows from what was seen."""
    clusters = _clusters(findings)
    if clusters:
        verdict = Verdict.FAILURES
    else:
        verdict = Verdict.NOTHING if findings.of("student") else Verdict.INCONCLUSIVE
    return Diagnosis(
        verdict=verdict,
        markdown="\n".join(_report(findings, verdict, clusters)),
        clusters=clusters,
    )


def fenced(clusters: Sequence[dict[str, Any]]) -> str:
    """Return clusters as the fence that a final text ends with."""
    return f"```json\n{json.dumps(clusters, ensure_ascii=False, indent=2)}\n```"


# --------------------------------------------------------------------------------------- clusters


def _clusters(findings: Findings) -> tuple[Cluster, ...]:
    """Return the groups in which the student failed, the worst first."""
    groups = _grouped(findings, findings.of("student"))
    found = [
        _cluster(findings, name, runs)
        for name, runs in groups.items()
        if any(not run.passed for run in runs)
    ]
    found.sort(key=lambda one: (-one.failure_rate, -one.student_failures, one.cluster_id))
    return tuple(found[:_MAX_CLUSTERS])


def _grouped(findings: Findings, runs: Sequence[RunSeen]) -> dict[str, list[RunSeen]]:
    """Return runs by category; where there is but one, by how steadily their tasks fail."""
    groups: dict[str, list[RunSeen]] = {}
    for run in runs:
        groups.setdefault(findings.category_of(run.task_id), []).append(run)
    if len(groups) != 1:
        return groups
    ((category, all_runs),) = groups.items()
    solved = {run.task_id for run in all_runs if run.passed}
    failed = {run.task_id for run in all_runs if not run.passed}
    steadiness = {f"{category}, never solved": failed - solved,
                  f"{category}, solved only sometimes": failed & solved}  # fmt: skip
    return {
        name: [run for run in all_runs if run.task_id in tasks]
        for name, tasks in steadiness.items()
        if tasks
    }


def _cluster(findings: Findings, name: str, runs: Sequence[RunSeen]) -> Cluster:
    failed = [run for run in runs if not run.passed]
    failed_tasks = dict.fromkeys(run.task_id for run in failed)
    task_ids = dict.fromkeys([*failed_tasks, *(run.task_id for run in runs)])
    own = [run for run in findings.of("teacher") if run.task_id in task_ids]
    return Cluster(
        cluster_id=_slug(name),
        category=name,
        task_ids=tuple(task_ids)[:_MAX_SAMPLES],
        student_runs=len(runs),
        student_failures=len(failed),
        teacher_runs=len(own),
        teacher_passes=sum(run.passed for run in own),
        outputs=tuple(dict.fromkeys(run.output for run in failed if run.output)),
        pattern=_pattern(runs),
    )


def _pattern(runs: Sequence[RunSeen]) -> str:
    """Return what the failed runs have in common, as far as counting can tell."""
    failed = [run.output for run in runs if not run.passed and run.output]
    passed = [run.output for run in runs if run.passed and run.output]
    said = [_steadiness(runs)]
    if failed:
        said.append(
            f"In the median wrong answers have {round(median(map(len, failed)))} characters"
        )
        said[-1] += f" and right ones {round(median(map(len, passed)))}." if passed else "."
    return " ".join(said)


def _steadiness(runs: Sequence[RunSeen]) -> str:
    tasks = {run.task_id for run in runs}
    never = tasks - {run.task_id for run in runs if run.passed}
    if never == tasks:
        return "None of them was solved in any run."
    if not never:
        return "Each of them was solved in some run."
    return f"{len(never)} of them were not solved in any run."


def _many(number: int, what: str) -> str:
    """Return the number and what it is of: `1 task`, `2 tasks`, `2 categories`."""
    if number == 1:
        return f"1 {what}"
    return f"{number} {what[:-1]}ies" if what.endswith("y") else f"{number} {what}s"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "cluster"


# ----------------------------------------------------------------------------------------- report


def _report(findings: Findings, verdict: Verdict, clusters: Sequence[Cluster]) -> Iterator[str]:
    student, teacher = findings.of("student"), findings.of("teacher")
    failures = sum(not run.passed for run in student)
    categories = findings.categories()
    yield from (LABEL, "", "# Diagnosis", "")
    match verdict:
        case Verdict.FAILURES:
            yield f"The student failed {failures} of {len(student)} runs that were counted."
        case Verdict.NOTHING:
            yield (
                f"Nothing is wrong as far as was measured: the student passed all {len(student)} "
                "runs."
            )
        case Verdict.INCONCLUSIVE:
            yield "There is not enough evidence: no run of the student was seen with a verdict."
    yield from (
        "",
        "## What was looked at",
        f"- {_many(len(findings.tasks), 'task')} of {_many(len(categories), 'category')}",
        f"- {_many(len(findings.traces), 'recorded trace')}",
        f"- {_many(len(student), 'run')} of the student and {len(teacher)} of the teacher",
        f"- {_many(findings.failed_calls, 'tool call')} came back as errors",
        "",
    )
    if student:
        yield from _table(findings)
    for number, cluster in enumerate(clusters, start=1):
        yield from _section(number, cluster)


def _table(findings: Findings) -> Iterator[str]:
    yield "## Rates by category"
    yield "| category | student runs | failures | teacher runs | successes |"
    yield "|---|---|---|---|---|"
    own = _by_category(findings, findings.of("teacher"))
    for name, runs in sorted(_by_category(findings, findings.of("student")).items()):
        failures = sum(not run.passed for run in runs)
        teacher = own.get(name, [])
        yield (
            f"| {_inline(name)} | {len(runs)} | {failures} | {len(teacher)} | "
            f"{sum(run.passed for run in teacher)} |"
        )
    yield ""


def _by_category(findings: Findings, runs: Sequence[RunSeen]) -> dict[str, list[RunSeen]]:
    groups: dict[str, list[RunSeen]] = {}
    for run in runs:
        groups.setdefault(findings.category_of(run.task_id), []).append(run)
    return groups


def _section(number: int, cluster: Cluster) -> Iterator[str]:
    yield f"## {number}. {_inline(cluster.category)}"
    yield cluster.description
    yield f"**Skill gap.** {cluster.skill_gap}"
    for output in cluster.outputs[:_MAX_QUOTES]:
        yield f"- wrong: “{_inline(output)}”"
    yield ""


def _inline(text: str) -> str:
    """Return a text of others as it may stand in a line of the report."""
    plain = re.sub(r"[`|<>\[\]]", " ", " ".join(text.split()))
    return plain if len(plain) <= _MAX_QUOTE_CHARS else plain[: _MAX_QUOTE_CHARS - 1] + "…"
