"""The models that the simulator answers for, with what their API refuses or ignores.

Rule: facts of the provider only (money.md 2.1 and 2.5); prices are the bill's. A model that is not
here does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MODELS", "Model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What the API does with a request for this model."""

    #: A prefix shorter than this is silently not cached.
    min_cache_tokens: int
    #: `max_tokens` above this is refused.
    max_output_tokens: int = 128_000
    #: A prompt above this is refused; prompt and reply together stop at it.
    window_tokens: int = 1_000_000
    #: Whether `tool_choice` may be `any` or `tool`.
    may_force_tools: bool = True


_OPUS_4_5 = Model(min_cache_tokens=4096, max_output_tokens=64_000)
_HAIKU_4_5 = Model(min_cache_tokens=4096, max_output_tokens=64_000, window_tokens=200_000)

MODELS: Mapping[str, Model] = {
    "claude-fable-5-2": Model(min_cache_tokens=512),
    "claude-fable-5-1": Model(min_cache_tokens=512),
    "claude-opus-5-5": Model(min_cache_tokens=512, may_force_tools=False),
    "claude-opus-5": Model(min_cache_tokens=512),
    "claude-opus-4-8": Model(min_cache_tokens=1024),
    "claude-opus-4-7": Model(min_cache_tokens=2048),
    "claude-opus-4-6": Model(min_cache_tokens=4096),
    "claude-opus-4-5": _OPUS_4_5,
    "claude-opus-4-5-20251101": _OPUS_4_5,
    "claude-sonnet-5-5": Model(min_cache_tokens=512, may_force_tools=False),
    "claude-sonnet-5": Model(min_cache_tokens=1024),
    "claude-haiku-5-5": Model(min_cache_tokens=512),
    "claude-haiku-4-5": _HAIKU_4_5,
    "claude-haiku-4-5-20251001": _HAIKU_4_5,
}
