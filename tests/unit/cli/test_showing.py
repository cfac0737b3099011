"""What a teacher, a student or a trace said is shown as text, and does nothing to a terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from worker.cli.output import dollars, plain, said
from worker.cli.panel import clusters_table, session_panel
from worker.cli.session import show_result
from worker.status import Activity, SessionView, StepView
from worker.wire.result import ClusterSummary, DiagnoseResult

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Markup that does not close, an emoji's name, a screen cleared, a line turned around.
EVIL = "[/] [bold [link=http://x]click[/link] :x: \x1b[2J\x1b]0;owned\x07 \u202eabc\r\nnext \x9b31m"


@given(text=st.text(max_size=60))
def test_a_shown_text_is_one_line_that_can_be_printed(text: str) -> None:
    assert plain(text).isprintable()
    assert said(text).plain == plain(text)


def test_words_are_left_as_they_are() -> None:
    assert plain("  Größe: 日本 \U0001f600 [ok]  ") == "Größe: 日本 \U0001f600 [ok]"


@pytest.mark.parametrize(
    ("nusd", "shown"),
    [(0, "$0.0000"), (1, "$0.0000"), (177_520_000, "$0.1775"), (10**15, "$1000000.0000")],
)
def test_dollars(nusd: int, shown: str) -> None:
    assert dollars(nusd) == shown


def view(**fields: Any) -> SessionView:
    """Return a session in the middle of its second turn."""
    usual: dict[str, Any] = {
        "session_id": "s-1",
        "phase": "exploring",
        "outcome": None,
        "reason": "",
        "turns": 2,
        "max_turns": 30,
        "tool_calls": 3,
        "max_tool_calls": 150,
        "student_runs": 10,
        "student_runs_done": 4,
        "student_faults": 1,
        "teacher_runs": 2,
        "cost_nusd": 12_300_000,
        "held_nusd": 400_000_000,
        "cap_nusd": 5_000_000_000,
        "created_ms": 1_000,
        "ended_ms": None,
        "artifacts_uri": "",
        "activity": (
            Activity(turn=1, tools=("list_traces", "list_traces"), done=2, cost_nusd=1),
            Activity(turn=2, tools=("run_student_on_tasks",), done=0, cost_nusd=2),
        ),
        "steps": (),
        "open_steps": 0,
    }
    return SessionView.model_validate({**usual, **fields})


def test_a_session_is_shown_with_what_is_done_of_all() -> None:
    shown = drawn(session_panel(view(), now_ms=3_500))

    for part in (
        "s-1 · exploring",
        "2.5 s",
        "2 of 30",
        "3 of 150",
        "4 of 10, 1 faults",
        "$0.0123 of $5.0000 (+ $0.4000 held)",
        "list_traces x2",
        "0/1",
    ):
        assert part in shown


def test_what_a_teacher_called_its_tools_and_clusters_does_nothing() -> None:
    step = StepView(
        step_id="turn/1", state="ready", queue="teacher", owner="", attempt=2, last_error=EVIL
    )
    turns = tuple(Activity(turn=n, tools=(EVIL,) * n, done=0, cost_nusd=0) for n in range(1, 20))
    seen = view(reason=EVIL, steps=(step,), activity=turns, outcome="failed")

    shown = drawn(session_panel(seen, now_ms=0)) + drawn(clusters_table(result(EVIL)))

    assert "click" in shown, "the words themselves are there"
    assert "[/]" in shown
    assert ":x:" in shown
    _assert_harmless(shown)


@given(text=st.text(max_size=80))
def test_any_word_can_be_drawn(text: str) -> None:
    turns = (Activity(turn=1, tools=(text, text), done=0, cost_nusd=0),)
    seen = view(reason=text, activity=turns)

    _assert_harmless(drawn(session_panel(seen, now_ms=0)) + drawn(clusters_table(result(text))))


def test_a_result_is_printed_as_it_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(result(EVIL))

    shown = capsys.readouterr().out
    assert shown.startswith("failed: [/]")
    assert "not measured" in shown
    _assert_harmless(shown)


def test_no_result_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(None)

    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("colours", "no_color"), [(True, False), (False, True), (False, False)])
def test_colours_come_only_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, *, colours: bool, no_color: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    console = Console(file=file, force_terminal=colours or no_color, width=100)

    console.print(session_panel(view(outcome="failed"), now_ms=0))

    assert ("\x1b[31m" in file.getvalue()) is colours


def result(words: str) -> DiagnoseResult:
    """Return a result in which everything that somebody else can choose is `words`."""
    cluster = ClusterSummary(
        cluster_id=words or "x",
        description=words,
        evidence="claimed",
        student_failure_rate=None,
        teacher_success_rate=0.5,
        sample_trace_ids=(words,),
    )
    return DiagnoseResult(
        session_id="s-1",
        outcome="failed",
        reason=words,
        clusters=(cluster,),
        artifacts_uri="s3://x/",
    )


def drawn(what: RenderableType) -> str:
    """Return what a console that is no terminal shows."""
    file = io.StringIO()
    Console(file=file, width=100, markup=False, emoji=False, highlight=False).print(what)
    return file.getvalue()


def _assert_harmless(shown: str) -> None:
    assert not [line for line in shown.splitlines() if not line.isprintable()]
    assert "\x1b" not in shown
    assert "\u202e" not in shown
