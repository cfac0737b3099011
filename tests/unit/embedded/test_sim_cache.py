"""The prompt cache: what is read, what is written, and what neither.

Rule: read + written + input is the whole prompt for any placement of breakpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.embedded.teacher.cache import LOOKBACK_BLOCKS, TTL_MS, PromptCache, Split
from worker.embedded.teacher.prompt import Prompt, PromptBlock

if TYPE_CHECKING:
    from worker.embedded.teacher.wire import Ttl

MIN_TOKENS = 512
HOUR_MS = TTL_MS["1h"]


def prompt(*sizes: int, at: dict[int, Ttl] | None = None, root: str = "a") -> Prompt:
    """Return a prompt of blocks of these sizes, with breakpoints `at` some of them."""
    marks = at or {}
    blocks = [
        PromptBlock(tokens=size, digest=f"{root}{sizes[: index + 1]}", ttl=marks.get(index))
        for index, size in enumerate(sizes)
    ]
    return Prompt(tuple(blocks))


def ask(
    cache: PromptCache, asked: Prompt, now_ms: int = 0, *, workspace: str = "w", model: str = "m"
) -> Split:
    """Return the split of a request that is answered at once."""
    split = look(cache, asked, now_ms, workspace=workspace, model=model)
    cache.begin(split, started_ms=now_ms)
    return split


def look(
    cache: PromptCache, asked: Prompt, now_ms: int = 0, *, workspace: str = "w", model: str = "m"
) -> Split:
    return cache.split(
        asked, workspace=workspace, model=model, min_tokens=MIN_TOKENS, now_ms=now_ms
    )


def shown(split: Split) -> tuple[int, int, int, int]:
    """Return (read, written for 5m, written for 1h, input)."""
    return split.read_tokens, split.write_5m_tokens, split.write_1h_tokens, split.input_tokens


SIZES = st.lists(st.integers(1, 900), min_size=1, max_size=30)


@st.composite
def marked(draw: st.DrawFn, sizes: list[int]) -> Prompt:
    """Return a prompt with up to four breakpoints, those of an hour first."""
    places = draw(st.lists(st.integers(0, len(sizes) - 1), max_size=4, unique=True))
    hours = draw(st.integers(0, len(places)))
    marks: dict[int, Ttl] = {
        place: "1h" if order < hours else "5m" for order, place in enumerate(sorted(places))
    }
    return prompt(*sizes, at=marks)


@given(st.data(), SIZES)
def test_read_written_and_input_are_the_whole_prompt(data: st.DataObject, sizes: list[int]) -> None:
    cache = PromptCache()
    now_ms = 0
    for _ in range(6):
        length = data.draw(st.integers(1, len(sizes)))
        asked = data.draw(marked(sizes[:length]))
        now_ms += data.draw(st.integers(0, 2 * HOUR_MS))

        split = ask(cache, asked, now_ms)

        assert split.total_tokens == asked.total_tokens
        assert min(shown(split)) >= 0


@given(st.data(), SIZES)
def test_the_same_request_twice_writes_nothing_the_second_time(
    data: st.DataObject, sizes: list[int]
) -> None:
    cache, asked = PromptCache(), data.draw(marked(sizes))

    first, second = ask(cache, asked), ask(cache, asked)

    assert second.write_tokens == 0
    assert second.read_tokens == first.write_tokens
    assert second.input_tokens == first.input_tokens


def test_without_a_breakpoint_nothing_is_cached() -> None:
    cache = PromptCache()

    assert shown(ask(cache, prompt(1000, 1000))) == (0, 0, 0, 2000)
    assert len(cache) == 0


def test_a_growing_conversation_reads_what_the_turn_before_wrote() -> None:
    cache = PromptCache()

    assert shown(ask(cache, prompt(600, 10, at={0: "5m", 1: "5m"}))) == (0, 610, 0, 0)
    assert shown(ask(cache, prompt(600, 10, 50, 70, at={0: "5m", 3: "5m"}))) == (610, 120, 0, 0)
    assert shown(ask(cache, prompt(600, 10, 50, 70, 5, at={3: "5m"}))) == (730, 0, 0, 5)


def test_a_write_happens_only_at_a_breakpoint() -> None:
    cache = PromptCache()
    ask(cache, prompt(600, 700, at={1: "5m"}))

    # The first block was part of what was written, but no prefix ended there.
    assert shown(ask(cache, prompt(600, 800, at={1: "5m"}))) == (0, 1400, 0, 0)


def test_a_breakpoint_inside_of_what_is_read_writes_nothing_for_free() -> None:
    cache = PromptCache()
    ask(cache, prompt(600, 700, at={1: "1h"}))

    assert shown(ask(cache, prompt(600, 700, at={0: "1h", 1: "1h"}))) == (1300, 0, 0, 0)
    assert look(cache, prompt(600, 7, at={0: "1h"})).read_tokens == 0


def test_a_prefix_below_the_minimum_is_silently_not_cached() -> None:
    cache = PromptCache()
    short, long = prompt(511, at={0: "5m"}), prompt(512, at={0: "5m"})

    assert [shown(ask(cache, short)) for _ in range(2)] == [(0, 0, 0, 511)] * 2
    assert [shown(ask(cache, long)) for _ in range(2)] == [(0, 512, 0, 0), (512, 0, 0, 0)]


@pytest.mark.parametrize(("new_blocks", "hit"), [(19, True), (20, False)])
def test_a_breakpoint_looks_back_over_twenty_blocks_itself_the_first(
    new_blocks: int, hit: bool
) -> None:
    cache = PromptCache()
    ask(cache, prompt(600, at={0: "5m"}))
    grown = prompt(600, *([1] * new_blocks), at={new_blocks: "5m"})

    split = ask(cache, grown)

    assert LOOKBACK_BLOCKS == 20
    assert shown(split) == ((600, new_blocks, 0, 0) if hit else (0, 600 + new_blocks, 0, 0))


def test_a_second_breakpoint_finds_what_lies_too_far_back_for_the_last() -> None:
    cache = PromptCache()
    ask(cache, prompt(600, at={0: "5m"}))

    far = prompt(600, *([1] * 30), at={10: "5m", 30: "5m"})

    assert shown(ask(cache, far)) == (600, 30, 0, 0)


@pytest.mark.parametrize(("ttl", "life_ms"), [("5m", 300_000), ("1h", 3_600_000)])
def test_an_entry_lives_for_its_ttl_from_the_start_of_the_request(ttl: Ttl, life_ms: int) -> None:
    asked = prompt(600, at={0: ttl})
    for age_ms, read in ((life_ms - 1, 600), (life_ms, 0)):
        cache = PromptCache()
        ask(cache, asked, now_ms=1_000)

        assert look(cache, asked, 1_000 + age_ms).read_tokens == read


def test_a_read_renews_an_entry_for_free() -> None:
    cache, asked = PromptCache(), prompt(600, at={0: "5m"})
    ask(cache, asked, now_ms=0)

    for now_ms in range(299_999, 3_000_000, 299_999):
        assert shown(ask(cache, asked, now_ms)) == (600, 0, 0, 0)
    assert look(cache, asked, 2_999_990 + 300_000).read_tokens == 0


def test_a_read_also_renews_the_shorter_prefixes_that_it_marks() -> None:
    cache = PromptCache()
    both = prompt(600, 100, at={0: "5m", 1: "5m"})
    ask(cache, both, now_ms=0)
    ask(cache, both, now_ms=200_000)

    # At 400 s only a renewed entry is alive.
    assert look(cache, prompt(600, 7, at={1: "5m"}), 400_000).read_tokens == 600


def test_an_entry_is_usable_only_once_the_first_response_begins() -> None:
    cache, asked = PromptCache(), prompt(600, at={0: "5m"})
    first = look(cache, asked, now_ms=0)

    assert look(cache, asked, now_ms=10).read_tokens == 0
    cache.begin(first, started_ms=0)
    assert look(cache, asked, now_ms=20).read_tokens == 600


def test_an_hour_before_five_minutes_is_written_each_at_its_own_rate() -> None:
    cache = PromptCache()
    asked = prompt(600, 100, 30, 7, at={0: "1h", 1: "5m", 2: "5m"})

    assert shown(ask(cache, asked)) == (0, 130, 600, 7)
    # After the five minutes only the hour's part is left.
    assert shown(ask(cache, asked, now_ms=300_000)) == (600, 130, 0, 7)


@pytest.mark.parametrize(("workspace", "model"), [("v", "m"), ("w", "n")])
def test_no_other_workspace_or_model_reads_an_entry(workspace: str, model: str) -> None:
    cache, asked = PromptCache(), prompt(600, at={0: "5m"})
    ask(cache, asked)

    assert ask(cache, asked, workspace=workspace, model=model).read_tokens == 0
    assert ask(cache, asked).read_tokens == 600


def test_expired_entries_do_not_pile_up() -> None:
    cache = PromptCache()
    for number in range(5_000):
        ask(cache, prompt(600, at={0: "5m"}, root=str(number)), now_ms=number * 1_000)

    assert len(cache) < 2_000
