from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.bundle.homes import opened, write_store
from worker.errors import BundleInvalid
from worker.traces import Order, SqliteTraces, TraceFilter, TraceOutcome, build_index
from worker.traces.source import STEP_COLUMNS, TRACE_COLUMNS

CELLS = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | st.sampled_from(["t-1", "t-2", "{", "[1]", '{"tool": "x"}', '[{"role": "user"}]', "row:1"])
)


def rows(columns: tuple[str, ...]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.fixed_dictionaries(dict.fromkeys(columns, CELLS)), max_size=6)


@settings(max_examples=60)
@given(traces=rows(TRACE_COLUMNS), steps=rows(STEP_COLUMNS), question=st.text(max_size=40))
def test_no_cell_of_a_store_can_break_a_reader(
    traces: list[dict[str, Any]], steps: list[dict[str, Any]], question: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = opened(write_store(Path(folder) / "traces.db", traces, steps))
        with closing(store):
            page = store.list(limit=100)
            store.search(question)

            assert page.total == len(page.summaries) == store.report.traces
            assert page.total + store.report.duplicate_traces == len(traces)
            for summary in page.summaries:
                trace = store.get(summary.trace_id)
                assert trace is not None
                assert len(store.steps(trace.trace_id, limit=100)) == trace.steps == summary.steps
                assert [head.n for head in store.outline(trace.trace_id)] == [*range(trace.steps)]
            found = sum(summary.steps for summary in page.summaries)
            assert found + store.report.orphan_steps == len(steps)


# ---------------------------------------------------------------------------- lists and filters

RECORDED = ["success", "SUCCESS", "passed", "error", "Failure", "timed out", "odd", "", None]
SOME_TRACES = st.lists(
    st.fixed_dictionaries(
        {
            "agent": st.sampled_from(["a", "b"]),
            "outcome": st.sampled_from(RECORDED),
            "feedback": st.none() | st.sampled_from([0.0, 0.5, 1.0]),
            "started_at": st.integers(0, 5),
        }
    ),
    max_size=25,
)
FILTERS = st.builds(
    TraceFilter,
    agent=st.none() | st.sampled_from(["a", "A", "c"]),
    outcome=st.none() | st.sampled_from(TraceOutcome),
    min_feedback=st.none() | st.sampled_from([0.0, 0.5]),
    max_feedback=st.none() | st.sampled_from([0.5, 1.0]),
)


def passes(row: dict[str, Any], chosen: TraceFilter) -> bool:
    feedback = row["feedback"]
    asked = chosen.min_feedback is not None or chosen.max_feedback is not None
    return (
        (chosen.agent is None or row["agent"] == chosen.agent.lower())
        and chosen.outcome in (None, TraceOutcome.of(row["outcome"] or ""))
        and not (asked and feedback is None)
        and (chosen.min_feedback is None or feedback >= chosen.min_feedback)
        and (chosen.max_feedback is None or feedback <= chosen.max_feedback)
    )


@settings(max_examples=60)
@given(traces=SOME_TRACES, chosen=FILTERS, order=st.sampled_from(Order), limit=st.integers(1, 7))
def test_pages_together_hold_what_passes_the_filter_once_each(
    traces: list[dict[str, Any]], chosen: TraceFilter, order: Order, limit: int
) -> None:
    named = [{"trace_id": f"t{number}", **row} for number, row in enumerate(traces)]
    expected = {row["trace_id"] for row in named if passes(row, chosen)}
    with tempfile.TemporaryDirectory() as folder:
        store = opened(write_store(Path(folder) / "traces.db", named))
        with closing(store):
            pages = [
                store.list(chosen, order=order, offset=offset, limit=limit)
                for offset in range(0, len(named) + 1, limit)
            ]

    seen = [summary.trace_id for page in pages for summary in page.summaries]
    assert len(seen) == len(expected)
    assert set(seen) == expected
    assert {page.total for page in pages} == {len(expected)}
    if order is not Order.SPREAD:
        times = {row["trace_id"]: row["started_at"] for row in named}
        found = [times[trace_id] for trace_id in seen]
        assert found == sorted(found, reverse=order is Order.NEWEST)


def test_the_first_page_of_a_spread_runs_over_the_whole_time(tmp_path: Path) -> None:
    traces = [{"trace_id": f"t{number:02}", "started_at": number} for number in range(40)]
    with closing(opened(write_store(tmp_path / "traces.db", traces))) as store:
        page = store.list(order=Order.SPREAD, limit=4)

    assert [summary.trace_id for summary in page.summaries] == ["t39", "t29", "t19", "t09"]


@pytest.mark.parametrize(
    ("recorded", "meant"),
    [
        ("success", TraceOutcome.SUCCESS),
        (" Success ", TraceOutcome.SUCCESS),
        ("failure", TraceOutcome.FAILURE),
        ("failed", TraceOutcome.FAILURE),
        ("error", TraceOutcome.FAILURE),
        ("TIMEOUT", TraceOutcome.FAILURE),
        ("timed-out", TraceOutcome.FAILURE),
        ("", TraceOutcome.UNKNOWN),
        ("cancelled", TraceOutcome.UNKNOWN),
    ],
)
def test_an_outcome_is_one_of_three_in_every_spelling(recorded: str, meant: TraceOutcome) -> None:
    assert TraceOutcome.of(recorded) is meant


# ------------------------------------------------------------------------------------ odd stores


def test_a_store_of_an_old_version_reads_without_what_it_lacks(tmp_path: Path) -> None:
    traces = [{"trace_id": "t1", "query": "hello", "outcome": "error"}]
    columns = ("trace_id", "query", "outcome")
    store = opened(
        write_store(tmp_path / "traces.db", traces, trace_columns=columns, step_columns=None)
    )
    with closing(store):
        trace = store.get("t1")
        assert trace is not None
        assert (trace.query, trace.outcome) == ("hello", TraceOutcome.FAILURE)
        assert (trace.messages, trace.steps, trace.started_at) == ((), 0, None)
        assert store.steps("t1") == store.outline("t1") == ()
        hits = store.search("hello")
        assert hits is not None
        assert hits.hits[0].place == "query"


def test_rows_that_do_not_parse_are_kept_counted_and_named(tmp_path: Path) -> None:
    traces = [{"trace_id": "t1", "metadata": "{broken", "messages": "[1,"}]
    steps = [
        {"trace_id": "t1", "step_index": 0, "input": "{}", "output": '{"cut": "of'},
        {"trace_id": "t1", "step_index": 1, "input": "{}", "output": "{}"},
    ]
    with closing(opened(write_store(tmp_path / "traces.db", traces, steps))) as store:
        trace = store.get("t1")
        first, second = store.steps("t1", limit=5)

        assert (store.report.unparsable_traces, store.report.unparsable_steps) == (1, 1)
        assert trace is not None
        assert trace.unparsable == ("metadata", "messages")
        assert trace.metadata == "{broken"
        assert first.unparsable == ("output",)
        assert first.output == '{"cut": "of'
        assert second.unparsable == ()


def test_of_rows_with_one_id_the_newest_stands_and_the_others_are_counted(tmp_path: Path) -> None:
    traces = [
        {"trace_id": "t1", "query": "new", "started_at": 9.0},
        {"trace_id": "t1", "query": "old", "started_at": 1.0},
        {"trace_id": None, "query": "nameless"},
        {"trace_id": "row:3", "query": "named like a row"},
    ]
    with closing(opened(write_store(tmp_path / "traces.db", traces))) as store:
        trace = store.get("t1")

        assert trace is not None
        assert (trace.query, trace.copies) == ("new", 2)
        assert store.report.duplicate_traces == store.report.traces_without_id == 1
        queries = {summary.query for summary in store.list().summaries}
        assert queries == {"new", "nameless", "named like a row"}


def test_steps_come_in_their_own_order_whatever_the_order_of_rows(tmp_path: Path) -> None:
    steps = [
        {"trace_id": "t1", "step_index": index, "step_type": "tool_call", "input": given}
        for index, given in [(2, '{"tool": "third"}'), (0, '{"tool": "first"}'), (7, "{}")]
    ]
    with closing(opened(write_store(tmp_path / "t.db", [{"trace_id": "t1"}], steps))) as store:
        outline = store.outline("t1")

        assert [(head.n, head.label) for head in outline] == [(0, "first"), (1, "third"), (2, "")]
        assert [step.step_index for step in store.steps("t1", first=1, limit=9)] == [2, 7]


def test_an_unknown_id_has_neighbours_and_nothing_else(tmp_path: Path) -> None:
    traces = [{"trace_id": name} for name in ("a-1", "a-3", "b-1")]
    with closing(opened(write_store(tmp_path / "t.db", traces))) as store:
        assert store.get("a-2") is None
        assert store.near("a-2") == ("a-1", "a-3", "b-1")


def test_reading_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    path = write_store(tmp_path / "traces.db", [{"trace_id": "t1", "query": "hello"}])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
    before = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns

    with closing(opened(path)) as store:
        store.search("hello")
        store.get("t1")

    assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) == before
    assert {found.name for found in tmp_path.iterdir()} == {"traces.db", "traces.index"}


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100, b"SQLite format 3\x00"])
def test_a_file_that_is_no_store_is_refused_by_what_is_wrong(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "traces.db"
    path.write_bytes(content)

    with pytest.raises(BundleInvalid, match=r"traces"):
        build_index(path, tmp_path / "index")

    assert not (tmp_path / "index").exists()


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    traces = [{"trace_id": f"t{number}", "query": "x" * 3_000} for number in range(40)]
    path = write_store(tmp_path / "traces.db", traces)
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = b"\xff" * (len(damaged) - 4096)
    path.write_bytes(damaged)

    with pytest.raises(BundleInvalid, match="cannot be read"):
        build_index(path, tmp_path / "index")


def test_another_database_is_refused_by_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE invoices(id)")

    with pytest.raises(BundleInvalid, match="invoices"):
        build_index(path, tmp_path / "index")


def test_an_index_of_another_version_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "traces.db", [{"trace_id": "t1"}])
    index = tmp_path / "index"
    build_index(store, index)
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("PRAGMA user_version = 999")

    with pytest.raises(BundleInvalid, match="another version"):
        SqliteTraces(store, index)


def test_many_threads_read_what_one_would(tmp_path: Path) -> None:
    traces = [{"trace_id": f"t{number}", "query": f"word{number} common"} for number in range(64)]
    steps = [{"trace_id": row["trace_id"], "step_index": 0, "input": "{}"} for row in traces]

    def read(number: int) -> tuple[str, int, int]:
        hits = store.search(f"word{number}")
        trace = store.get(f"t{number}")
        assert hits is not None
        assert trace is not None
        return hits.hits[0].summary.trace_id, hits.total, len(store.steps(trace.trace_id))

    with closing(opened(write_store(tmp_path / "t.db", traces, steps))) as store:
        with ThreadPoolExecutor(32) as threads:
            found = list(threads.map(read, range(64)))

        assert found == [(f"t{number}", 1, 1) for number in range(64)]


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = opened(write_store(tmp_path / "t.db", [{"trace_id": "t1"}]))
    store.close()

    with pytest.raises(RuntimeError, match="closed"):
        store.get("t1")
