from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.bundle.homes import make_home, pack_and_open
from tests.unit.tools.test_arguments import calls
from tests.unit.traces.test_sqlite import rows
from worker.tools import CHARS_MAX, TOOLS, ReadingTools, ToolKind
from worker.traces.source import STEP_COLUMNS, TRACE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.bundle import Bundle

READS = [name for name, tool in TOOLS.items() if tool.kind is ToolKind.READ]
Ask = "Callable[..., dict[str, Any]]"


def asking(bundle: Bundle, *, reveal_references: bool = False) -> Callable[..., dict[str, Any]]:
    """Return a way to call a tool that must answer."""
    tools = ReadingTools(bundle, reveal_references=reveal_references)

    def ask(name: str, **arguments: object) -> dict[str, Any]:
        output = tools.call(name, arguments)
        assert not output.is_error, output.text
        assert len(output.text) <= CHARS_MAX
        answer = cast("dict[str, Any]", json.loads(output.text))
        assert answer["untrusted_data"] is True
        return answer

    return ask


def refused(bundle: Bundle, name: str, **arguments: object) -> str:
    output = ReadingTools(bundle, reveal_references=False).call(name, arguments)
    assert output.is_error
    assert len(output.text) <= CHARS_MAX
    return cast("str", json.loads(output.text)["error"])


# ---------------------------------------------------------------------------------------- the laws

LONG = st.sampled_from(["\x00" * 30_000, '"' * 30_000, "é" * 30_000, "word " * 8_000, "\\" * 9_000])
NAMES = st.text(min_size=1, max_size=200) | st.sampled_from(["\x01" * 200, '"' * 200, "t-1"])


@st.composite
def awful_homes(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the parts of a home in which anything may stand anywhere."""
    traces, steps = draw(rows(TRACE_COLUMNS)), draw(rows(STEP_COLUMNS))
    for row in traces + steps:
        if draw(st.booleans()):
            row[draw(st.sampled_from(["trace_id", "agent", "metadata"]))] = (
                draw(NAMES | LONG) if "agent" in row else None
            )
        if draw(st.booleans()):
            row["trace_id"] = draw(NAMES)
        if draw(st.integers(0, 3)) == 0:
            row[draw(st.sampled_from([key for key in row if key != "trace_id"]))] = draw(LONG)
    texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50) | LONG
    query = texts.filter(str.strip)
    return {"traces": traces, "steps": [row for row in steps if "agent" not in row],
            "samples": [{"trace_id": "task-1", "query": draw(query),
                         "reference_answer": draw(texts), "category": draw(texts)}],
            "prompts": {"a": draw(texts)}}  # fmt: skip


@settings(max_examples=40)
@given(home=awful_homes(), asked=st.lists(calls(), max_size=8), reveal=st.booleans())
def test_every_call_on_every_home_gives_json_under_the_limit(
    home: dict[str, Any],
    asked: list[tuple[str, Any]],
    reveal: bool,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = make_home(Path(folder) / "home", **home)
        with pack_and_open(made, Path(folder) / "b") as bundle:
            tools = ReadingTools(bundle, reveal_references=reveal)
            ids = [summary.trace_id for summary in bundle.traces.list(limit=100).summaries]
            for chars in (1_000, 4_000, 20_000):
                asked += [("list_traces", {"max_chars": chars, "limit": 100})]
                asked += [("list_personal_benchmark", {"max_chars": chars})]
                asked += [("search_traces", {"query": "word t-1 x", "max_chars": chars})]
                for trace_id in ids:
                    for view in ("steps", "messages", "outline"):
                        arguments = {"trace_id": trace_id, "view": view, "max_chars": chars}
                        asked += [("get_trace", arguments)]
            asked += [(name, {}) for name in READS]
            asked += [("get_agent_prompt", {"agent_name": "a"})]
            for name, raw in asked:
                output = tools.call(name, raw)
                assert len(output.text) <= CHARS_MAX
                answer = json.loads(output.text)
                assert output.text.encode()
                assert isinstance(answer, dict)
                assert ("error" in answer) == output.is_error
                assert output.is_error or answer["untrusted_data"] is True


def test_names_that_grow_sixfold_as_json_do_not_break_the_limit(tmp_path: Path) -> None:
    name, text = "\x01" * 200, "\x01" * 30_000
    home = make_home(
        tmp_path / "home",
        traces=[
            {
                **dict.fromkeys(("query", "result", "agent", "model", "outcome"), text),
                "trace_id": name,
                "metadata": json.dumps({"a": text}),
            }
        ],
        steps=[{"trace_id": name, "step_type": text, "output": text}] * 200,
    )
    with pack_and_open(home, tmp_path / "b") as opened:
        view = asking(opened)("get_trace", trace_id=name, max_chars=CHARS_MAX)

    assert view["steps"][0]["n"] == 0
    assert view["total"] == 200


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 9_000), min_size=1, max_size=45),
    chars=st.integers(1_000, 20_000),
    filling=st.sampled_from(["x", "é", "\n", '"', "wörd "]),
)
def test_every_character_of_every_step_can_be_reached(
    sizes: list[int], chars: int, filling: str
) -> None:
    texts = [(filling * size)[:size] + f" end {n}" for n, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        home = make_home(
            Path(folder) / "home",
            traces=[{"trace_id": "long", "query": texts[0], "result": texts[-1]}],
            steps=[
                {"trace_id": "long", "step_index": n, "output": json.dumps({"content": text})}
                for n, text in enumerate(texts)
            ],
        )
        with pack_and_open(home, Path(folder) / "b") as bundle:
            ask = asking(bundle)
            steps: list[Any] = []
            following: int | None = 0
            while following is not None:
                page = ask("get_trace", trace_id="long", step_from=following, max_chars=chars)
                steps += page["steps"]
                assert page["total"] == len(texts)
                following = page.get("next_step")
            shown = [whole(ask, step["output"]) for step in steps]
            first = ask("get_trace", trace_id="long", max_chars=chars)

            assert [step["n"] for step in steps] == [*range(len(texts))]
            assert shown == [{"content": text} for text in texts]
            assert whole(ask, first["query"]) == texts[0]
            assert whole(ask, first["result"]) == texts[-1]
            assert len(first["outline"]) == len(texts) or first["outline_truncated"]


def whole(ask: Callable[..., dict[str, Any]], field: Any) -> Any:
    """Return a field, read to its end where it was cut."""
    if not (isinstance(field, dict) and "cut_text" in field):
        return cast("Any", field)
    cut = cast("dict[str, Any]", field)
    text, more = str(cut["cut_text"]), cast("dict[str, Any] | None", cut["read_more"])
    while more is not None:
        page = ask("read_more", **more)
        text += page["text"]
        more = {"handle": page["handle"], "offset": page["next_offset"]} \
            if page["truncated"] else None  # fmt: skip
    assert len(text) == cut["chars"]
    try:
        return json.loads(text)
    except ValueError:
        return text


# ------------------------------------------------------------------------------- lists and searches

FAILING = [
    {
        "trace_id": f"t{number:03}",
        "query": f"Question {number}: " + "why " * 60,
        "agent": "airline" if number % 2 else "hotel",
        "model": "gpt-4o",
        "outcome": ("error", "success", "failure", None)[number % 4],
        "feedback": (None, 0.0, 0.5, 1.0)[number % 4],
        "started_at": 1_700_000_000 + number,
        "metadata": json.dumps({"task_id": "task-1"}),
    }
    for number in range(120)
]
STEPS = [
    {
        "trace_id": "t007",
        "step_index": 0,
        "step_type": "tool_call",
        "input": json.dumps({"tool": "calculate"}),
        "output": json.dumps({"result": "x" * 300 + " the Eiffel tower is 330 metres tall"}),
    }
]
SAMPLES = [
    {
        "trace_id": f"task-{number}",
        "query": f"Add {number} and 1",
        "reference_answer": f"GOLD-{number + 1}",
        "category": "sums" if number else "dates",
        "metadata": {"answer": f"GOLD-{number + 1}"},
    }
    for number in range(60)
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    folder = tmp_path_factory.mktemp("reading")
    home = make_home(
        folder / "home",
        traces=FAILING,
        steps=STEPS,
        samples=SAMPLES,
        prompts={"airline": "Be kind. " * 3_000},
        tools='[calculate]\ndescription = "adds"\ncategory = "maths"\n[unused]\n',
    )
    with pack_and_open(home, folder / "b") as found:
        yield found


def test_a_list_says_how_much_there_is_and_where_it_goes_on(bundle: Bundle) -> None:
    ask = asking(bundle)
    first = ask("list_traces", limit=10)
    second = ask("list_traces", offset=first["next_offset"])

    assert (first["total"], first["returned"], first["truncated"]) == (120, 10, True)
    assert first["traces"][0]["trace_id"] == "t119"
    assert second["traces"][0]["trace_id"] == "t109"
    assert set(first["traces"][0]) >= {
        *("trace_id", "query", "agent", "model", "outcome", "feedback", "started_at")
    }


def test_a_page_that_would_get_too_long_ends_early_and_says_so(bundle: Bundle) -> None:
    page = asking(bundle)("list_traces", limit=100, max_chars=3_000)

    assert page["returned"] < 20
    assert page["next_offset"] == page["returned"]


def test_paging_shows_every_trace_once(bundle: Bundle) -> None:
    ask, seen = asking(bundle), list[str]()
    for sample in ("newest", "oldest", "spread"):
        seen.clear()
        page = ask("list_traces", sample=sample, limit=17)
        while True:
            seen += [trace["trace_id"] for trace in page["traces"]]
            if not page["truncated"]:
                break
            page = ask("list_traces", sample=sample, limit=17, offset=page["next_offset"])
        assert sorted(seen) == [row["trace_id"] for row in FAILING]


def test_a_failure_is_found_in_every_spelling(bundle: Bundle) -> None:
    ask = asking(bundle)
    for outcome in ("failure", "error"):
        assert ask("list_traces", outcome=outcome)["total"] == 60
    found = ask("list_traces", outcome="failure", limit=100)["traces"]
    assert {trace.get("recorded_outcome") for trace in found} == {None, "error"}


def test_filters_come_before_limits(bundle: Bundle) -> None:
    page = asking(bundle)("list_traces", agent="AIRLINE", min_feedback=0.9, limit=5)

    assert (page["total"], page["returned"]) == (30, 5)
    assert {trace["feedback"] for trace in page["traces"]} == {1.0}


def test_an_unknown_agent_is_met_with_the_known_ones(bundle: Bundle) -> None:
    page = asking(bundle)("list_traces", agent="air")

    assert page["total"] == 0
    assert sorted(page["known_agents"]) == ["airline", "hotel"]


def test_a_search_says_where_it_matched(bundle: Bundle) -> None:
    page = asking(bundle)("search_traces", query="How tall is the Eiffel tower, zeppelin?")

    first = page["traces"][0]
    assert (first["trace_id"], first["matched_in"]) == ("t007", "step 0")
    assert "Eiffel tower is 330 metres" in first["snippet"]
    assert page["words_not_counted"] == {"not_found": ["zeppelin"]}


def test_a_search_without_words_is_refused_in_words(bundle: Bundle) -> None:
    assert "no word to search for" in refused(bundle, "search_traces", query="?!")
    assert "query is required" in refused(bundle, "search_traces")


# --------------------------------------------------------------------- traces, texts and the rest


def test_a_first_view_outlines_all_steps(bundle: Bundle) -> None:
    view = asking(bundle)("get_trace", trace_id="t007")

    assert view["outline"] == ["0 tool_call calculate 369"]
    assert view["outcome"] == "unknown"
    assert view["metadata"] == {"task_id": "task-1"}
    assert (view["returned"], view["total"], view["truncated"]) == (1, 1, False)


def test_an_unknown_trace_is_met_with_its_neighbours(bundle: Bundle) -> None:
    assert "'t007'" in refused(bundle, "get_trace", trace_id="t0075")


@pytest.mark.parametrize(
    "handle",
    ["", "x", "trace.query@", "trace.query@nope", "trace.step.9.output@t007", "config@x",
     "trace.step.1.output@t007", "trace.message.0@t007", "prompt@../../airline", "tool@nope",
     "trace.steps@t007", "trace.__class__@t007", "task.query@nope", "task.reference@task-1",
     "trace.step.-1.output@t007", "trace.step.99999999999.output@t007"],
)  # fmt: skip
def test_a_handle_that_names_nothing_is_refused(bundle: Bundle, handle: str) -> None:
    assert refused(bundle, "read_more", handle=handle)


def test_an_offset_past_the_end_is_refused_with_the_size(bundle: Bundle) -> None:
    said = refused(bundle, "read_more", handle="task.query@task-1", offset=99)
    assert "11 characters" in said


def test_a_prompt_is_named_by_its_agent_and_read_to_its_end(bundle: Bundle) -> None:
    ask = asking(bundle)
    shown = ask("get_agent_prompt", agent_name="airline")["system_prompt"]

    assert whole(ask, shown) == "Be kind. " * 3_000
    for name in ("../../x", "../agents/airline", "/etc", "airline/", "Airline\x00"):
        assert "'airline'" in refused(bundle, "get_agent_prompt", agent_name=name)


def test_tools_are_listed_with_what_the_traces_say(bundle: Bundle) -> None:
    page = asking(bundle)("list_available_tools")

    assert page["tools"] == [
        {
            "name": "calculate",
            "description": "adds",
            "category": "maths",
            "agents": ["airline"],
            "calls_in_traces": 1,
        },
        {
            "name": "unused",
            "description": "",
            "category": None,
            "agents": [],
            "calls_in_traces": 0,
        },
    ]
    assert "did you mean 'calculate'" in refused(bundle, "get_tool_description", tool_name="calc")


def test_many_tools_are_listed_page_by_page(bundle: Bundle) -> None:
    ask = asking(bundle)
    everything = ask("list_available_tools", max_chars=CHARS_MAX)["tools"]

    seen: list[Any] = []
    following: int | None = 0
    while following is not None:
        page = ask("list_available_tools", offset=following, max_chars=1_000)
        seen += page["tools"]
        following = page.get("next_offset")

    assert seen == everything
    assert len(everything) > 1


def test_tasks_are_listed_by_category(bundle: Bundle) -> None:
    ask = asking(bundle)

    assert ask("list_personal_benchmark", category="dates")["total"] == 1
    assert ask("list_personal_benchmark", category="x")["known_categories"] == ["dates", "sums"]
    page = ask("list_personal_benchmark", limit=10, offset=55)
    assert [task["task_id"] for task in page["tasks"]] == [f"task-{n}" for n in range(55, 60)]


def test_a_reference_answer_is_shown_only_where_the_request_allows_it(bundle: Bundle) -> None:
    hidden, shown = asking(bundle), asking(bundle, reveal_references=True)
    for name, arguments in [
        ("list_personal_benchmark", {"limit": 200, "max_chars": 20_000}),
        ("read_more", {"handle": "task.query@task-7"}),
    ]:
        assert "GOLD" not in json.dumps(hidden(name, **arguments))

    tasks = shown("list_personal_benchmark")["tasks"]
    assert tasks[7]["reference_answer"] == "GOLD-8"
    assert shown("read_more", handle="task.reference@task-7")["text"] == "GOLD-8"


@settings(max_examples=40)
@given(before=st.integers(0, 2_500), offset=st.integers(0, 2_600), chars=st.integers(1_000, 2_000))
def test_no_window_shows_a_piece_of_a_credential(before: int, offset: int, chars: int) -> None:
    key = "sk-ant-api03-abcdef0123456789"
    query = "x " * (before // 2) + key + " y" * 1_000
    sample = {"trace_id": "task-1", "query": query, "category": key}
    with tempfile.TemporaryDirectory() as folder:
        home = make_home(Path(folder) / "home", samples=[sample])
        with pack_and_open(home, Path(folder) / "b") as opened:
            tools = ReadingTools(opened, reveal_references=True)
            arguments = {"handle": "task.query@task-1", "offset": offset, "max_chars": chars}
            shown = tools.call("read_more", arguments).text
            listed = tools.call("list_personal_benchmark", {}).text

    for at in range(len(key) - 8):
        assert key[at : at + 8] not in shown + listed


def test_read_more_reads_on_in_the_sessions_own_results(bundle: Bundle) -> None:
    tools = ReadingTools(bundle, reveal_references=False)
    results = {"call@1.0": "x" * 5_000}.get

    def read(handle: str, offset: int = 0) -> dict[str, Any]:
        asked = {"handle": handle, "offset": offset}
        return json.loads(tools.call("read_more", asked, results=results).text)

    first = read("call@1.0")
    second = read("call@1.0", first["next_offset"])

    assert first["text"] + second["text"] == "x" * 5_000
    assert second["truncated"] is False
    assert "is past the end" in read("call@1.0", 5_001)["error"]
    assert "call@<turn>.<index>" in read("call@2.0")["error"]
    assert "text" in read("config@"), "the bundle's own texts are still there"


def test_tools_that_do_not_read_are_somebody_elses(bundle: Bundle) -> None:
    assert "does not read" in refused(bundle, "run_student_on_task", task_id="task-1")


def test_a_bundle_is_given_back_as_soon_as_its_tools_are_gone(tmp_path: Path) -> None:
    released = list[bool]()
    with pack_and_open(make_home(tmp_path / "home"), tmp_path / "b") as opened:
        again = type(opened)(opened._content, release=lambda: None,
                             forget=lambda: released.append(True))  # fmt: skip
        tools = ReadingTools(again, reveal_references=False)
        tools.call("list_traces", {})
        del again, tools

        assert released == [True]
