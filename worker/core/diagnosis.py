"""`diagnosis.md`: what a person reads in the morning.

Rule: the teacher's text comes first and stays as it is; below a line stands what was measured, and
nothing that came from outside can pass for it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.core.caching import cache_uses
from worker.core.evidence import MIN_TASKS, tally, task_table
from worker.core.values import Runner

if TYPE_CHECKING:
    from worker.core.evidence import CheckedCluster, Share, Tally, TaskRow
    from worker.core.findings import Findings
    from worker.core.machine import Session

__all__ = ["diagnosis_md"]

#: Rows of the table of tasks; all of them are in `runs.jsonl`.
MAX_TASK_ROWS = 60
#: How much of a text from outside a line quotes.
MAX_QUOTED_CHARS = 400
#: How many ids a line names.
MAX_NAMED_IDS = 20
#: How many turns that missed the cache a line names; `transcript.jsonl` has all.
MAX_NAMED_MISSES = 3

_NANO_PER_SHOWN_DIGIT = 100_000
#: A fence, wherever it stands: in a list, a quote, or at the left edge.
_ANY_FENCE = re.compile(r"^[ \t>*+\-\d.)]*+(`{3,}|~{3,})", re.MULTILINE)
_EDGE_FENCE = re.compile(r"^(`{3,}|~{3,})(.*)", re.MULTILINE)
#: HTML that goes on over blank lines: up to `-->`, `]]>`, `?>` or an end tag.
_ENDLESS_HTML = re.compile(r"<(?:[!?]|script|pre|style|textarea)", re.IGNORECASE)

_ABOUT_RATES = """\
- Rates are counted from the recorded runs (`runs.jsonl`). In brackets: the counted runs, and the \
95% interval of the rate, runs taken as independent. Faults of the infrastructure, and runs that \
nobody could judge, count neither way."""
_ABOUT_CLUSTERS = f"""\
- **measured**: student and teacher were measured on at least {MIN_TASKS} of the cluster's tasks \
each. **partial**: on fewer, or only one of them. **claimed**: not at all; there is only the \
teacher's word.
- Elsewhere: the student's failures on the other tasks that were run. p: how likely a difference at \
least as large, either way, would be by chance (Fisher's exact test). The teacher chose the tasks \
after it saw runs of them: a small p says that they stand out, not that new tasks would."""


def diagnosis_md(found: Findings) -> str:
    """Return `diagnosis.md`: the teacher's text as it is, then what the worker measured.

    Where the teacher left no text, a statement of that takes its place: it is never empty.
    """
    said = _teachers_text(found)
    head = said + _ended(said) if said.strip() else _no_text(found)
    parts = (
        head.removesuffix("\n"),
        "---",
        "## What was measured",
        _summary(found),
        *filter(None, _sections(found)),
    )
    text = "\n\n".join(parts) + "\n"
    return text.encode("utf-8", "replace").decode("utf-8")


def _sections(found: Findings) -> tuple[str, ...]:
    return (
        _section("Clusters", _cluster_table(found)),
        "\n".join(map(_cluster_note, found.clusters)),
        _section("Tasks that were run", _task_table(found)),
        _section("Repairs and faults", _remarks(found)),
        _section("How to read this", _legend(found)),
    )


def _section(title: str, body: str) -> str:
    return f"### {title}\n\n{body}" if body else ""


def _legend(found: Findings) -> str:
    if found.clusters:
        return f"{_ABOUT_RATES}\n{_ABOUT_CLUSTERS}"
    return _ABOUT_RATES if any(run.counts for run in found.session.runs) else ""


def _teachers_text(found: Findings) -> str:
    ending = found.session.ending
    return found.text_of(ending.diagnosis) if ending else ""


def _no_text(found: Findings) -> str:
    return (
        f"# Session {_code(found.session.spec.session_id)}: {found.outcome.value}\n\n"
        "The teacher left no diagnosis. What follows was written by the worker, from the records."
    )


def _ended(text: str) -> str:
    """Return what ends the block that `text` may have left open; mostly nothing.

    Whether a block is open depends on the lists, quotes and HTML around it. Where there are any,
    every kind that is in the text is ended; within a comment, which shows only if one was open.
    """
    marks = [found[1] for found in _ANY_FENCE.finditer(text)]
    if not _ENDLESS_HTML.search(text) and len(marks) == len(_EDGE_FENCE.findall(text)):
        fence = _open_fence(text)
        return f"\n{fence}" if fence else ""
    longest = {kind: max((m for m in marks if m[0] == kind), key=len, default="") for kind in "`~"}
    ends = [mark for mark in longest.values() if mark] or [""]
    return "".join(f"\n\n<!--\n{mark}\n</pre> ]]> ?>\n-->" for mark in ends)


def _open_fence(text: str) -> str:
    """Return the fence at the left edge that no other one closes; empty where all are closed."""
    fence = ""
    for found in _EDGE_FENCE.finditer(text):
        mark, rest = found[1], found[2].strip()
        if not fence:
            fence = mark if mark[0] == "~" or "`" not in rest else ""
        elif mark.startswith(fence) and not rest:
            fence = ""
    return fence


def _summary(found: Findings) -> str:
    session = found.session
    runs = tuple(session.runs)
    student, teacher = tally(runs, Runner.STUDENT), tally(runs, Runner.TEACHER)
    lines = {
        "Outcome": f"**{found.outcome.value}**. {_plain(found.reason)}",
        "Cost": _cost_line(found),
        **_origin(session),
        f"Student {_code(session.spec.student)}": _runs_line(student, "failed", student.failures),
        f"Teacher {_code(session.spec.teacher_model)}": _runs_line(
            teacher, "passed", teacher.successes
        ),
        "Explored": _explored_line(session),
        **_cache_line(session),
    }
    return "\n".join(f"- {name}: {line}" for name, line in lines.items())


def _cache_line(session: Session) -> dict[str, str]:
    """Return how much of the prompts came from the cache, and why not more; nothing without turns."""
    replies = [turn.reply for turn in session.turns]
    prompts = sum(reply.usage.prompt_tokens for reply in replies)
    if not prompts:
        return {}
    uses = cache_uses(replies)
    read = sum(use.read_tokens for use in uses)
    line = f"{read:,} of {prompts:,} prompt tokens ({read * 100 // prompts}%) were read from it"
    missed = [
        f"turn {number} {use.missed_tokens:,} ({use.why})"
        for number, use in enumerate(uses, start=1)
        if use.missed_tokens
    ][:MAX_NAMED_MISSES]
    return {"Prompt cache": line + (f"; missed in {', '.join(missed)}" if missed else "")}


def _origin(session: Session) -> dict[str, str]:
    """Return where the session comes from, where it began with a part of another one."""
    fork = session.spec.forked
    if fork is None:
        return {}
    turns = "all of its turns" if fork.at_turn is None else f"its turns up to {fork.at_turn}"
    cost = _dollars(fork.inherited_nusd)
    line = (
        f"from {_code(fork.session_id)}, {turns}; they had cost {cost} there, not paid again here"
    )
    return {"Forked": line}


def _cost_line(found: Findings) -> str:
    cap = _dollars(found.session.spec.limits.max_cost_nusd)
    kinds = [f"{kind} {_dollars(paid)}" for kind, paid in found.by_kind_nusd.items() if paid]
    split = f" ({', '.join(kinds)})" if kinds else ""
    line = f"{_dollars(found.total_nusd)} of {cap}{split}"
    if found.unknown_nusd:
        line += f"; {_dollars(found.unknown_nusd)} of it for calls whose outcome is unknown"
    if found.still_held_nusd:
        line += f"; {_dollars(found.still_held_nusd)} more is still held"
    return line


def _runs_line(runs: Tally, verb: str, share: Share) -> str:
    if not runs.asked:
        return "not run"
    line = "nothing could be measured"
    if runs.counted:
        where = _many(runs.tasks, "task")
        line = f"{verb} {share.hits} of {_many(share.total, 'run')} on {where}, {_rate(share)}"
    lost = _lost(runs)
    return f"{line}; not counted: {lost}" if lost else line


def _lost(runs: Tally) -> str:
    parts = (
        _many(runs.faults, "fault") if runs.faults else "",
        f"{runs.unjudged} not judged" if runs.unjudged else "",
        f"{runs.unfinished} not finished" if runs.unfinished else "",
    )
    return ", ".join(filter(None, parts))


def _explored_line(session: Session) -> str:
    line = f"{_many(len(session.turns), 'turn')}, {_many(session.tool_calls, 'tool call')}"
    if session.prepared is None:
        return f"{line}; the bundle was never ready"
    traces, tasks = session.prepared.traces, session.prepared.tasks
    line += f", in {_many(traces, 'trace')} and {_many(tasks, 'task')}"
    if refused := sum(call.refused is not None for call in session.calls):
        line += f"; beyond the limit: {_many(refused, 'tool call')}"
    if not_run := sum(call.runs_refused for call in session.calls):
        line += f"; beyond the limit: {_many(not_run, 'student run')}"
    return line


def _cluster_table(found: Findings) -> str:
    if not found.clusters:
        return ""
    head = (
        "| cluster | evidence | student fails | claimed | elsewhere | p | teacher succeeds | claimed |",
        "|---|---|---|---|---|---|---|---|",
    )
    return "\n".join([*head, *map(_cluster_line, found.clusters)])


def _cluster_line(cluster: CheckedCluster) -> str:
    cells = (
        _code(cluster.cluster_id),
        cluster.evidence.value,
        _measured(cluster.student.failures),
        _percent(cluster.claimed_student_failure_rate),
        _percent(cluster.student_elsewhere.rate),
        _p_value(cluster.p_value_vs_rest),
        _measured(cluster.teacher.successes),
        _percent(cluster.claimed_teacher_success_rate),
    )
    return f"| {' | '.join(map(_cell, cells))} |"


def _measured(share: Share) -> str:
    if share.rate is None:
        return "not measured"
    return f"**{_percent(share.rate)}** ({share.hits} of {share.total}; {_range(share)})"


def _cluster_note(cluster: CheckedCluster) -> str:
    parts = [f"- {_code(cluster.cluster_id)}: {_plain(cluster.description)}"]
    if cluster.skill_gap:
        parts.append(f"Skill gap: {_plain(cluster.skill_gap)}")
    parts.append(f"Tasks: {_ids(cluster.task_ids)}" if cluster.task_ids else "No known task.")
    for who, runs in (("student", cluster.student), ("teacher", cluster.teacher)):
        if lost := _lost(runs):
            parts.append(f"Not counted of the {who}: {lost}.")
    if cluster.student.counted and not cluster.student.failed:
        parts.append("**The student failed none of its runs here.**")
    if cluster.unknown_ids:
        parts.append(f"**Dropped, no such task or trace:** {_ids(cluster.unknown_ids)}")
    return "\n  ".join(parts)


def _task_table(found: Findings) -> str:
    table = task_table(found.session.runs)
    if not table:
        return ""
    more = len(table) - MAX_TASK_ROWS
    lines = [
        "| task | student passed | teacher passed | not counted |",
        "|---|---|---|---|",
        *map(_task_line, table[:MAX_TASK_ROWS]),
        *(["", f"{_many(more, 'more task')} in `runs.jsonl`."] if more > 0 else []),
    ]
    return "\n".join(lines)


def _task_line(row: TaskRow) -> str:
    lost = [
        f"{who}: {what}"
        for who, what in (("student", _lost(row.student)), ("teacher", _lost(row.teacher)))
        if what
    ]
    cells = (_code(row.task_id), _passed(row.student), _passed(row.teacher), "; ".join(lost))
    return f"| {' | '.join(map(_cell, cells))} |"


def _passed(runs: Tally) -> str:
    return f"{runs.passed} of {runs.counted}" if runs.counted else "-"


def _remarks(found: Findings) -> str:
    session = found.session
    remarks = [
        *(f"A teacher call came to nothing: {fault}" for fault in session.faults),
        *(session.ending.remarks if session.ending else ()),
    ]
    return "\n".join(f"- {_plain(remark)}" for remark in remarks)


# ------------------------------------------------------------------------------------------ words


def _dollars(nusd: int) -> str:
    """Return nano-dollars for people: `$0.0412`, rounded up; exact amounts are in `costs.jsonl`."""
    shown = -(-nusd // _NANO_PER_SHOWN_DIGIT)
    cents_of_cents = f"{shown % 10_000:04d}"
    return f"${shown // 10_000}.{cents_of_cents.removesuffix('00')}"


def _many(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _percent(rate: float | None) -> str:
    """Return a rate for people; what is not quite none or all does not look like it."""
    if rate is None:
        return "-"
    if 0 < rate < 0.01:  # noqa: PLR2004 - one percent
        return "<1%"
    if 0.99 < rate < 1:  # noqa: PLR2004 - 99 percent
        return ">99%"
    return f"{rate:.0%}"


def _rate(share: Share) -> str:
    return f"{_percent(share.rate)} ({_range(share)})"


def _range(share: Share) -> str:
    low, high = share.interval_95 or (0.0, 1.0)
    return f"{low:.0%} to {high:.0%}"


def _p_value(p_value: float | None) -> str:
    if p_value is None:
        return "-"
    return f"{p_value:.3f}" if p_value >= 0.001 else "<0.001"  # noqa: PLR2004 - digits shown


def _ids(ids: tuple[str, ...]) -> str:
    named = ", ".join(map(_code, ids[:MAX_NAMED_IDS]))
    more = len(ids) - MAX_NAMED_IDS
    return f"{named} and {more} more" if more > 0 else named


def _plain(text: str) -> str:
    """Return a text from outside as one line of words: none of it is Markdown."""
    line = " ".join(text.split())
    if len(line) > MAX_QUOTED_CHARS:
        line = line[: MAX_QUOTED_CHARS - 1] + "…"
    return re.sub(r"([\\`*<>\[\]|~#])", r"\\\1", line)


def _code(text: str) -> str:
    """Return a name from outside as one code span."""
    line = " ".join(text.split())
    if "`" not in line:
        return f"`{line}`"
    longest = max(map(len, re.findall(r"`+", line)))
    ticks = "`" * (longest + 1)
    return f"{ticks} {line} {ticks}"


def _cell(text: str) -> str:
    """Return a text as it may stand in a table: a bar ends a cell even in a code span."""
    return re.sub(r"(?<!\\)\|", r"\\|", text)
