"""How much a call can cost at most, before it is made.

Rule: a bound is never below what the provider may bill, as long as the preconditions hold; where
one does not, `why_unbounded` says so and the call is not made.

Preconditions: text only; no tool that runs at the provider; `inference_geo` "global",
`service_tier` "standard_only", no fallbacks, server-side compaction, batch or fast mode (the
adapter pins these); a model with a price. Then a prompt has no more tokens than the UTF-8 bytes
of its JSON plus framing: a byte-level tokenizer makes at most one token of a byte, 0.996 at the
worst of seven adversarial corpora. Claude's tokenizer is not public, so every reply is held
against its bound as well (`PaidReply.breach`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.core.prices import cost_nusd
from worker.core.values import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from worker.core.prices import Price, Rates

__all__ = [
    "MIN_USEFUL_OUTPUT_TOKENS",
    "CacheWrites",
    "cache_writes",
    "why_unbounded",
    "json_bytes",
    "prompt_bound_tokens",
    "prompt_bound_tokens_after",
    "call_bound_nusd",
    "started_bound_nusd",
    "affordable_output_tokens",
]

#: A teacher's turn with less room than this ends in the middle of a thought: it is not made.
MIN_USEFUL_OUTPUT_TOKENS = 4096

#: The provider's own system prompt for tools takes 286 to 804 tokens; the rest is framing.
_FRAMING_TOKENS = 1024
#: What a new block and a new message cost beyond their text.
_BLOCK_TOKENS = 16
_TURN_TOKENS = 256
_PICO_PER_NANO = 1_000

#: Block types whose tokens are bounded by their bytes, or by the previous turn's output.
_BOUNDED_BLOCKS = frozenset({"text", "tool_use", "tool_result", "thinking", "redacted_thinking"})

_Block = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheWrites:
    """Which caches a request's breakpoints may write to."""

    has_5m: bool = False
    has_1h: bool = False


# ----------------------------------------------------------------------------------------- tokens


def json_bytes(value: object) -> int:
    """Return the UTF-8 bytes of a value as compact JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode("utf-8", "surrogatepass"))


def prompt_bound_tokens(request_json_bytes: int) -> int:
    """Return the most tokens a first turn's prompt can have.

    Args:
        request_json_bytes: Bytes of tools, system and messages (`json_bytes` of each, added up).
            The messages hold no thinking blocks: of those only the previous usage knows the size.
    """
    return request_json_bytes + _FRAMING_TOKENS


def prompt_bound_tokens_after(previous: Usage, new_bytes: int, new_blocks: int) -> int:
    """Return the most tokens a later turn's prompt can have, from the exact usage before it.

    The prompt is the previous one with the same tools and system, then the previous reply as it
    came, then `new_blocks` blocks of `new_bytes` bytes as JSON in one user message. The previous
    output covers what thinking and tool calls were, whatever they look like now.
    """
    return (
        previous.prompt_tokens
        + previous.output_tokens
        + new_bytes
        + _BLOCK_TOKENS * new_blocks
        + _TURN_TOKENS
    )


# ------------------------------------------------------------------------------------------ money


def call_bound_nusd(
    price: Price, prompt_tokens: int, max_tokens: int, *, has_5m: bool, has_1h: bool
) -> int:
    """Return the most a call can cost: its whole prompt at the dearest rate, every token used.

    Args:
        price: The model's price.
        prompt_tokens: Bound of the prompt.
        max_tokens: The call's output limit, thinking included.
        has_5m: Whether the request has a five-minute cache breakpoint.
        has_1h: Whether the request has a one-hour cache breakpoint.
    """
    rates = price.rates_at(prompt_tokens)
    prompt_pusd = prompt_tokens * _prompt_rate_pusd(rates, has_5m=has_5m, has_1h=has_1h)
    return -(-(prompt_pusd + max_tokens * rates.output_pusd) // _PICO_PER_NANO)


def started_bound_nusd(price: Price, started: Usage, max_tokens: int) -> int:
    """Return the most a call can cost once its prompt's exact usage is known."""
    whole = Usage(
        input_tokens=started.input_tokens,
        cache_write_5m_tokens=started.cache_write_5m_tokens,
        cache_write_1h_tokens=started.cache_write_1h_tokens,
        cache_read_tokens=started.cache_read_tokens,
        output_tokens=max_tokens,
    )
    return cost_nusd(price, whole)


def affordable_output_tokens(
    price: Price, prompt_tokens: int, free_nusd: int, *, has_5m: bool, has_1h: bool
) -> int:
    """Return the largest `max_tokens` whose bound fits into `free_nusd`; 0 where none does."""
    rates = price.rates_at(prompt_tokens)
    prompt_pusd = prompt_tokens * _prompt_rate_pusd(rates, has_5m=has_5m, has_1h=has_1h)
    return max((free_nusd * _PICO_PER_NANO - prompt_pusd) // rates.output_pusd, 0)


def _prompt_rate_pusd(rates: Rates, *, has_5m: bool, has_1h: bool) -> int:
    return max(
        rates.input_pusd,
        rates.cache_write_5m_pusd if has_5m else 0,
        rates.cache_write_1h_pusd if has_1h else 0,
    )


# ---------------------------------------------------------------------------------- preconditions


def why_unbounded(
    *,
    system: Sequence[_Block],
    messages: Sequence[_Block],
    tools: Sequence[_Block],
) -> str | None:
    """Return why no bound holds for this request, None where one does."""
    for tool in tools:
        kind = tool.get("type", "custom")
        if kind != "custom":
            return (
                f"the tool {tool.get('name')!r} of type {kind!r} runs, and bills, at the provider"
            )
    for block in _blocks(system, messages):
        if block.get("type") not in _BOUNDED_BLOCKS:
            return f"a block of type {block.get('type')!r} has more tokens than bytes can tell"
    return None


def cache_writes(
    *,
    system: Sequence[_Block],
    messages: Sequence[_Block],
    tools: Sequence[_Block],
) -> CacheWrites:
    """Return which caches the breakpoints of a request write to."""
    marks = [
        block["cache_control"]
        for block in (*tools, *_blocks(system, messages))
        if block.get("cache_control") is not None
    ]
    ttls = {mark.get("ttl", "5m") for mark in marks}
    return CacheWrites(has_5m=bool(ttls - {"1h"}), has_1h="1h" in ttls)


def _blocks(system: Sequence[_Block], messages: Sequence[_Block]) -> Iterable[Mapping[str, Any]]:
    """Yield every content block of a prompt, those inside tool results too."""
    yield from system
    for message in messages:
        yield from _content(message)


def _content(holder: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    content = holder.get("content", ())
    if isinstance(content, str):
        return
    for block in content:
        yield block
        if block.get("type") == "tool_result":
            yield from _content(block)
