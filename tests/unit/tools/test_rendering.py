from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.traces.test_cells import JSON
from worker.tools.rendering import cut, encode, error, fill, shorten, size, window
from worker.traces.cells import Json, compact, utf8

TEXT = st.text() | st.text(st.sampled_from('\x00\n"\\é')) | st.text().map(lambda text: text * 9)


@given(TEXT, st.integers(0, 60))
def test_a_cut_is_the_longest_beginning_that_fits(text: str, chars: int) -> None:
    piece = cut(text, chars)

    assert text.startswith(piece)
    assert size(piece) - 2 <= chars
    if piece != text:
        assert size(text[: len(piece) + 1]) - 2 > chars


@given(TEXT, st.integers(1, 40))
def test_a_short_form_is_one_short_line(text: str, chars: int) -> None:
    short = shorten(text, chars)

    assert "\n" not in short
    assert len(short) <= chars + 1
    assert size(short) <= 2 * chars + 3
    if text.split() == short.removesuffix("…").split():
        return
    assert short.endswith("…")


@given(JSON, st.integers(0, 200))
def test_a_window_holds_the_whole_or_says_how_to_go_on(value: Json, chars: int) -> None:
    shown = window(value, "handle@x", chars)

    if shown == value:
        return
    assert isinstance(shown, dict)
    more = shown["read_more"]
    assert isinstance(more, dict)
    text = compact(value)
    assert shown["chars"] == len(text)
    assert shown["cut_text"] == text[: more["offset"]]  # type: ignore[misc]
    assert size(shown) <= chars + 100


@given(st.lists(JSON), st.integers(-5, 500))
def test_items_are_taken_in_order_while_they_fit(items: list[Json], chars: int) -> None:
    taken = fill(items, chars)

    assert taken == items[: len(taken)]
    assert bool(taken) == bool(items)
    assert len(taken) <= 1 or sum(size(item) + 1 for item in taken) <= chars


@given(st.text())
def test_an_error_is_json_that_can_be_sent(message: str) -> None:
    output = error(message)

    assert output.is_error
    assert json.loads(output.text) == {"error": utf8(message)}
    assert output.text == encode({"error": utf8(message)})
