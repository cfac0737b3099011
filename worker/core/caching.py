"""The prompt cache: how long its entries are to live, what was sent, and why one was missed.

Rule: what the provider charged is what counts; a reason is only given where what was sent proves it.

The provider keeps the prefix of a prompt from each breakpoint on, for five minutes or an hour after
it was last used, and finds it again where a breakpoint stands within 20 blocks behind it. With `r`
the price of a token read (0.1 or 0.05 of the input price), reading a prefix of P tokens costs r P; one
that is lost is written anew for 1.25 P.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any, Literal, cast

from worker.core.prices import cost_nusd, price_or_none
from worker.core.values import SentPrompt, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.core.events import TeacherReplied
    from worker.core.machine import Session
    from worker.core.prices import Rates
    from worker.core.teaching import TeacherRequest

__all__ = [
    "TTL_MS",
    "CacheUse",
    "Miss",
    "Ttl",
    "breakpoint_of",
    "cache_saved_nusd",
    "cache_uses",
    "sent_prompt",
    "shared_prefix",
    "ttl_for",
    "ttl_of_next_turn",
]

Ttl = Literal["5m", "1h"]

#: How long an entry lives after its last use, counted from the start of that request.
TTL_MS: Mapping[Ttl, int] = {"5m": 300_000, "1h": 3_600_000}
#: How many blocks a breakpoint looks at for an entry, its own block the first.
LOOKBACK_BLOCKS = 20
#: A student that took this long for one run takes minutes for a batch: even with one run after the
#: other on each of its slots, five of them are the life of a short entry.
SLOW_RUN_MS = 60_000

#: Hex digits of a part's hash: enough to see a change, and 1 KB for a turn of 60 messages.
_DIGEST_CHARS = 8
_BYTES_A_TOKEN = 3


# ----------------------------------------------------------------------------------- time to live


def breakpoint_of(ttl: Ttl) -> dict[str, str]:
    """Return the `cache_control` of a block."""
    return {"type": "ephemeral"} if ttl == "5m" else {"type": "ephemeral", "ttl": "1h"}


def ttl_for(rates: Rates, *, long_gaps: int, gaps: int, prefix_tokens: int, new_tokens: int) -> Ttl:
    """Return which entries are cheaper in the mean: those of five minutes or those of an hour.

    An hour costs `new_tokens` x (2 - 1.25) more in every turn; five minutes cost the whole prefix
    x (1.25 - r) more in each turn whose tools take longer than that. With a prefix of ten turns'
    results the hour pays from 0.75 / (10 x 1.15) = 6.5 % of long gaps on at r = 0.1, with one of
    thirty turns from 2.2 %; in the first turns, where all is new, only from 65 %.

    Args:
        rates: Of the model.
        long_gaps: Gaps between two requests that outlive five minutes and not an hour.
        gaps: All gaps that were seen; 0 says nothing of the chance, and five minutes it is.
        prefix_tokens: The prompt that would have to be written anew.
        new_tokens: The part of it that is written in any case.
    """
    if not long_gaps or not gaps:
        return "5m"
    dearer_pusd = new_tokens * (rates.cache_write_1h_pusd - rates.cache_write_5m_pusd)
    lost_pusd = prefix_tokens * (rates.cache_write_5m_pusd - rates.cache_read_pusd)
    return "1h" if dearer_pusd * gaps < lost_pusd * long_gaps else "5m"


def ttl_of_next_turn(session: Session) -> Ttl:
    """Return how long the entries of the session's next turn are to live.

    The time that its tools will take is expected to be what the tools of its earlier turns took. A
    student that needs a minute a run counts as one long gap before its first batch was seen.
    """
    price = price_or_none(session.spec.teacher_model)
    replies = [turn.reply for turn in session.turns]
    if price is None or not replies:
        return "5m"
    gaps_ms = list(_gaps_ms(replies))
    long_gaps = sum(TTL_MS["5m"] < gap_ms < TTL_MS["1h"] for gap_ms in gaps_ms)
    slow = not long_gaps and any(
        run.record is not None and run.record.latency_ms >= SLOW_RUN_MS for run in session.runs
    )
    prefix_tokens = replies[-1].usage.prompt_tokens + replies[-1].usage.output_tokens
    before = replies[-2].usage.prompt_tokens if len(replies) > 1 else 0
    return ttl_for(
        price.rates_at(prefix_tokens),
        long_gaps=long_gaps + slow,
        gaps=len(gaps_ms) + slow,
        prefix_tokens=prefix_tokens,
        # What is new in the next turn is expected to be what was new in this one.
        new_tokens=max(prefix_tokens - before, 0),
    )


def _gaps_ms(replies: Sequence[TeacherReplied]) -> Iterator[int]:
    """Return the times from one request to the next, where the journal knows them."""
    for before, after in pairwise(replies):
        if before.sent is not None and after.sent is not None:
            yield max(after.sent.asked_ms - before.sent.asked_ms, 0)


# ------------------------------------------------------------------------------------- what was sent


def sent_prompt(
    request: TeacherRequest, *, asked_ms: int, before: Sequence[TeacherReplied] = ()
) -> SentPrompt:
    """Return what decides whether a later request finds this one's prefix in the cache.

    Args:
        request: What was sent.
        asked_ms: When.
        before: The turns before it. What of its prompt is theirs is counted and not said again, or
            each turn of a session would write more than the one before.
    """
    blocks = request.parts
    parts = tuple(f"{_digest(part)}:{len(part)}" for part in blocks)
    pairs = zip(parts, _parts_sent(before), strict=False)
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return SentPrompt(
        asked_ms=asked_ms,
        same=same,
        parts=parts[same:],
        breakpoints=tuple(_breakpoints(blocks)),
    )


def _parts_sent(replies: Sequence[TeacherReplied]) -> tuple[str, ...]:
    """Return all parts of the last turn's prompt; nothing where the journal does not say."""
    parts: tuple[str, ...] = ()
    for reply in replies:
        parts = (*parts[: reply.sent.same], *reply.sent.parts) if reply.sent else ()
    return parts


def _whole(replies: Sequence[TeacherReplied]) -> list[TeacherReplied]:
    """Return the turns of an exploration, each with all parts of its prompt."""
    whole: list[TeacherReplied] = []
    for reply in replies:
        if reply.sent is not None and reply.sent.same:
            parts = _parts_sent([*whole[-1:], reply])
            reply = replace(reply, sent=replace(reply.sent, same=0, parts=parts))  # noqa: PLW2901
        whole.append(reply)
    return whole


def _digest(blocks: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of blocks without their breakpoints, which the provider leaves out as well."""
    text = json.dumps(_bare(blocks), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]


def _bare(blocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: block[key] for key in block if key != "cache_control"} for block in blocks]


def _breakpoints(parts: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Return `block:ttl` of each breakpoint, blocks counted from 1 over the whole prompt."""
    blocks = [block for part in parts for block in part]
    for number, block in enumerate(blocks, start=1):
        if block.get("cache_control"):
            yield f"{number}:{block['cache_control'].get('ttl', '5m')}"


def shared_prefix(request: TeacherRequest) -> str | None:
    """Return what a call shares with those of other sessions; None where no cache keeps that.

    That is tools and system prompt, if a breakpoint ends them and the model keeps so short a prefix:
    at three bytes a token, which is few.
    """
    price = price_or_none(request.model)
    if price is None or not request.system or not request.system[-1].get("cache_control"):
        return None
    told = json.dumps([request.tools, _bare(request.system)], separators=(",", ":"))
    return told if len(told) >= price.min_cacheable_tokens * _BYTES_A_TOKEN else None


@dataclass(frozen=True, slots=True)
class _Mark:
    block: int
    ttl: Ttl


def _marks(sent: SentPrompt) -> list[_Mark]:
    split = [mark.split(":") for mark in sent.breakpoints]
    return [_Mark(int(block), cast("Ttl", ttl)) for block, ttl in split]


# -------------------------------------------------------------------------------- what came of it


class Miss(StrEnum):
    """Why a part of a prompt that an earlier call had sent was not read from the cache."""

    #: Nothing of it had been sent before, or nobody's call had begun to be answered.
    FIRST_CALL = "first_call"
    #: Another model: entries are of one.
    MODEL_CHANGED = "model_changed"
    #: The prompt begins otherwise than the one before.
    PREFIX_CHANGED = "prefix_changed"
    #: More time went by than an entry lives.
    EXPIRED = "expired"
    #: A prefix this short is silently not kept.
    TOO_SMALL = "too_small"
    #: No breakpoint stands within 20 blocks behind the end of what was kept.
    LOOKBACK = "lookback"
    #: The call before had no breakpoint.
    NOT_KEPT = "not_kept"
    #: Nothing on our side explains it: the provider had no entry (it promises none).
    EVICTED = "evicted"
    #: The journal is of a version that did not note what was sent.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """What a turn read from the cache, and what it did not though an earlier one had sent it."""

    read_tokens: int
    written_tokens: int
    #: At the plain input price.
    uncached_tokens: int
    #: Kept by the call before, and not read.
    missed_tokens: int = 0
    #: None where all that had been kept was read.
    miss: Miss | None = None
    #: The miss in words, with its numbers; empty where there is none.
    why: str = ""


def cache_uses(replies: Sequence[TeacherReplied]) -> tuple[CacheUse, ...]:
    """Return what each turn of an exploration had of the cache, in order.

    Args:
        replies: All of the exploration, none of the closing call or the extraction: those are small,
            asked once, and have no breakpoint.
    """
    first = tuple(_first_use(reply) for reply in replies[:1])
    return (*first, *(_use(after, before) for before, after in pairwise(_whole(replies))))


def cache_saved_nusd(replies: Sequence[TeacherReplied]) -> int:
    """Return what these turns would have cost more without a cache; negative where it cost more."""
    return sum(_saved_nusd(reply) for reply in replies)


def _saved_nusd(reply: TeacherReplied) -> int:
    price, usage = price_or_none(reply.model), reply.usage
    if price is None:
        return 0
    plain = Usage(input_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens)
    return cost_nusd(price, plain) - cost_nusd(price, usage)


def _use_of(reply: TeacherReplied, **miss: Any) -> CacheUse:
    usage = reply.usage
    return CacheUse(
        read_tokens=usage.cache_read_tokens,
        written_tokens=_written(reply),
        uncached_tokens=usage.input_tokens,
        **miss,
    )


def _written(reply: TeacherReplied) -> int:
    return reply.usage.cache_write_5m_tokens + reply.usage.cache_write_1h_tokens


def _first_use(reply: TeacherReplied) -> CacheUse:
    """Return a first turn's use: what other sessions share (tools and system) is all it can read."""
    if reply.usage.cache_read_tokens:
        return _use_of(reply)
    if not _written(reply) and (small := _too_small(reply)):
        return _use_of(reply, miss=Miss.TOO_SMALL, why=small)
    why = "the first call: no session's call with these tools and system prompt was in the cache"
    return _use_of(reply, miss=Miss.FIRST_CALL, why=why)


def _use(reply: TeacherReplied, before: TeacherReplied) -> CacheUse:
    kept = before.usage.cache_read_tokens + _written(before)
    missed = max(kept - reply.usage.cache_read_tokens, 0)
    if kept and not missed:
        return _use_of(reply)
    miss, why = _why_not_kept(before) if not kept else _why(reply, before)
    return _use_of(reply, missed_tokens=missed, miss=miss, why=why)


def _why_not_kept(before: TeacherReplied) -> tuple[Miss, str]:
    if small := _too_small(before):
        return Miss.TOO_SMALL, small
    if before.sent is None:
        return Miss.UNKNOWN, "the journal does not say what the call before had sent"
    return Miss.NOT_KEPT, "the call before wrote nothing to the cache"


def _too_small(reply: TeacherReplied) -> str:
    """Return in words that a prompt is below the smallest that is kept; empty where it is not."""
    price = price_or_none(reply.model)
    tokens = reply.usage.prompt_tokens
    if price is None or tokens >= price.min_cacheable_tokens:
        return ""
    least = price.min_cacheable_tokens
    return f"the prompt had {tokens} tokens; {reply.model} keeps none below {least}"


def _why(reply: TeacherReplied, before: TeacherReplied) -> tuple[Miss, str]:
    """Return why a prefix that was kept was not read, the surest reason first."""
    if reply.model != before.model:
        return Miss.MODEL_CHANGED, f"{reply.model} answered, and {before.model} the turn before"
    if reply.sent is None or before.sent is None:
        return Miss.UNKNOWN, "the journal does not say what was sent"
    changed = _changed_part(reply.sent, before.sent)
    if changed is not None:
        return Miss.PREFIX_CHANGED, f"the prompt changed from its {_part_name(changed)} on"
    marks = _marks(before.sent)
    if not marks:
        return Miss.NOT_KEPT, "the call before had no breakpoint"
    gap_ms = reply.sent.asked_ms - before.sent.asked_ms
    if gap_ms >= TTL_MS[marks[-1].ttl]:
        lives = f"entries live {TTL_MS[marks[-1].ttl] // 1000} s"
        return Miss.EXPIRED, f"{gap_ms // 1000} s after the call before; {lives}"
    distance = _distance(_marks(reply.sent), marks[-1].block)
    if distance is None or distance >= LOOKBACK_BLOCKS:
        seen = "no breakpoint" if distance is None else f"the next breakpoint {distance} blocks"
        return Miss.LOOKBACK, f"{seen} behind the end of what was kept; it looks {LOOKBACK_BLOCKS}"
    return Miss.EVICTED, "the provider no longer had it, and nothing that was sent explains that"


def _changed_part(sent: SentPrompt, before: SentPrompt) -> int | None:
    """Return the first part of the earlier prompt that the later one has not; None for none."""
    for number, part in enumerate(before.parts):
        if number >= len(sent.parts) or sent.parts[number] != part:
            return number
    return None


def _part_name(number: int) -> str:
    names = ("tools", "system prompt", "brief")
    if number < len(names):
        return names[number]
    message = number - len(names) + 2
    return (
        f"message {message} ({'reply' if message % 2 == 0 else 'results'} of turn {message // 2})"
    )


def _distance(marks: Sequence[_Mark], block: int) -> int | None:
    """Return how many blocks the nearest breakpoint stands behind a block; None for none."""
    return min((mark.block - block for mark in marks if mark.block >= block), default=None)
