"""A request's prompt as the cache sees it: blocks in order, each with the hash of all before it.

Rule: tools, then system, then messages. The hash of a block covers everything up to and including
it, so two prompts share a prefix exactly where their hashes agree.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from worker.embedded.teacher.tokens import (
    TOOL_PROMPT_TOKENS,
    count_block,
    count_tool,
    payload,
    tool_payload,
)
from worker.embedded.teacher.wire import RedactedThinking, Thinking, ToolResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.embedded.teacher.wire import Block, CacheControl, PromptRequest, Ttl

__all__ = ["Prompt", "PromptBlock", "prompt_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBlock:
    """One block of a prompt."""

    tokens: int
    #: Hash of the prompt from its start to the end of this block.
    digest: str
    #: The breakpoint at the end of this block, None for none.
    ttl: Ttl | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """All blocks of a request."""

    blocks: tuple[PromptBlock, ...]

    @property
    def total_tokens(self) -> int:
        """The whole prompt."""
        return sum(block.tokens for block in self.blocks)

    @property
    def prefix_tokens(self) -> tuple[int, ...]:
        """For each block, the tokens from the start to its end."""
        return tuple(accumulate(block.tokens for block in self.blocks))

    @property
    def digest(self) -> str:
        """Hash of the whole prompt."""
        return self.blocks[-1].digest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    text: str
    tokens: int
    control: CacheControl | None


def prompt_of(request: PromptRequest) -> Prompt:
    """Return the prompt of a request that has passed the rules."""
    return Prompt(_with_automatic(request, tuple(_chained(_pieces(request)))))


def _chained(pieces: Iterator[_Piece]) -> Iterator[PromptBlock]:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece.text).to_bytes(8))
        digest.update(piece.text.encode())
        yield PromptBlock(
            tokens=piece.tokens,
            digest=digest.hexdigest(),
            ttl=piece.control.ttl if piece.control else None,
        )


def _pieces(request: PromptRequest) -> Iterator[_Piece]:
    for index, tool in enumerate(request.tools):
        extra = 0 if index else TOOL_PROMPT_TOKENS
        yield _Piece(
            text=f"tool {tool_payload(tool)}",
            tokens=count_tool(tool) + extra,
            control=tool.cache_control,
        )
    for block in request.system:
        yield _piece("system", block)
    settings = _settings_text(request)
    for message in request.messages:
        for block in message.content:
            yield _piece(f"{settings} {message.role}", block)


def _piece(place: str, block: Block) -> _Piece:
    failed = isinstance(block, ToolResult) and bool(block.is_error)
    text = json.dumps([place, block.type, failed, *payload(block)], ensure_ascii=False)
    control = None if isinstance(block, Thinking | RedactedThinking) else block.cache_control
    return _Piece(text=text, tokens=count_block(block), control=control)


def _settings_text(request: PromptRequest) -> str:
    """Return what invalidates the messages' cache, and only that, when it changes."""
    choice = request.tool_choice.model_dump_json() if request.tool_choice else ""
    return json.dumps([choice, request.thinking, request.output_config])


def _with_automatic(
    request: PromptRequest, blocks: tuple[PromptBlock, ...]
) -> tuple[PromptBlock, ...]:
    """Return the blocks with the breakpoint that a top-level `cache_control` puts on the last."""
    if request.cache_control is None or blocks[-1].ttl is not None:
        return blocks
    return (*blocks[:-1], replace(blocks[-1], ttl=request.cache_control.ttl))
