"""The prompt cache: which part of a prompt is read, written, or neither.

Rule: read + written + input is the whole prompt, always. A write happens only at a breakpoint; a
read looks back from each breakpoint over 20 blocks; time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.embedded.teacher.prompt import Prompt
    from worker.embedded.teacher.wire import Ttl

__all__ = ["LOOKBACK_BLOCKS", "TTL_MS", "PromptCache", "Split"]

#: How many blocks a breakpoint looks at for an entry, itself the first of them.
LOOKBACK_BLOCKS = 20

TTL_MS: Mapping[Ttl, int] = {"5m": 300_000, "1h": 3_600_000}

#: Expired entries are thrown away once this many are held, then at twice what is left.
_FIRST_PURGE_AT = 1024

#: (workspace, model, hash of the prefix)
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Touch:
    """An entry that a request writes or, for free, keeps alive."""

    key: _Key
    ttl: Ttl


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How one prompt is charged."""

    #: After the last breakpoint, at the base rate.
    input_tokens: int
    write_5m_tokens: int = 0
    write_1h_tokens: int = 0
    read_tokens: int = 0
    #: What the response's beginning does to the cache.
    touches: tuple[_Touch, ...] = ()

    @property
    def total_tokens(self) -> int:
        """The whole prompt."""
        return self.input_tokens + self.write_tokens + self.read_tokens

    @property
    def write_tokens(self) -> int:
        """Written under either TTL."""
        return self.write_5m_tokens + self.write_1h_tokens


@dataclass(frozen=True, slots=True)
class _Entry:
    ttl: Ttl
    expires_ms: int


class PromptCache:
    """Prefixes that are kept, by workspace and model. Not thread-safe: its owner locks."""

    def __init__(self) -> None:
        self._entries: dict[_Key, _Entry] = {}
        self._purge_at = _FIRST_PURGE_AT

    def __len__(self) -> int:
        return len(self._entries)

    def split(
        self, prompt: Prompt, *, workspace: str, model: str, min_tokens: int, now_ms: int
    ) -> Split:
        """Return how `prompt` is charged when its request starts at `now_ms`. Changes nothing.

        Args:
            prompt: The request's blocks with their breakpoints.
            workspace: Whose cache it is; no other sees its entries.
            model: Entries are of one model.
            min_tokens: A shorter prefix is silently not cached.
            now_ms: The start of the request.
        """
        ends = prompt.prefix_tokens
        marks = [
            index
            for index, block in enumerate(prompt.blocks)
            if block.ttl is not None and ends[index] >= min_tokens
        ]
        if not marks:
            return Split(input_tokens=prompt.total_tokens)
        keys = [(workspace, model, block.digest) for block in prompt.blocks]
        hit = self._longest_hit(keys, marks, now_ms)
        return _priced(
            prompt,
            marks,
            hit,
            touches=(*self._kept(keys, marks, hit, now_ms), *_written(prompt, keys, marks, hit)),
        )

    def begin(self, split: Split, *, started_ms: int) -> None:
        """Make a request's writes usable and renew its reads: its response begins now.

        Args:
            split: What `split` returned for the request.
            started_ms: The start of the request, from which lifetimes count.
        """
        for touch in split.touches:
            expires_ms = started_ms + TTL_MS[touch.ttl]
            known = self._entries.get(touch.key)
            if known is None or known.expires_ms < expires_ms:
                self._entries[touch.key] = _Entry(touch.ttl, expires_ms)
        if len(self._entries) >= self._purge_at:
            self._purge(started_ms)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def _longest_hit(self, keys: Sequence[_Key], marks: Sequence[int], now_ms: int) -> int:
        """Return the index of the last block of the longest live prefix; -1 for none."""
        for mark in reversed(marks):
            for index in range(mark, max(mark - LOOKBACK_BLOCKS, -1), -1):
                if self._live(keys[index], now_ms) is not None:
                    return index
        return -1

    def _kept(
        self, keys: Sequence[_Key], marks: Sequence[int], hit: int, now_ms: int
    ) -> Iterator[_Touch]:
        """Return the entries that this request reads, each under the TTL it was written with."""
        for index in sorted({hit, *(mark for mark in marks if mark < hit)} - {-1}):
            entry = self._live(keys[index], now_ms)
            if entry is not None:
                yield _Touch(keys[index], entry.ttl)

    def _live(self, key: _Key, now_ms: int) -> _Entry | None:
        entry = self._entries.get(key)
        return entry if entry is not None and entry.expires_ms > now_ms else None

    def _purge(self, now_ms: int) -> None:
        live = {key: entry for key, entry in self._entries.items() if entry.expires_ms > now_ms}
        self._entries = live
        self._purge_at = max(_FIRST_PURGE_AT, 2 * len(live))


def _written(
    prompt: Prompt, keys: Sequence[_Key], marks: Sequence[int], hit: int
) -> Iterator[_Touch]:
    for mark in marks:
        ttl = prompt.blocks[mark].ttl
        if mark > hit and ttl is not None:
            yield _Touch(keys[mark], ttl)


def _priced(
    prompt: Prompt, marks: Sequence[int], hit: int, *, touches: tuple[_Touch, ...]
) -> Split:
    """Return the split: read up to the hit, then 1h writes, then 5m writes, then plain input."""
    ends = prompt.prefix_tokens
    read = ends[hit] if hit >= 0 else 0
    long_marks = [mark for mark in marks if mark > hit and prompt.blocks[mark].ttl == "1h"]
    long_end = ends[long_marks[-1]] if long_marks else read
    last_end = ends[marks[-1]]
    return Split(
        input_tokens=ends[-1] - last_end,
        write_5m_tokens=last_end - long_end,
        write_1h_tokens=long_end - read,
        read_tokens=read,
        touches=touches,
    )
