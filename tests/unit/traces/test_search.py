from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.bundle.homes import opened, write_store
from worker.traces import SqliteTraces, TraceFilter, TraceOutcome
from worker.traces.reading import plain_text
from worker.traces.search import COUNTED_MAX
from worker.traces.words import RANKED_MAX, Word, choose, fold

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def step(trace_id: str, index: int, **output: object) -> dict[str, Any]:
    return {
        "trace_id": trace_id,
        "step_index": index,
        "step_type": "tool_call",
        "input": json.dumps({"tool": "get_user_details"}),
        "output": json.dumps(output),
    }


TRACES = [
    {
        "trace_id": "refund",
        "query": "Where is my money?",
        "result": "It is on its way.",
        "agent": "airline",
        "outcome": "error",
        "messages": json.dumps([{"role": "user", "content": "I was promised a Gutschein"}]),
    },
    {"trace_id": "seat", "query": "A window seat", "agent": "airline", "outcome": "success"},
    {"trace_id": "accent", "query": "Une réservation à Zürich", "agent": "hotel"},
]
STEPS = [
    step("refund", 0, content="Let me look that up."),
    step("refund", 1, content="The cancellations were refunded twice."),
    step("seat", 0, result=json.dumps({"nested": {"seat_number": "17F", "note": "near the wing"}})),
    step("seat", 1, content="Details of the user: get details"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteTraces]:
    path = write_store(tmp_path_factory.mktemp("search") / "traces.db", TRACES, STEPS)
    with closing(opened(path)) as found:
        yield found


SYNTAX = "\" * NOT OR AND NEAR( - : query: ^ + ( ) { refund don't é \x00 \ud800"
QUESTIONS = st.text(max_size=60) | st.lists(st.sampled_from(SYNTAX.split(" "))).map(" ".join)


# A reader changes nothing, so all examples may share one.
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=QUESTIONS)
@example(question='AND OR NOT "')
@example(question="how do I get my money back?!")
@example(question="x" * 10_000)
@example(question=" ".join(f"word{number}" for number in range(500)))
def test_no_question_is_a_syntax_error(store: SqliteTraces, question: str) -> None:
    found = store.search(question)

    if found is None:
        assert not any(character.isascii() and character.isalnum() for character in question)
    else:
        assert len(found.hits) <= found.total


@pytest.mark.parametrize(
    ("question", "trace_id", "place"),
    [
        ("money", "refund", "query"),
        ("on its way", "refund", "result"),
        ("was the cancellation refunded?", "refund", "step 1"),
        ("gutschein", "refund", "message 0"),
        ("17f", "seat", "step 0"),
        ("wings", "seat", "step 0"),
        ("hotel", "accent", "agent"),
        ("reservation zurich", "accent", "query"),
        ("ZÜRICH", "accent", "query"),
        ('NOT "17F" OR', "seat", "step 0"),
    ],
)
def test_a_question_finds_the_place_that_answers_it(
    store: SqliteTraces, question: str, trace_id: str, place: str
) -> None:
    found = store.search(question)

    assert found is not None
    assert (found.hits[0].summary.trace_id, found.hits[0].place) == (trace_id, place)
    text = plain_text(found.hits[0].value)
    assert any(
        fold(text)[found.locator.start(text) :].startswith(fold(word)[:4])
        for word in found.words_used
    )


def test_words_without_a_space_must_stand_together(store: SqliteTraces) -> None:
    together, apart = store.search("details_of_the"), store.search("of_details")

    assert together is not None
    assert [hit.summary.trace_id for hit in together.hits] == ["seat"]
    assert apart is not None
    assert apart.total == 0


def test_filters_come_before_ranking(store: SqliteTraces) -> None:
    found = store.search("seat money", TraceFilter(outcome=TraceOutcome.FAILURE), limit=1)

    assert found is not None
    assert (found.total, found.hits[0].summary.trace_id) == (1, "refund")


def test_a_question_without_a_word_is_no_question(store: SqliteTraces) -> None:
    assert store.search("") is None
    assert store.search("?! …") is None


def test_words_that_stand_nowhere_are_named(store: SqliteTraces) -> None:
    found = store.search("zeppelin seat")

    assert found is not None
    assert found.words_unknown == ("zeppelin",)
    assert found.hits[0].summary.trace_id == "seat"


def test_what_is_rare_counts_more(tmp_path: Path) -> None:
    traces = [
        {"trace_id": f"t{number:02}", "query": "flight flight" if number else "flight to Ulm"}
        for number in range(30)
    ]
    with closing(opened(write_store(tmp_path / "t.db", traces))) as found_in:
        found = found_in.search("flight ulm")

        assert found is not None
        assert found.hits[0].summary.trace_id == "t00"
        assert found.total == 30


def test_pages_go_on_where_the_last_one_ended(tmp_path: Path) -> None:
    traces = [{"trace_id": f"t{number:02}", "query": "same words"} for number in range(25)]
    with closing(opened(write_store(tmp_path / "t.db", traces))) as found_in:
        pages = [found_in.search("words", offset=offset, limit=10) for offset in (0, 10, 20)]

    seen = [hit.summary.trace_id for page in pages if page for hit in page.hits]
    assert sorted(seen) == [row["trace_id"] for row in traces]


# --------------------------------------------------------------------------- which words to use

TEXTS = st.sampled_from(["the", "how", "refund", "seat", "wing", "ulm", "flight"])
WORDS = st.dictionaries(TEXTS, st.integers(1, 10_000), min_size=1).map(
    lambda counts: [Word(text, (text,), traces) for text, traces in counts.items()]
)


@given(WORDS)
def test_something_is_always_searched_for_and_seldom_too_much(words: list[Word]) -> None:
    used, ignored = choose(words)

    assert used
    assert {*used, *ignored} == {*words}
    assert len(used) + len(ignored) == len(words)
    assert len(used) == 1 or sum(word.traces for word in used) <= RANKED_MAX


def test_the_words_that_make_it_a_question_do_not_count_beside_others() -> None:
    used, ignored = choose([Word("how", ("how",), 1), Word("flight", ("flight",), 900)])

    assert [word.text for word in used] == ["flight"]
    assert [word.text for word in ignored] == ["how"]


@given(st.text())
def test_folding_keeps_every_character_in_its_place(text: str) -> None:
    assert len(fold(text)) == len(text)


def test_a_word_that_most_traces_hold_ranks_nothing_and_the_newest_come_first(
    tmp_path: Path,
) -> None:
    traces = [
        {"trace_id": f"t{number:04}", "query": "get_flight_details", "started_at": number}
        for number in range(COUNTED_MAX + 50)
    ]
    with closing(opened(write_store(tmp_path / "t.db", traces))) as found_in:
        word, run = found_in.search("flight", limit=3), found_in.search("flight_details", limit=3)

    newest = [f"t{COUNTED_MAX + 50 - back:04}" for back in (1, 2, 3)]
    assert word is not None
    assert (word.total, word.total_is_exact, word.ranked) == (COUNTED_MAX + 50, True, False)
    assert [hit.summary.trace_id for hit in word.hits] == newest
    assert run is not None
    assert (run.total, run.total_is_exact, run.ranked) == (COUNTED_MAX, False, False)
    assert [hit.summary.trace_id for hit in run.hits] == newest
