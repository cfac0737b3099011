"""Counts of what a trace store holds.

Rule: a count is of what stands in the index, so the numbers of a report and of a list agree.
"""

from __future__ import annotations

import math
from collections import Counter

from worker.traces.model import TraceOutcome, TraceReport

__all__ = ["Tally"]

#: A report names this many agents, models, … at most, the most frequent first.
_NAMES_MAX = 100
_NAME_CHARS_MAX = 200


class Tally:
    """Filled while an index is built, then made into a report."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._recorded: Counter[str] = Counter()
        self._agents: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._step_types: Counter[str] = Counter()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._feedback: list[float] = []
        self._times: tuple[float, float] | None = None
        self._longest = 0
        #: Tools of the trace that is being read; its agent is known after them.
        self._tools: Counter[str] = Counter()

    def add(self, name: str, number: int) -> None:
        """Add to a count that is named as in `TraceReport`."""
        self._numbers[name] += number

    def step(self, step_type: str, tool: str) -> None:
        """Count a step of the trace that is counted next."""
        self._numbers["steps"] += 1
        self._step_types[step_type] += 1
        if tool:
            self._tools[tool] += 1

    def trace(
        self,
        *,
        agent: str,
        model: str,
        recorded: str,
        feedback: float | None,
        started_at: float | None,
        steps: int,
    ) -> None:
        """Count a trace after its steps."""
        self._numbers["traces"] += 1
        self._outcomes[TraceOutcome.of(recorded).value] += 1
        self._recorded[recorded] += 1
        self._agents[agent] += 1
        self._models[model] += 1
        self._calls.update({(tool, agent): calls for tool, calls in self._tools.items()})
        self._tools.clear()
        self._longest = max(self._longest, steps)
        if feedback is not None:
            self._feedback.append(feedback)
        if started_at is not None:
            first, last = self._times or (started_at, started_at)
            self._times = min(first, started_at), max(last, started_at)

    def report(self) -> TraceReport:
        """Return everything that was counted."""
        first, last = self._times or (None, None)
        return TraceReport(
            **self._numbers,
            outcomes=_most(self._outcomes),
            recorded_outcomes=_most(self._recorded),
            agents=_most(self._agents),
            models=_most(self._models),
            step_types=_most(self._step_types),
            tool_calls=self._by_tool(),
            with_feedback=len(self._feedback),
            mean_feedback=_mean(self._feedback),
            longest_trace_steps=self._longest,
            first_started_at=first,
            last_started_at=last,
        )

    def _by_tool(self) -> dict[str, dict[str, int]]:
        table: dict[str, dict[str, int]] = {}
        for (tool, agent), calls in sorted(self._calls.items()):
            if tool in table or len(table) < _NAMES_MAX:
                table.setdefault(tool, {})[agent[:_NAME_CHARS_MAX]] = calls
        return table


def _most(counts: Counter[str]) -> dict[str, int]:
    """Return the most frequent names, those of equal count by name."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {name[:_NAME_CHARS_MAX]: count for name, count in ordered[:_NAMES_MAX]}


def _mean(numbers: list[float]) -> float | None:
    # Divided before they are added up: the sum of large ones has no finite value.
    return math.fsum(number / len(numbers) for number in numbers) if numbers else None
