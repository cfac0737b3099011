"""One timeline says who did what, what was taken over and why, and what was paid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.strategies import histories
from worker.core.events import Event, TeacherReplied
from worker.core.values import Purpose, SentPrompt, Text, Usage
from worker.ports import DeadLetter, Entry, EntryState, Record, StepRow
from worker.timeline import Row, Source, described, paid, timeline
from worker.wire.archive import archive, archived_notes, archived_records
from worker.wire.journal import decode, encode
from worker.wire.manifest import ManifestFile

GOLDEN = Path(__file__).parents[2] / "golden" / "journals"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.jsonl") if ".wanted" not in path.name)
KILLED = (GOLDEN / "worker-killed.jsonl").read_bytes()
RECORDS, NOTES = archived_records(KILLED), archived_notes(KILLED)

ENTRY = Entry(
    reservation_id="turn/2/1",
    state=EntryState.SETTLED,
    amount_nusd=200_000_000,
    actual_nusd=50_000_000,
    scopes=("fleet",),
    kind="explore",
    model="claude-opus-4-6",
    step_id="turn/2",
    price_version="1",
    created_ms=RECORDS[2].at_ms,
    request_id="req_1",
)
STEP = StepRow(
    step_id="run/1.0.0",
    queue="student",
    state="ready",
    owner="",
    attempt=2,
    deaths=1,
    retries=1,
    due_ms=0,
    last_error="503",
)


def of(rows: tuple[Row, ...], source: Source) -> list[Row]:
    return [row for row in rows if row.source is source]


def test_every_record_is_there_with_its_worker_and_attempt() -> None:
    rows = of(timeline(records=RECORDS, notes=NOTES), Source.JOURNAL)

    assert [(row.step_id, row.owner, row.attempt, row.at_ms) for row in rows] == [
        (record.key, record.owner, record.attempt, record.at_ms) for record in RECORDS
    ]


def test_a_takeover_stands_before_what_came_of_it() -> None:
    """The worker was killed while the teacher answered: another one took over and replied."""
    rows = timeline(records=RECORDS, notes=NOTES)

    turn = [row for row in rows if row.step_id == "turn/2"]

    assert [row.source for row in turn] == [Source.ATTEMPT, Source.JOURNAL]
    taken, replied = turn
    assert taken.what == "took over from a1, whose lease ran out"
    assert (taken.owner, taken.attempt) == (replied.owner, replied.attempt)
    assert replied.attempt == 2


def test_a_turn_says_what_it_read_from_the_cache_and_why_not_more() -> None:
    first, second = (
        TeacherReplied(
            turn=turn,
            purpose=Purpose.EXPLORE,
            content=Text(text="[]"),
            stop_reason="tool_use",
            usage=Usage(cache_read_tokens=read, cache_write_5m_tokens=6_000 - read),
            model="claude-opus-5",
            sent=SentPrompt(asked_ms=turn * 400_000, parts=("a:1",), breakpoints=("1:5m",)),
        )
        for turn, read in ((1, 5_000), (2, 1_000))
    )
    records = [
        replace(RECORDS[0], key=key, body=body) for key, body in map(encode, (second, first))
    ]

    words = {row.step_id: row.what.partition("; ")[2] for row in timeline(records=records)}

    assert words["turn/1"] == "5,000 of 6,000 prompt tokens cached"
    assert words["turn/2"] == (
        "1,000 of 6,000 prompt tokens cached, 5,000 missed: "
        "400 s after the call before; entries live 300 s"
    )


@pytest.mark.parametrize(
    ("state", "actual_nusd", "why", "words"),
    [
        (EntryState.HELD, 0, "", "$0.20 held, not sent"),
        (EntryState.SENT, 0, "", "$0.20 held, sent, no answer yet"),
        (EntryState.SETTLED, 50_000_000, "", "paid $0.05 of $0.20 held"),
        (
            EntryState.EXPIRED,
            200_000_000,
            "deadline",
            "outcome unknown (deadline), charged at its bound of $0.20",
        ),
        (EntryState.VOID, 0, "never sent", "$0.20 given back: never sent"),
    ],
)
def test_money_says_what_became_of_it(
    state: EntryState, actual_nusd: int, why: str, words: str
) -> None:
    entry = replace(ENTRY, state=state, actual_nusd=actual_nusd, why=why)

    (row,) = timeline(records=(), entries=[entry])

    assert row.what == f"explore by claude-opus-4-6: {words}"
    assert (row.step_id, row.charged_nusd, row.request_id) == ("turn/2", actual_nusd, "req_1")


@given(st.lists(st.integers(0, 10**12), max_size=8))
def test_what_was_paid_is_the_sum_of_the_ledger_and_of_nothing_else(amounts: list[int]) -> None:
    entries = [replace(ENTRY, actual_nusd=amount) for amount in amounts]

    assert paid(timeline(records=RECORDS, notes=NOTES, entries=entries)) == sum(amounts)


def test_what_is_under_way_comes_last_with_its_last_error() -> None:
    rows = timeline(records=RECORDS, steps=[STEP])

    assert rows[-1].source is Source.UNDER_WAY
    assert rows[-1].what == (
        "ready on student, somebody is told of it then; 1 deaths, 1 retries; last error: 503"
    )


def test_a_step_that_was_given_up_and_the_artifacts_are_in_it() -> None:
    letter = DeadLetter(
        number=1,
        at_ms=5,
        session_id="s-1",
        step_id="call/1.0",
        attempt=4,
        deaths=3,
        reason="it killed 3 workers",
    )
    files = {"clusters.json": ManifestFile(key="sessions/x", sha256="0" * 64, size_bytes=1_234)}

    dead, file = timeline(records=(), dead_letters=[letter], files=files, ended_ms=9)

    assert dead.what == "given up after 4 attempts and 3 deaths: it killed 3 workers"
    assert (file.at_ms, file.what) == (9, "clusters.json, 1,234 bytes, at sessions/x")


@given(st.permutations([replace(record, at_ms=at) for at, record in enumerate(RECORDS)]))
def test_the_order_in_which_records_are_given_does_not_matter(shuffled: list[Record]) -> None:
    in_order = sorted(shuffled, key=lambda record: record.at_ms)

    assert timeline(records=shuffled) == timeline(records=in_order)


@pytest.mark.parametrize("name", NAMES)
def test_every_event_has_words_on_one_line(name: str) -> None:
    for record in archived_records((GOLDEN / f"{name}.jsonl").read_bytes()):
        words = described(decode(record.body))
        assert words
        assert "\n" not in words


@given(history=histories())
def test_whatever_is_in_a_journal_can_be_shown(history: tuple[Event, ...]) -> None:
    records = [
        Record(key=key, body=body, at_ms=at_ms, owner="w", attempt=1)
        for at_ms, (key, body) in enumerate(map(encode, history))
    ]

    assert [row.step_id for row in timeline(records=records)] == [r.key for r in records]
    assert all(row.what for row in timeline(records=records))


def test_the_golden_journals_show_nearly_every_event() -> None:
    seen = {
        type(decode(record.body)).__name__
        for name in NAMES
        for record in archived_records((GOLDEN / f"{name}.jsonl").read_bytes())
    }

    assert {kind.__name__ for kind in get_args(Event)} - seen == {"PreparationFailed"}


def test_an_event_of_a_newer_version_is_shown_as_such() -> None:
    record = Record(key="x", body='{"v":9}', at_ms=1, owner="", attempt=0)

    (row,) = timeline(records=[record])

    assert row.what == "an event that this version cannot read: '{\"v\":9}'"


@pytest.mark.parametrize("name", NAMES)
def test_an_archived_journal_is_archived_to_the_same_bytes(name: str) -> None:
    body = (GOLDEN / f"{name}.jsonl").read_bytes()

    assert archive(archived_records(body), archived_notes(body)) == body
