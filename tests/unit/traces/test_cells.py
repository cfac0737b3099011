from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.traces.cells import compact, read_json, read_number, read_text, utf8

CELLS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(CELLS)
@example("[" * 100_000)
@example('{"a":' * 200 + "1" + "}" * 200)
@example("NaN")
@example('{"x": [Infinity, -Infinity, 1e999]}')
@example("9" * 5_000)
@example('"\\ud800"')
@example('{"\\udfff": "\\ud83d\\ude00"}')
def test_whatever_a_cell_holds_can_be_read_and_sent(cell: object) -> None:
    read = read_json(cell)

    sent = json.dumps(read.value, ensure_ascii=False, allow_nan=False)
    sent.encode()
    compact(read.value).encode()
    read_text(cell)
    number = read_number(cell)
    assert number is None or math.isfinite(number)


@given(JSON)
def test_json_that_is_not_too_deep_reads_as_what_it_says(value: object) -> None:
    read = read_json(json.dumps(value))

    assert read.parsed
    if "\\ud" not in json.dumps(value):
        assert read.value == value


@pytest.mark.parametrize("text", ["{", "[1,", "nope", "{'a': 1}", "\x00", "[" * 500 + "]" * 500])
def test_what_does_not_parse_is_kept_as_text_and_marked(text: str) -> None:
    read = read_json(text)

    assert not read.parsed
    assert read.value == text


def test_nothing_recorded_is_not_unparsable() -> None:
    assert read_json(None).parsed
    assert read_json("").value is None
    assert read_json("  ", empty=[]).value == []


@given(st.text(st.characters()))
def test_text_that_can_be_sent_is_left_as_it_is(text: str) -> None:
    clean = utf8(text)

    clean.encode()
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert clean == text
