"""What a person reads in the morning: the teacher's words, then what was measured.

Rule: the golden files are the examples to look at; `GOLDEN=write` writes them again.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.unit.core.nights import NIGHTS, found, result_of
from tests.unit.core.strategies import histories
from tests.unit.core.told import Told, cluster, ending, text_of
from worker.core.diagnosis import diagnosis_md
from worker.core.evidence import conclude_outcome
from worker.core.findings import Findings
from worker.core.machine import fold
from worker.core.values import Blob, RunSpec, Stop

if TYPE_CHECKING:
    from worker.core.events import Event

GOLDEN = Path(__file__).parents[2] / "golden" / "report"
MARKDOWN = MarkdownIt("commonmark").enable("table")


@pytest.mark.parametrize("night", NIGHTS)
def test_it_reads_as_in_the_golden_file(night: str) -> None:
    file = GOLDEN / night / "diagnosis.md"
    text = diagnosis_md(NIGHTS[night]())

    if os.environ.get("GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    assert text == file.read_text(encoding="utf-8")


def headings(text: str) -> list[str]:
    """Return the headings of a page that stand in no list, quote, code or comment."""
    tokens = MARKDOWN.parse(text)
    return [
        tokens[place + 1].content
        for place, token in enumerate(tokens)
        if token.type == "heading_open" and token.level == 0
    ]


# --------------------------------------------------------------------------------- the two parts

MARKS = ("```", "````", "~~~", "json", "x", "<!--", "-->", "`", "|", "[{", "# T\n", "---\n")
BLANKS = (
    "\n",
    "\n\n",
    "- ",
    "  ",
    "    ",
    "> ",
    "1. ",
    "===",
    "*",
    "_",
    "</pre>",
    "<pre>",
    "<?",
    "<![CDATA[",
)
SAID = st.one_of(
    st.text(min_size=1), st.lists(st.sampled_from(MARKS + BLANKS), max_size=14).map("".join)
)


@given(SAID)
def test_the_teacher_s_text_stays_and_never_hides_what_was_measured(said: str) -> None:
    told = Told.prepared().students(date_01="f").submits(ending(text=said))

    text = diagnosis_md(found(told))

    assert said.strip() == "" or text.startswith(said)
    assert headings(text)[-3:] == [
        "What was measured",
        "Tasks that were run",
        "How to read this",
    ]
    assert text.encode()


@given(SAID, SAID, SAID.filter(str.strip), SAID)
def test_words_from_outside_are_words(description: str, gap: str, name: str, fault: str) -> None:
    nasty = cluster(name, "x|`y", description=description, skill_gap=gap)
    told = Told.prepared().students(date_01="f").submits(ending(nasty))
    told = replace(found(told), reason=f"It was so ({fault}).")

    tokens = MARKDOWN.parse(diagnosis_md(told))

    kinds = [token.type for token in tokens]
    assert kinds.count("heading_open") == 4
    assert kinds.count("table_open") == 2
    # A cluster and a task, and a head for each.
    assert kinds.count("tr_open") == 4
    assert not {"fence", "code_block", "html_block", "blockquote_open"} & {*kinds}


@given(histories())
def test_every_session_leaves_a_reason_and_the_true_cost(journal: tuple[Event, ...]) -> None:
    session = fold(journal)
    outcome, reason = conclude_outcome(session, ())

    text = diagnosis_md(
        Findings(
            session=session,
            outcome=outcome,
            reason=reason,
            clusters=(),
            costs=(),
            text_of=text_of,
            call_result=result_of,
        )
    )

    assert f"Outcome: **{outcome.value}**. {reason[:20]}" in text
    assert "Cost: $0.00 of $5.00" in text
    assert text.endswith("\n")


@pytest.mark.parametrize("stop", Stop)
def test_a_session_without_a_text_says_so_and_why(stop: Stop) -> None:
    session = replace(Told.prepared().students(date_01="fp").session, stop=stop)
    outcome, reason = conclude_outcome(session, ())

    text = diagnosis_md(
        replace(NIGHTS["cancelled"](), session=session, outcome=outcome, reason=reason)
    )

    assert text.startswith(f"# Session `night-2026-01-05-smol`: {outcome.value}\n")
    assert "The teacher left no diagnosis." in text
    assert "| `date-01` | 1 of 2 |" in text
    # Nothing is made up where nothing was said.
    assert "### Clusters" not in text


# ------------------------------------------------------------------------------------------ words


def line(text: str, start: str) -> str:
    (found_line,) = [line for line in text.splitlines() if line.startswith(start)]
    return found_line


@pytest.mark.parametrize(
    ("runs", "percent"),
    [("p" * 200 + "f", "<1%"), ("f" * 200 + "p", ">99%"), ("fp", "50%"), ("f", "100%")],
)
def test_what_is_not_quite_none_or_all_does_not_look_like_it(runs: str, percent: str) -> None:
    told = Told.prepared().students(date_01=runs).submits(ending(cluster("a", "date-01")))

    assert f"| **{percent}** (" in line(diagnosis_md(found(told)), "| `a` |")


@pytest.mark.parametrize(
    ("cost_nusd", "shown"),
    [
        (0, "$0.00"),
        (1, "$0.0001"),
        (10_000_000, "$0.01"),
        (12_345_678, "$0.0124"),
        (1_250_000_000, "$1.25"),
        (1_999_950_001, "$2.00"),
    ],
)
def test_money_is_shown_rounded_up(cost_nusd: int, shown: str) -> None:
    findings = NIGHTS["cancelled"]()
    (first, *_) = findings.costs

    text = diagnosis_md(replace(findings, costs=(replace(first, actual_nusd=cost_nusd),)))

    assert line(text, "- Cost:").startswith(f"- Cost: {shown} of $5.00")


def test_money_that_is_not_settled_is_said() -> None:
    findings = NIGHTS["cancelled"]()
    (first, *_) = findings.costs
    held = replace(first, state="sent", amount_nusd=120_000_000, actual_nusd=0)
    lost = replace(first, state="expired", actual_nusd=30_000_000)

    text = diagnosis_md(replace(findings, costs=(held, lost)))

    assert line(text, "- Cost:") == (
        "- Cost: $0.03 of $5.00 (close $0.03); $0.03 of it for calls whose outcome is unknown; "
        "$0.12 more is still held"
    )


def test_what_went_beyond_a_limit_is_said() -> None:
    told = Told.prepared().students(date_01="ff")
    session = told.session
    (turn,) = session.turns
    (call,) = turn.calls
    refused = replace(call, runs=None, refused=Stop.TOOL_CALLS)
    more = replace(turn, calls=(replace(call, runs_refused=3), refused))

    text = diagnosis_md(replace(NIGHTS["cancelled"](), session=replace(session, turns=(more,))))

    assert line(text, "- Explored:").endswith(
        "; beyond the limit: 1 tool call; beyond the limit: 3 student runs"
    )


def test_long_tables_and_lists_are_cut_and_say_so() -> None:
    tasks = {f"t_{number:03d}": "f" for number in range(70)}
    ids = [name.replace("_", "-") for name in tasks]
    told = Told.prepared().students(**tasks).submits(ending(cluster("a", *ids)))
    findings = found(told)
    named = replace(findings.clusters[0], unknown_ids=(), task_ids=tuple(ids))

    text = diagnosis_md(replace(findings, clusters=(named,)))

    assert "`t-059`" in text
    assert "| `t-060` |" not in text
    assert "10 more tasks in `runs.jsonl`." in text
    assert "`t-018`, `t-019` and 50 more" in text


def test_a_diagnosis_that_is_stored_apart_is_loaded() -> None:
    stored = replace(ending(), diagnosis=Blob(sha256="0" * 64, size_bytes=9))
    findings = found(Told.prepared().writes(stored))

    assert diagnosis_md(findings).startswith(f"{text_of(stored.diagnosis)}\n\n---\n")


def test_a_task_may_have_any_name() -> None:
    told = Told.prepared()
    turn = told.students(date_01="f").session.turns[0]
    (run,) = told.session.runs
    odd = replace(run, spec=RunSpec(task_id="a`b|c\nd", attempt=0))
    call = replace(turn.calls[0], runs=(odd,))
    session = replace(told.session, turns=(replace(turn, calls=(call,)),))

    text = diagnosis_md(replace(NIGHTS["cancelled"](), session=session))

    assert "| `` a`b\\|c d `` | 0 of 1 | - |  |" in text
