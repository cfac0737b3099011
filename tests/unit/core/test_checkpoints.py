"""Parts of a journal make the journal again, or say what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.checkpoints import (
    FIRST_LIFE,
    CheckpointsDamaged,
    Delta,
    base_of,
    began_ms,
    is_boundary,
    join,
    life_of,
)
from worker.core.commands import CallTool, Conclude, TakeTurn
from worker.core.events import BundlePrepared, CallAnswered, SessionEnded
from worker.core.values import Purpose, Text, ToolCall

if TYPE_CHECKING:
    from worker.core.commands import Command

Journal = tuple[str, ...]


def part(journal: Journal, first: int, end: int, life: str = FIRST_LIFE) -> Delta[str]:
    return Delta(life=life, first=first, records=journal[first:end])


@st.composite
def split(draw: st.DrawFn, journal: Journal, base: int, life: str) -> list[Delta[str]]:
    """Parts that cover a journal from `base` on, as racing and dying writers leave them."""
    at, parts = base, list[Delta[str]]()
    while at < len(journal):
        first = draw(st.integers(base, at))
        at = draw(st.integers(at + 1, len(journal)))
        parts.append(part(journal, first, at, life))
    doubled = draw(st.lists(st.sampled_from(parts), max_size=3)) if parts else []
    empty = [part(journal, at, at, life) for at in draw(st.lists(st.integers(base, at)))]
    return parts + doubled + empty


@st.composite
def one_life(draw: st.DrawFn) -> tuple[Journal, list[Delta[str]]]:
    journal = tuple(f"e{number}" for number in range(draw(st.integers(0, 30))))
    return journal, draw(st.permutations(draw(split(journal, 0, FIRST_LIFE))))


@st.composite
def lives(draw: st.DrawFn) -> tuple[Journal, list[Delta[str]]]:
    """The journal of the last life, and the parts of all of them."""
    journal, parts = draw(one_life())
    for number in range(1, draw(st.integers(1, 4))):
        base = draw(st.integers(0, len(journal)))
        life = life_of(number * 1_000, base)
        more = tuple(f"life{number}.{at}" for at in range(draw(st.integers(1, 10))))
        journal = journal[:base] + more
        parts = parts + draw(split(journal, base, life))
    return journal, draw(st.permutations(parts))


@given(one_life())
def test_any_parts_that_cover_a_journal_make_it_again(case: tuple[Journal, Any]) -> None:
    journal, parts = case

    assert join(parts) == journal


@given(lives())
def test_what_an_older_life_says_beyond_the_next_one_never_happened(
    case: tuple[Journal, Any],
) -> None:
    journal, parts = case

    assert join(parts) == journal


@given(st.data())
def test_a_part_that_is_missing_is_named(data: st.DataObject) -> None:
    journal = tuple("abcdefghij")
    first = data.draw(st.integers(0, 8))
    end = data.draw(st.integers(first + 1, 9))

    with pytest.raises(CheckpointsDamaged, match=rf"from {first} to {end - 1} are missing"):
        join([part(journal, 0, first), part(journal, end, 10)])


@given(st.data())
def test_parts_that_disagree_are_refused(data: st.DataObject) -> None:
    journal = tuple("abcdefghij")
    first = data.draw(st.integers(0, 9))
    at = data.draw(st.integers(first, 9))
    other = (*journal[:at], "other", *journal[at + 1 :])

    with pytest.raises(CheckpointsDamaged, match="says something else"):
        join([part(journal, 0, 10), part(other, first, 10)])


def test_a_life_that_begins_beyond_what_is_known_is_a_hole() -> None:
    journal = tuple("abcdef")

    with pytest.raises(CheckpointsDamaged, match="from 3 to 3 are missing"):
        join([part(journal, 0, 3), part(journal, 4, 6, life_of(5, 4))])


@given(st.integers(0, 10**13 - 1), st.integers(0, 10**8 - 1))
def test_a_life_tells_when_and_where_it_began(at_ms: int, base: int) -> None:
    life = life_of(at_ms, base)

    assert (began_ms(life), base_of(life)) == (at_ms, base)


def test_nothing_makes_an_empty_journal() -> None:
    assert join([]) == ()


_TURN = TakeTurn(turn=2, purpose=Purpose.EXPLORE)
_CALL = CallTool(
    turn=1, index=1, call=ToolCall(call_id="c", tool="list_traces", arguments_json="{}")
)


@pytest.mark.parametrize(
    ("event", "follow", "boundary"),
    [
        (BundlePrepared(brief=Text(text=""), traces=1, tasks=1), (), True),
        (CallAnswered(turn=1, index=0, result=Text(text="")), (), False),
        (CallAnswered(turn=1, index=0, result=Text(text="")), (_CALL,), False),
        (CallAnswered(turn=1, index=0, result=Text(text="")), (_TURN,), True),
        (CallAnswered(turn=1, index=0, result=Text(text="")), (Conclude(),), True),
        (
            SessionEnded(
                outcome="concluded", reason="", cost_nusd=0, manifest_sha256="", artifacts_uri=""
            ),
            (),
            True,
        ),
    ],
)
def test_a_boundary_is_where_a_turn_is_over_or_its_calls_are_known(
    event: Any, follow: tuple[Command, ...], *, boundary: bool
) -> None:
    assert is_boundary(event, follow) is boundary
