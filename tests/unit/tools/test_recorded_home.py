"""The tools on the recorded airline home: what a teacher can reach, and what it must not see."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.unit.bundle.homes import pack_and_open, tau_home
from tests.unit.tools.test_reading import READS, asking, whole
from worker.tools import ReadingTools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.bundle import Bundle

SECRETS = (
    "correct-horse-EXAMPLE",
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    with pack_and_open(tau_home(), tmp_path_factory.mktemp("tau")) as found:
        yield found


def everything(bundle: Bundle) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield calls that together show all of the bundle that the tools can show."""
    for name in READS:
        yield name, {}
    yield "get_agent_prompt", {"agent_name": "airline"}
    yield "read_more", {"handle": "prompt@airline", "max_chars": 20_000}
    yield "read_more", {"handle": "config@", "max_chars": 20_000}
    yield "list_personal_benchmark", {"limit": 200, "max_chars": 20_000}
    for task_id in bundle.benchmark.task_ids:
        yield "read_more", {"handle": f"task.query@{task_id}"}
    for question in ("AKIA", "password", "secret key", "refund for a cancelled flight"):
        yield "search_traces", {"query": question, "max_chars": 20_000}
    for summary in bundle.traces.list(limit=200).summaries[::10]:
        for view in ("steps", "messages", "outline"):
            yield "get_trace", {"trace_id": summary.trace_id, "view": view, "max_chars": 20_000}


def test_no_credential_and_no_reference_answer_is_in_anything_shown(bundle: Bundle) -> None:
    tools = ReadingTools(bundle, reveal_references=False)
    answers = [
        answer
        for sample in bundle.benchmark.samples
        for answer in (sample.reference_answer, json.dumps(sample.reference_answer)[1:-1])
        if len(sample.reference_answer) > 5
    ]

    for name, arguments in everything(bundle):
        text = tools.call(name, arguments).text
        assert not [secret for secret in SECRETS if secret in text], (name, arguments)
        assert not [answer for answer in answers if answer in text], (name, arguments)


def test_all_steps_of_the_longest_traces_can_be_read(bundle: Bundle) -> None:
    ask = asking(bundle)
    longest = sorted(bundle.traces.list(limit=200).summaries, key=lambda s: -s.steps)[:3]
    assert longest[0].steps == 57

    for summary in longest:
        expected = bundle.traces.steps(summary.trace_id, limit=100)
        seen: list[dict[str, Any]] = []
        following: int | None = 0
        while following is not None:
            page = ask("get_trace", trace_id=summary.trace_id, step_from=following)
            assert len(json.dumps(page)) < 5_500
            seen += page["steps"]
            following = page.get("next_step")
        assert [step["n"] for step in seen] == [step.n for step in expected]
        for shown, step in zip(seen, expected, strict=True):
            assert whole(ask, shown["output"]) == step.output
            assert whole(ask, shown.get("input", {})) == step.input


def test_what_users_said_can_be_read_and_found(bundle: Bundle) -> None:
    view = asking(bundle)("get_trace", trace_id="tau-airline-00-0", view="messages", step_from=1)

    assert view["messages"][0]["message"]["role"] == "user"
    assert view["total"] == 32
    page = asking(bundle)("search_traces", query="mia_li_3668 certificates first")
    assert page["traces"][0]["trace_id"].startswith("tau-airline-00")


def test_questions_in_plain_language_find_their_step(bundle: Bundle) -> None:
    """The words of a random step, asked for as a question, find that trace among the first."""
    chance = random.Random(7)  # noqa: S311
    summaries = bundle.traces.list(limit=200).summaries
    found = 0
    for summary in chance.sample(summaries, 40):
        steps = bundle.traces.steps(summary.trace_id, limit=100)
        step = chance.choice([step for step in steps if step.step_type == "generate"])
        words = " ".join(str(step.output).split()[2:16])
        hits = bundle.traces.search(f"where did it say: {words}?", limit=10)
        assert hits is not None
        found += summary.trace_id in [hit.summary.trace_id for hit in hits.hits]

    assert found >= 30


def test_a_result_takes_4_kb_at_first_and_nothing_is_out_of_reach(bundle: Bundle) -> None:
    ask = asking(bundle)
    calls: list[tuple[str, dict[str, Any]]] = [
        *(("get_trace", {"trace_id": s.trace_id}) for s in bundle.traces.list(limit=200).summaries),
        *((name, {}) for name in READS if name.startswith(("list_", "get_current"))),
        ("get_agent_prompt", {"agent_name": "airline"}),
        ("search_traces", {"query": "refund for a cancelled flight"}),
    ]
    cut = 0

    for name, arguments in calls:
        result = ask(name, **arguments)
        assert len(json.dumps(result, ensure_ascii=False, separators=(",", ":"))) <= 4_096, name
        for part in _cut_parts(result):
            cut += 1
            assert len(_read_on(ask, part)) == part["chars"]
        if result.get("truncated"):
            assert {"next_offset", "next_step"} & result.keys(), name

    assert cut > 30


def _cut_parts(value: object) -> Iterator[dict[str, Any]]:
    """Yield what a result shows only the beginning of."""
    if isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        if "cut_text" in found:
            yield found
        for inner in found.values():
            yield from _cut_parts(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _cut_parts(inner)


def _read_on(ask: Callable[..., dict[str, Any]], part: dict[str, Any]) -> str:
    """Return a cut text whole, as the teacher would come by it."""
    text: str = part["cut_text"]
    following: int | None = part["read_more"]["offset"]
    while following is not None:
        page = ask("read_more", handle=part["read_more"]["handle"], offset=following)
        text += page["text"]
        following = page.get("next_offset")
    return text
