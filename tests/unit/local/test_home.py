"""What is made of the samples, the store and the home that somebody brings."""

from __future__ import annotations

import datetime as dt
import enum
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock, Mock  # noqa: TID251 - users of the reference bring such objects

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.unit.local.user_code import (
    Engine,
    Sample,
    Store,
    Trace,
    asks,
    cluster,
    diagnosis,
    make_runner,
    says,
)
from worker.local.home import snapshot
from worker.local.objects import attribute, json_text, number, plain, text, whole
from worker.local.samples import read_samples
from worker.local.stores import write_traces
from worker.traces.model import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from worker.bundle.open import Bundle

_TASKS = [Sample("task-0", "What is 0 + 1?", "1")]


def take(folder: Path, **given_things: Any) -> Bundle:
    things: dict[str, Any] = {
        "trace_store": Store(),
        "samples": _TASKS,
        "config": {},
        **given_things,
    }
    return snapshot(directory=folder / "taken", **things)


# ----------------------------------------------------------------------------------------- samples


class _Model(BaseModel):
    trace_id: str
    query: str
    reference_answer: str = "1"


class _Slotted:
    __slots__ = ("query", "trace_id")

    def __init__(self) -> None:
        self.trace_id, self.query = "t", "What?"


@pytest.mark.parametrize(
    "sample",
    [
        Sample("t", "What?"),
        _Model(trace_id="t", query="What?"),
        SimpleNamespace(trace_id="t", query="What?"),
        _Slotted(),
        {"trace_id": "t", "query": "What?"},
        MagicMock(trace_id="t", query="What?"),
        Mock(trace_id="t", query="What?", reference_answer="1", feedback_score=None),
    ],
    ids=["dataclass", "pydantic", "namespace", "slots", "dict", "MagicMock", "Mock"],
)
def test_samples_may_be_any_objects(sample: object) -> None:
    (row,), remarks = read_samples([sample])

    assert (row["trace_id"], row["query"], row["category"]) == ("t", "What?", "chat")
    assert row["reference_answer"] in {"", "1"}
    assert row["feedback_score"] in {None, 0.0}
    assert row["metadata"] == {}
    assert remarks == []


def test_the_first_of_two_samples_with_one_id_counts() -> None:
    rows, remarks = read_samples([Sample("t", "first"), Sample("t", "second")])

    assert [row["query"] for row in rows] == ["first"]
    assert remarks == ["1 tasks have the id of an earlier one: left out"]


def test_a_sample_without_a_query_is_left_out() -> None:
    rows, remarks = read_samples([Sample("t", " "), Sample("u", "What?")])

    assert [row["trace_id"] for row in rows] == ["u"]
    assert remarks == ["1 tasks have no query: left out"]


@pytest.mark.parametrize("task_id", ["", None, "x" * 201, "a\nb", Mock()])
def test_an_id_that_can_be_none_is_replaced_by_the_place(task_id: object) -> None:
    sample = SimpleNamespace(trace_id=task_id, query="What?")

    rows, remarks = read_samples([Sample("first", "What?"), sample])

    assert rows[1]["trace_id"] == "task-2"
    assert len(remarks) == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {"scorer": "no-such"},
        {"scorer": 7},
        {"scorer": "numeric"},
        {"scorer": {"name": "regex", "pattern": "("}},
    ],
)
def test_a_scorer_that_is_none_of_ours_leaves_the_task_to_the_judge(
    metadata: dict[str, Any],
) -> None:
    (row,), remarks = read_samples([Sample("t", "What?", "blue", metadata={**metadata, "of": 1})])

    assert row["metadata"] == {"of": 1}
    assert remarks == ["1 tasks name a scorer that cannot be used: left to the judge"]


@pytest.mark.parametrize("samples", [None, [], (), Mock(), 7, "text"])
def test_without_samples_there_is_a_session_all_the_same(tmp_path: Path, samples: object) -> None:
    with take(tmp_path, samples=samples, trace_store=Store([Trace("trace-1")])) as bundle:
        assert bundle.benchmark.task_ids == ()
        assert bundle.report.tasks == 0
        assert bundle.traces.report.traces == 1


def test_samples_may_come_one_by_one() -> None:
    rows, _ = read_samples(Sample(f"t{n}", "What?") for n in range(3))

    assert len(rows) == 3


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.decimals()
    | st.sampled_from(["\ud800", "a\x00b", object(), Mock(), 2**200, float("nan")]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
_SAMPLE = st.dictionaries(
    st.sampled_from([one.name for one in fields(Sample)]),
    _ANYTHING,
)
_TRACE = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys([one.name for one in fields(Trace)], _ANYTHING),
)


@settings(max_examples=30)
@given(
    samples=st.lists(_SAMPLE | _ANYTHING, max_size=3),
    traces=st.lists(_TRACE | _ANYTHING, max_size=3),
)
def test_nothing_odd_about_samples_or_traces_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, samples: list[Any], traces: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("snapshot")
    store = MagicMock()
    store.list_traces.return_value = traces

    with take(folder, samples=samples, trace_store=store) as bundle:
        assert len(bundle.benchmark.task_ids) <= len(samples)
        page = bundle.traces.list(order=Order.OLDEST, offset=0, limit=10)
        assert page.total <= len(traces)
        json.dumps(bundle.report.as_json(), allow_nan=False).encode()


# ------------------------------------------------------------------------------------------ stores


def traces_of(store: object, folder: Path) -> tuple[list[str], list[str]]:
    """Return the ids of the traces that are taken from a store, and the remarks."""
    remarks = write_traces(store, folder / "traces.db")
    if not (folder / "traces.db").exists():
        return [], remarks
    with closing(sqlite3.connect(folder / "traces.db")) as connection:
        rows = connection.execute("SELECT trace_id FROM traces ORDER BY trace_id")
        return [row[0] for row in rows], remarks


_TWO = [Trace("a"), Trace("b")]


class _NoLimit:
    def list_traces(self) -> list[Trace]:
        return _TWO


class _Positional:
    def list_traces(self, limit: int = 100, offset: int = 0) -> list[Trace]:
        return _TWO[offset:limit]


class _Generator:
    def list_traces(self, **filters: object) -> Iterator[Trace]:
        yield from _TWO


class _ByName:
    def list_traces(self, limit: int) -> Mapping[str, Trace]:
        return {trace.trace_id: trace for trace in _TWO}


class _Dicts:
    def list_traces(self, limit: int) -> list[dict[str, Any]]:
        return [{"trace_id": "a"}, {"trace_id": "b", "steps": [{"step_type": "generate"}]}]


def _mock(returned: object) -> MagicMock:
    store = MagicMock()
    store.list_traces.return_value = returned
    return store


@pytest.mark.parametrize(
    "store",
    [Store(_TWO), _NoLimit(), _Positional(), _Generator(), _ByName(), _Dicts(), _mock(_TWO)],
    ids=lambda store: type(store).__name__,
)
def test_traces_are_listed_however_the_store_does_it(tmp_path: Path, store: object) -> None:
    assert traces_of(store, tmp_path) == (["a", "b"], [])


class _Raises:
    def list_traces(self, limit: int) -> list[Trace]:
        raise TypeError("broken")


class _RaisesLater:
    def list_traces(self, limit: int) -> Iterator[Trace]:
        yield Trace("a")
        raise OSError("disk")


@pytest.mark.parametrize(
    ("store", "remark"),
    [
        (object(), "no method `list_traces`"),
        (None, "no method `list_traces`"),
        (SimpleNamespace(get=str, search=str), "no method `list_traces`"),
        (_Raises(), "raised TypeError: broken"),
        (_RaisesLater(), "raised OSError: disk"),
    ],
)
def test_a_store_that_lists_nothing_is_remarked(tmp_path: Path, store: object, remark: str) -> None:
    traces, remarks = traces_of(store, tmp_path)

    assert traces == []
    assert remark in remarks[0]


@pytest.mark.parametrize("store", [MagicMock(), Mock(), _mock(None), _mock(7), _mock("text")])
def test_a_stand_in_lists_nothing(tmp_path: Path, store: object) -> None:
    assert traces_of(store, tmp_path) == ([], [])


def test_traces_without_an_id_of_their_own_are_left_out(tmp_path: Path) -> None:
    store = Store([Trace("a", query="first"), Trace("a", query="second"), Trace("")])

    traces, remarks = traces_of(store, tmp_path)

    assert traces == ["a"]
    assert remarks == ["2 traces have no id, or one that is taken: left out"]
    with closing(sqlite3.connect(tmp_path / "traces.db")) as connection:
        assert connection.execute("SELECT query FROM traces").fetchall() == [("first",)]


class _Kind(enum.Enum):
    TOOL_CALL = "tool_call"


@dataclass
class _Step:
    step_type: _Kind
    timestamp: float
    input: dict[str, Any]
    output: dict[str, Any]


def test_steps_of_every_kind_are_kept(tmp_path: Path) -> None:
    when = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    steps = [
        _Step(_Kind.TOOL_CALL, 5.0, {"at": when}, {"half": "\ud83d"}),
        {"type": "respond", "output": {"content": "5"}},
        "said 5",
    ]

    with take(tmp_path, trace_store=Store([Trace("a", steps=steps)])) as bundle:
        read = bundle.traces.steps("a", limit=9)

    assert [step.step_type for step in read] == ["tool_call", "respond", ""]
    assert read[0].input == {"at": "2024-01-01T00:00:00+00:00"}
    assert read[0].timestamp == pytest.approx(5.0)
    assert [step.output for step in read] == [
        {"half": "\ufffd"},
        {"content": "5"},
        {"step": "said 5"},
    ]


class TraceStore(Store):
    """Stands for the reference's own store, which keeps its traces in a file."""

    __module__ = "openjarvis.traces.store"

    def __init__(self, path: Path | str) -> None:
        super().__init__([Trace("listed")])
        self._db_path = str(path)


def _write_store(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE traces (trace_id TEXT, query TEXT, metadata TEXT)")
        connection.execute("INSERT INTO traces VALUES ('filed', 'What?', '{not json')")


def test_the_references_own_store_is_copied_from_its_file(tmp_path: Path) -> None:
    _write_store(tmp_path / "own.db")

    assert traces_of(TraceStore(tmp_path / "own.db"), tmp_path) == (["filed"], [])


@pytest.mark.parametrize("path", [":memory:", "missing.db", ""])
def test_a_store_in_memory_is_asked(tmp_path: Path, path: str) -> None:
    assert traces_of(TraceStore(path), tmp_path) == (["listed"], [])


def test_another_store_of_that_name_is_asked(tmp_path: Path) -> None:
    _write_store(tmp_path / "own.db")
    other = type("TraceStore", (Store,), {"_db_path": str(tmp_path / "own.db")})

    assert traces_of(other([Trace("listed")]), tmp_path) == (["listed"], [])


def test_a_store_that_builds_on_the_references_is_asked(tmp_path: Path) -> None:
    class Filtered(TraceStore):
        pass

    _write_store(tmp_path / "own.db")

    assert traces_of(Filtered(tmp_path / "own.db"), tmp_path) == (["listed"], [])


# -------------------------------------------------------------------------------------------- home


def _home(folder: Path) -> Path:
    home = folder / "home"
    for agent in ("simple", "odd name"):
        (home / "agents" / agent).mkdir(parents=True)
        (home / "agents" / agent / "system_prompt.md").write_text(f"You are {agent}.")
    (home / "tools").mkdir()
    (home / "tools" / "descriptions.toml").write_text('[search]\ndescription = "Finds"\n')
    (home / "config.toml").write_text(
        'model = "small"\napi_key = "sk-ant-api03-abcdefgh12345678"\n'
    )
    return home


@pytest.mark.parametrize("of", [str, Path])
def test_the_home_is_read_from_paths_and_texts(
    tmp_path: Path, of: Callable[[Path], object]
) -> None:
    home = _home(tmp_path)
    config = {"config_path": of(home / "config.toml"), "openjarvis_home": of(home)}

    with take(tmp_path, config=config) as bundle:
        assert "small" in bundle.config_text
        assert "sk-ant" not in bundle.config_text
        assert bundle.agent_prompt("simple") == "You are simple."
        assert bundle.agent_prompt("odd name") == "You are odd name."
        assert bundle.tool_descriptions["search"].description == "Finds"


def test_the_home_is_enough_to_find_the_configuration(tmp_path: Path) -> None:
    with take(tmp_path, config={"openjarvis_home": _home(tmp_path)}) as bundle:
        assert "small" in bundle.config_text


@pytest.mark.parametrize("config", [{}, None, {"openjarvis_home": "/no/such"}, {"config_path": 7}])
def test_a_home_is_not_needed(tmp_path: Path, config: object) -> None:
    with take(tmp_path, config=config) as bundle:
        assert bundle.config_text == ""


def test_what_of_a_home_cannot_be_used_is_remarked(tmp_path: Path) -> None:
    home = _home(tmp_path)
    (home / "config.toml").write_text("x" * 2_000_000)
    (home / "tools" / "descriptions.toml").write_bytes(b"[broken\xff")
    (home / "agents" / "simple" / "system_prompt.md").write_text("x" * 2_000_000)

    with take(tmp_path, config={"openjarvis_home": home}) as bundle:
        remarks = " / ".join(bundle.report.remarks)

    assert "config.toml is too large" in remarks
    assert "simple/system_prompt.md is too large" in remarks
    assert "not valid TOML" in remarks


def test_the_users_home_is_not_written_to(tmp_path: Path) -> None:
    home = _home(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}

    with take(tmp_path, config={"openjarvis_home": home}):
        pass

    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


class _TellsKeys:
    def list_traces(self, limit: int) -> list[Trace]:
        raise OSError("https://user:hunter2hunter2@db.example/traces is away")


def test_no_remark_holds_a_credential(tmp_path: Path) -> None:
    with take(tmp_path, trace_store=_TellsKeys()) as bundle:
        (remark, *_) = bundle.report.remarks

    assert "is away" in remark
    assert "hunter2" not in remark


def test_remarks_are_told_to_the_teacher_and_to_the_caller(tmp_path: Path) -> None:
    tasks = [Sample("task-0", "What?"), Sample("task-0", "What again?")]
    engine = Engine(asks(("list_personal_benchmark", {})), says(diagnosis(cluster("task-0"))))

    result = make_runner(tmp_path, engine, tasks=tasks).run()

    assert "1 tasks have the id of an earlier one: left out" in result.remarks
    brief = engine.requests[0][0][1].content
    assert "1 tasks have the id of an earlier one: left out" in brief


# ----------------------------------------------------------------------------------------- objects


@given(value=_ANYTHING)
def test_every_value_can_be_written_as_json(value: object) -> None:
    json.loads(json_text(value).encode())
    json.loads(json.dumps(plain(value), ensure_ascii=False, allow_nan=False).encode())


@given(value=_ANYTHING)
def test_every_number_fits_into_sqlite(value: object) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        (kept,) = connection.execute("SELECT ?", (number(value),)).fetchone()

    assert kept == number(value)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (3, 3),
        (0.5, 0.5),
        (Decimal("0.5"), 0.5),
        (True, None),
        ("3", None),
        (float("inf"), None),
        (2**70, float(2**70)),
        (10**400, None),
        (dt.datetime(1970, 1, 1, 0, 1, tzinfo=dt.UTC), 60.0),
    ],
)
def test_numbers_are_what_counts_or_measures(value: object, read: float | None) -> None:
    assert number(value) == read


@pytest.mark.parametrize(
    ("value", "count"), [(3, 3), (3.9, 3), (-1, 0), ("3", 0), (2**80, 2**63 - 1)]
)
def test_counts_are_whole_and_fit_into_sqlite(value: object, count: int) -> None:
    assert whole(value) == count


def test_what_can_be_called_is_no_value() -> None:
    assert attribute(Mock(), "query", "default") == "default"
    assert attribute("text", "upper") is None
    assert text(Mock()) is None


def test_a_property_that_raises_is_a_missing_one() -> None:
    class Broken:
        @property
        def query(self) -> str:
            raise RuntimeError("no")

    assert attribute(Broken(), "query", "default") == "default"


def test_a_text_that_cannot_be_shown_is_named_by_its_type() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert text(Broken()) == "<Broken>"
