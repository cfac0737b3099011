"""A session's frozen inputs as its steps see them: tasks, known ids, the brief, the reading tools.

Rule: everything here is derived from the bundle alone and kept as long as the bundle is open.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from worker.tools.reading import ReadingTools
from worker.traces.model import Order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.bundle.benchmark import Sample
    from worker.bundle.open import Bundle

__all__ = ["Workspace"]

#: How many traces are read at a time when their ids are listed.
_PAGE = 5_000
#: How many names a line of the brief lists, and how much of each: they were recorded, and stand
#: where the teacher is spoken to. A name ends in time, and none holds a line end or a control.
_NAMED = 12
_NAME_CHARS = 80
_REMARK_CHARS = 300


class Workspace:
    """One bundle, opened. Shared by all threads of a process that work on its sessions."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._hidden = ReadingTools(bundle, reveal_references=False)
        self._revealed = ReadingTools(bundle, reveal_references=True)

    @property
    def task_ids(self) -> tuple[str, ...]:
        """The benchmark's tasks, in the file's order."""
        return self._bundle.benchmark.task_ids

    def sample(self, task_id: str) -> Sample | None:
        """Return a task; None for an unknown id."""
        return self._bundle.benchmark.get(task_id)

    def sample_of(self, task: str) -> Sample | None:
        """Return the task that a text names, by its id or by its whole query; None for neither."""
        return self.sample(task.strip()) or self._by_query.get(task.strip())

    @cached_property
    def trace_tasks(self) -> Mapping[str, str | None]:
        """Every trace id, with the benchmark task it is of where its metadata says."""
        known = frozenset(self.task_ids)
        traces: dict[str, str | None] = {}
        while True:
            page = self._bundle.traces.list(order=Order.OLDEST, offset=len(traces), limit=_PAGE)
            for summary in page.summaries:
                traces[summary.trace_id] = summary.task_id if summary.task_id in known else None
            if len(traces) >= page.total or not page.summaries:
                return traces

    def tools(self, *, reveal_references: bool) -> ReadingTools:
        """Return the reading tools, which show reference answers only if told to."""
        return self._revealed if reveal_references else self._hidden

    @cached_property
    def brief(self) -> str:
        """What there is to explore, counted: the head of the teacher's conversation."""
        report = self._bundle.report
        traces = report.traces
        lines = [
            f"Recorded traces: {traces.traces} with {traces.steps} steps",
            f"- by outcome: {_counts(traces.outcomes)}",
            f"- by agent: {_counts(traces.agents)}",
            f"- by model: {_counts(traces.models)}",
            f"- longest trace: {traces.longest_trace_steps} steps",
            f"Benchmark {_plain(report.workflow_id)!r}: {report.tasks} tasks",
            f"- by category: {_counts(report.categories)}",
            f"Agents whose prompt can be read: {_names(report.prompts)}",
            f"Tools described: {_names(report.tools)}",
        ]
        odd = traces.unparsable_traces + traces.unparsable_steps
        if odd:
            lines.append(f"{odd} rows hold JSON that does not parse; they are shown as raw text")
        remarks = (_plain(remark, _REMARK_CHARS) for remark in report.remarks[:_NAMED])
        return "\n".join([*lines, *remarks])

    @cached_property
    def _by_query(self) -> Mapping[str, Sample]:
        return {sample.query.strip(): sample for sample in self._bundle.benchmark.samples}


def _counts(counts: Mapping[str, int]) -> str:
    first = list(counts.items())[:_NAMED]
    shown = [f"{_plain(name) or '(none)'} {count}" for name, count in first]
    rest = len(counts) - len(shown)
    return ", ".join([*shown, *([f"{rest} more"] if rest else [])]) or "none"


def _names(names: tuple[str, ...]) -> str:
    rest = len(names) - _NAMED
    shown = [_plain(name) for name in names[:_NAMED]]
    return ", ".join([*shown, *([f"{rest} more"] if rest > 0 else [])]) or "none"


def _plain(name: str, most: int = _NAME_CHARS) -> str:
    """Return a recorded name as it may stand in the brief."""
    cut = name if len(name) <= most else f"{name[:most]}…"
    return "".join(char if char.isprintable() else "\ufffd" for char in cut)
