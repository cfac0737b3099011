"""Storage is linear: what is new is written once, and hardly anything beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.bench.storage import HUNDRED_TURNS, THIRTY_TURNS, Long, write

if TYPE_CHECKING:
    from pathlib import Path

#: Megabytes of words, folded and hashed as often as there are turns: seconds, on a quiet machine.
pytestmark = pytest.mark.timeout("300")

#: Bytes written for each byte of new content, at most (issue 3).
MOST = 1.2
_KB = 1_000


@pytest.mark.parametrize(
    ("long", "least_texts", "least_context"),
    [(THIRTY_TURNS, 30 * 100 * _KB, 3_000 * _KB), (HUNDRED_TURNS, 800 * _KB, 4 * 200 * _KB)],
    ids=["30 turns with 100 KB of results", "100 turns, 200,000 tokens of context"],
)
def test_a_long_session_writes_what_is_new_and_little_else(
    tmp_path: Path, long: Long, least_texts: int, least_context: int
) -> None:
    written = write(long, tmp_path)

    assert written.texts > least_texts
    assert written.context > least_context
    assert written.ratio <= MOST, written.shown


def test_twice_the_turns_write_twice_the_bytes(tmp_path: Path) -> None:
    once, twice = (
        write(replace(HUNDRED_TURNS, turns=turns), tmp_path / str(turns)) for turns in (30, 60)
    )

    assert twice.texts / once.texts == pytest.approx(2, rel=0.02)
    assert twice.kept / once.kept == pytest.approx(2, rel=0.02)


def test_texts_that_stay_in_the_journal_are_written_twice(tmp_path: Path) -> None:
    """Why the limit is as low as it is: the journal is stored a second time."""
    written = write(replace(HUNDRED_TURNS, turns=20), tmp_path, inline_bytes=100_000)

    assert written.ratio > 2
