"""How a session looks in a terminal.

Rule: pure: a view in, something that rich can draw out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worker.cli.output import dollars, plain, said

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from worker.status import SessionView
    from worker.wire.result import DiagnoseResult

__all__ = ["clusters_table", "session_panel", "standing"]

_COLOURS = {"concluded": "green", "inconclusive": "yellow", "cancelled": "yellow", "failed": "red"}
#: How many turns are shown; the newest ones.
SHOWN_TURNS = 8
SHOWN_NAME_CHARS = 60


def session_panel(seen: SessionView, now_ms: int) -> RenderableType:
    """Return the picture of a session at one instant."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in _rows(seen, now_ms):
        grid.add_row(name, value)
    colour = "yellow" if seen.paused else _COLOURS.get(seen.outcome or "", "blue")
    title = said(f"{seen.session_id} · {standing(seen)}")
    return Panel(Group(grid, _turns(seen)), title=title, border_style=colour, title_align="left")


def standing(seen: SessionView) -> str:
    """Return in a word or two where a session stands."""
    if seen.paused is None:
        return seen.outcome or seen.phase
    return "waiting to start" if seen.paused.cause == "funds" else f"paused while {seen.phase}"


def _rows(seen: SessionView, now_ms: int) -> Iterable[tuple[str, RenderableType]]:
    elapsed_s = ((seen.ended_ms or now_ms) - seen.created_ms) / 1000
    yield "elapsed", f"{elapsed_s:.1f} s"
    yield "turns", f"{seen.turns} of {seen.max_turns}"
    yield "tool calls", f"{seen.tool_calls} of {seen.max_tool_calls}"
    yield "student runs", _bar(seen.student_runs_done, seen.student_runs, seen.student_faults)
    if seen.held_back_steps:
        yield "waiting", f"{seen.held_back_steps} steps, for the session's own widths"
    if seen.teacher_runs:
        yield "teacher runs", str(seen.teacher_runs)
    held = f" (+ {dollars(seen.held_nusd)} held)" if seen.held_nusd else ""
    yield "cost", f"{dollars(seen.cost_nusd)} of {dollars(seen.cap_nusd)}{held}"
    if seen.forked_from:
        turn = "all" if seen.forked_at_turn is None else f"turn {seen.forked_at_turn}"
        inherited = dollars(seen.inherited_nusd)
        yield "forked", said(f"from {seen.forked_from}, {turn}; that part cost {inherited} there")
    if seen.paused:
        left_s = max(seen.paused.until_ms - now_ms, 0) // 1000
        yield "stands still", said(f"{seen.paused.words}; for {left_s} s at most")
    if seen.reason:
        yield "reason", said(seen.reason)
    failing = [step for step in seen.steps if step.last_error]
    for step in failing[:3]:
        yield "retrying", said(f"{step.step_id} (try {step.attempt + 1}): {step.last_error}"[:160])


def _bar(done: int, total: int, faults: int) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    text = f"{done} of {total}" + (f", {faults} faults" if faults else "")
    row.add_row(ProgressBar(total=max(total, 1), completed=done, width=30), text)
    return row


def _turns(seen: SessionView) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for turn in seen.activity[-SHOWN_TURNS:]:
        mark = "✓" if turn.done == len(turn.tools) else f"{turn.done}/{len(turn.tools)}"
        table.add_row(f"turn {turn.turn}", mark, dollars(turn.cost_nusd), _tools(turn.tools))
    return table


def _tools(tools: tuple[str, ...]) -> Text:
    """Return what a turn called; the names are the teacher's words."""
    counts: dict[str, int] = {}
    for tool in tools:
        name = plain(tool)[:SHOWN_NAME_CHARS]
        counts[name] = counts.get(name, 0) + 1
    named = (f"{tool} x{count}" if count > 1 else tool for tool, count in counts.items())
    return Text(", ".join(named) or "text")


def clusters_table(found: DiagnoseResult) -> Table:
    """Return a result's clusters with what was measured."""
    table = Table("cluster", "student fails", "teacher passes", "evidence", "what", box=None)
    for cluster in found.clusters:
        table.add_row(
            said(cluster.cluster_id),
            _rate(cluster.student_failure_rate),
            _rate(cluster.teacher_success_rate),
            cluster.evidence,
            said(cluster.description[:200]),
        )
    return table


def _rate(rate: float | None) -> str:
    return "not measured" if rate is None else f"{rate:.0%}"
