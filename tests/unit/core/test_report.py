"""The artifacts that programs read: whole, exact, and the same bytes every time.

Rule: what is checked is checked on the parsed files; the golden files fix the bytes. `GOLDEN=write`
writes them again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.nights import NIGHTS, found, result_of
from tests.unit.core.strategies import histories
from tests.unit.core.told import Told, cluster, ending, text_of
from worker.core.costs import Cost
from worker.core.evidence import check, conclude_outcome
from worker.core.findings import Findings, paid_by_call, paid_by_step, usd_text
from worker.core.machine import fold
from worker.core.report import (
    StoredFile,
    clusters_json,
    costs_jsonl,
    manifest_json,
    runs_jsonl,
    session_json,
    teacher_traces_jsonl,
    transcript_jsonl,
)
from worker.core.values import Purpose, RunOutcome, SessionSpec, Text, ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.events import Event

GOLDEN = Path(__file__).parents[2] / "golden" / "report"
ARTIFACTS: dict[str, Callable[[Findings], str]] = {
    "clusters.json": clusters_json,
    "teacher_traces/diagnose.jsonl": teacher_traces_jsonl,
    "transcript.jsonl": transcript_jsonl,
    "runs.jsonl": runs_jsonl,
    "costs.jsonl": costs_jsonl,
    "session.json": session_json,
}


@pytest.mark.parametrize("name", ARTIFACTS)
@pytest.mark.parametrize("night", ["concluded", "cut_at_tool_calls", "not_prepared"])
def test_the_bytes_are_those_of_the_golden_file(night: str, name: str) -> None:
    file = GOLDEN / night / name
    text = ARTIFACTS[name](NIGHTS[night]())

    if os.environ.get("GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    assert text == file.read_text(encoding="utf-8")


def parsed(text: str) -> Any:
    """Return JSON as a reader that knows no NaN reads it."""
    return json.loads(text, parse_constant=_refuse)


def lines(text: str) -> list[dict[str, Any]]:
    assert not text or text.endswith("\n")
    return [parsed(line) for line in text.split("\n")[:-1]]


def _refuse(constant: str) -> NoReturn:
    pytest.fail(f"{constant} is not JSON")


# ------------------------------------------------------------------------------------------- laws


def paid(journal: tuple[Event, ...]) -> tuple[Cost, ...]:
    """Return a cost for every step of a session that could be paid, the failed tries included."""
    session = fold(journal)
    turns = [f"turn/{turn.reply.turn}" for turn in session.turns]
    places = [
        (turn.reply.turn, index) for turn in session.turns for index in range(len(turn.calls))
    ]
    calls = [f"call/{turn}.{index}" for turn, index in places]
    judged = [f"judge/{turn}.{index}.0" for turn, index in places]
    closings = [reply.purpose.value for reply in session.closings]
    return tuple(
        Cost(
            reservation_id=f"s-1/{step}/{attempt}.1",
            step_id=step,
            kind=step.split("/")[0],
            model="m",
            state="settled",
            amount_nusd=10**9,
            actual_nusd=7_919 * number + attempt,
        )
        for number, step in enumerate(dict.fromkeys([*turns, *calls, *judged, *closings]), 1)
        for attempt in (1, 2)
    )


@st.composite
def findings(draw: st.DrawFn) -> Findings:
    journal = draw(histories())
    session = fold(journal)
    checked = check(session.ending, session.runs, ["t1", "t2", "t3"], {})
    outcome, reason = conclude_outcome(session, checked)
    return Findings(
        session=session,
        outcome=outcome,
        reason=reason,
        clusters=checked,
        costs=paid(journal),
        text_of=text_of,
        call_result=result_of,
    )


@given(findings())
def test_every_session_leaves_files_that_can_be_read(found: Findings) -> None:
    session = found.session

    traces, transcript = lines(teacher_traces_jsonl(found)), lines(transcript_jsonl(found))

    assert len(traces) == sum(1 for _ in session.calls)
    assert len(transcript) == len(session.turns) + len(session.closings)
    assert len(lines(runs_jsonl(found))) == sum(1 for _ in session.runs)
    assert len(parsed(clusters_json(found))) == len(found.clusters)
    assert parsed(session_json(found))["reason"]
    assert all(make(found).encode() == make(found).encode() for make in ARTIFACTS.values())


@given(findings())
def test_no_nano_dollar_is_lost_between_the_files(found: Findings) -> None:
    total = sum(row["actual_nusd"] for row in lines(costs_jsonl(found)))

    replies, calls = lines(transcript_jsonl(found)), lines(teacher_traces_jsonl(found))

    assert sum(row["cost_nusd"] for row in [*replies, *calls]) == total
    cost = parsed(session_json(found))["cost"]
    assert cost["total_nusd"] == sum(cost["by_kind_nusd"].values()) == total
    assert Decimal(cost["total_usd"]) == Decimal(total).scaleb(-9)


@given(findings())
def test_a_rate_is_a_count_of_the_runs_file_or_null(found: Findings) -> None:
    rows = lines(runs_jsonl(found))

    for row in parsed(clusters_json(found)):
        for runner, key, wanted in (
            ("student", "student_failure_rate", False),
            ("teacher", "teacher_success_rate", True),
        ):
            counted = [
                run["passed"]
                for run in rows
                if run["runner"] == runner
                and run["task_id"] in row["sample_task_ids"]
                and run["outcome"] != "fault"
                and run["passed"] is not None
            ]
            rate = counted.count(wanted) / len(counted) if counted else None
            assert row[key] == rate
            assert row[runner]["counted"] == len(counted)


# ------------------------------------------------------------------------------------------ money


@given(st.integers(0, 10**15 - 1))
def test_dollars_are_exact_to_the_last_digit(nusd: int) -> None:
    findings = NIGHTS["cancelled"]()
    (first, *_) = findings.costs
    cost = replace(first, step_id="turn/1", actual_nusd=nusd)

    text = transcript_jsonl(replace(findings, costs=(cost,)))

    (row,) = [json.loads(line, parse_float=Decimal) for line in text.splitlines()]
    assert Decimal(row["cost_usd"]) == Decimal(usd_text(nusd)) == Decimal(nusd).scaleb(-9)


@pytest.mark.parametrize(
    ("nusd", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (1_250_000_000, "1.25"),
        (3_000_000_000, "3"),
        (41_234_567, "0.041234567"),
        (9_007_199_254_740_993, "9007199.254740993"),
        (-5, "-0.000000005"),
    ],
)
def test_usd_is_written_as_people_write_it(nusd: int, text: str) -> None:
    assert usd_text(nusd) == text


def test_failed_tries_and_verdicts_belong_to_their_call() -> None:
    steps = {
        "turn/1": 1,
        "call/1.0": 20,
        "judge/1.0.0": 300,
        "judge/1.0.12": 4_000,
        "judge/1.1.0": 50_000,
        "closing-hold": 600_000,
    }
    (first, *_) = NIGHTS["cancelled"]().costs
    costs = [replace(first, step_id=step, actual_nusd=nusd) for step, nusd in steps.items()]

    assert paid_by_call(costs) == {"1.0": 4_320, "1.1": 50_000}
    assert paid_by_step([*costs, *costs])["call/1.0"] == 40


# --------------------------------------------------------------------------- the reference's keys


def test_clusters_have_the_reference_s_keys_and_are_empty_of_edits() -> None:
    rows = parsed(clusters_json(NIGHTS["concluded"]()))

    assert [row["id"] for row in rows] == ["month-ends", "no-json", "tone"]
    for row in rows:
        assert list(row)[:7] == [
            "id",
            "description",
            "sample_trace_ids",
            "student_failure_rate",
            "teacher_success_rate",
            "skill_gap",
            "addressed_by_edit_ids",
        ]
        assert row["addressed_by_edit_ids"] == []


def test_tool_calls_have_the_reference_s_keys() -> None:
    rows = lines(teacher_traces_jsonl(NIGHTS["concluded"]()))

    assert all(
        list(row)[:6] == ["timestamp", "tool", "args", "result", "latency_ms", "cost_usd"]
        for row in rows
    )
    assert rows[0]["timestamp"] == "2026-01-05T02:00:03.000Z"
    assert rows[0]["args"] == {"outcome": "failure", "limit": 3}
    assert rows[0]["latency_ms"] == 12


def test_a_session_that_said_nothing_has_no_clusters() -> None:
    assert clusters_json(NIGHTS["out_of_money"]()) == "[]\n"


def test_calls_that_were_refused_or_cut_short_say_so() -> None:
    states = {
        night: [row["state"] for row in lines(teacher_traces_jsonl(NIGHTS[night]()))]
        for night in ("cancelled", "cut_at_tool_calls")
    }

    assert states == {
        "cancelled": ["unfinished"],
        "cut_at_tool_calls": ["done", "done", "done", "refused"],
    }


def test_runs_that_never_ended_are_listed_and_count_for_nothing() -> None:
    rows = lines(runs_jsonl(NIGHTS["cancelled"]()))

    assert [row["outcome"] for row in rows] == ["answered", "fault"] + ["unfinished"] * 3
    assert [row["counts"] for row in rows] == [True] + [False] * 4


def test_null_content_is_null_and_a_fault_is_no_answer() -> None:
    told = Told.prepared().students(date_01="ex")

    empty, fault = lines(runs_jsonl(found(told)))

    assert (empty["outcome"], empty["output"], empty["passed"]) == ("empty", None, False)
    assert (fault["outcome"], fault["output"], fault["passed"]) == ("fault", None, None)
    assert fault["why"] == "timeout after 60000 ms"


def test_a_judge_s_word_replaces_the_record_s() -> None:
    told = Told.prepared().students(date_01="j")
    costs = (replace(NIGHTS["cancelled"]().costs[0], step_id="judge/1.0.0", actual_nusd=77),)

    (row,) = lines(runs_jsonl(found(told, costs)))

    assert row["outcome"] == RunOutcome.CUT.value
    assert (row["score"], row["passed"], row["why"]) == (0.2, False, "cut short")
    assert (row["cost_nusd"], row["cost_usd"]) == (77, 7.7e-08)


def test_a_session_says_all_that_was_asked_for() -> None:
    row = parsed(session_json(NIGHTS["concluded"]()))

    assert set(row["spec"]) == {one.name for one in fields(SessionSpec)}
    assert row["counts"]["clusters"] == {"measured": 1, "partial": 1, "claimed": 1}
    assert row["counts"]["student_runs"]["counted"] == 18
    assert row["versions"] == {"prices": "2026-01-01", "worker": "0.1.0"}
    assert row["stop"] == "submitted"


def test_a_manifest_lists_files_by_name() -> None:
    files = {
        "session.json": StoredFile(size_bytes=2, sha256="b" * 64, key="k/session.json"),
        "diagnosis.md": StoredFile(size_bytes=1, sha256="a" * 64, key="k/diagnosis.md"),
    }

    text = manifest_json(files, session_id="s-1")

    assert parsed(text) == {
        "version": 1,
        "session_id": "s-1",
        "files": {name: asdict(file) for name, file in files.items()},
    }
    assert list(parsed(text)["files"]) == ["diagnosis.md", "session.json"]
    assert manifest_json(dict(reversed(files.items())), session_id="s-1") == text


# ------------------------------------------------------------------------------------- odd texts


def with_arguments(arguments: str) -> Findings:
    told = Told.prepared().reads("get_trace", {}, "{}")
    (turn,) = told.session.turns
    call = replace(
        turn.calls[0],
        call=ToolCall(call_id="c", tool="get_trace", arguments_json=arguments),
    )
    session = replace(told.session, turns=(replace(turn, calls=(call,)),))
    return replace(NIGHTS["cancelled"](), session=session)


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ('{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        ("null", None),
        ('"x"', "x"),
        ("", ""),
        ("{not json", "{not json"),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a": 1e999}', '{"a": 1e999}'),
        ('{"a": -Infinity}', '{"a": -Infinity}'),
        ('{"a": "\\u001b[31m\\u001b[31m"}', {"a": "\x1b[31m\x1b[31m"}),
        ('{"a": "' + "[" * 500 + '"}', {"a": "[" * 500}),
        pytest.param("[" * 300 + "]" * 300, "[" * 300 + "]" * 300, id="deep"),
        pytest.param("[" * 99_999 + "]" * 99_999, "[" * 99_999 + "]" * 99_999, id="deeper"),
        pytest.param("9" * 5_000, "9" * 5_000, id="long number"),
    ],
)
def test_arguments_are_an_object_where_they_are_json(arguments: str, written: object) -> None:
    (row,) = lines(teacher_traces_jsonl(with_arguments(arguments)))

    assert row["args"] == written


@given(st.text() | st.text(st.characters(categories=["Cs", "Zl", "Zp", "Cc"])))
def test_any_text_can_be_written_one_line_a_row(text: str) -> None:
    # Two halves of a pair that meet are one character in JSON.
    text = json.loads(json.dumps(text))
    findings = with_arguments(json.dumps({"a": text}))
    told = (
        Told.prepared()
        .students(date_01="f")
        .submits(ending(cluster("a", text or "b", description=text), text=text, remarks=(text,)))
    )

    assert teacher_traces_jsonl(findings).encode().decode().splitlines() == [
        teacher_traces_jsonl(findings).rstrip("\n")
    ]
    (row,) = lines(teacher_traces_jsonl(findings))
    assert row["args"] == {"a": text}
    assert parsed(session_json(found(told)))["remarks"] == [text]
    assert parsed(clusters_json(found(told)))[0]["description"] == text


def test_content_that_is_not_json_is_kept_as_text() -> None:
    told = Told.prepared().writes(ending(), Purpose.EXPLORE)
    (turn,) = told.session.turns
    reply = replace(turn.reply, content=Text(text="[not json"))
    session = replace(told.session, turns=(replace(turn, reply=reply),))

    (row,) = lines(transcript_jsonl(replace(NIGHTS["cancelled"](), session=session)))

    assert row["content"] == "[not json"
