"""How many tokens something is.

Rule: a deterministic stand-in for a tokenizer that is not public: one token for every three bytes of
UTF-8, rounded up per block. So counts add up block by block, never exceed the bytes, and come to
about 0.33 tokens per byte; they are not what the provider would count.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, assert_never

from worker.embedded.teacher.wire import RedactedThinking, Text, Thinking, ToolResult, ToolUse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.embedded.teacher.wire import Block, Tool

__all__ = [
    "BYTES_PER_TOKEN",
    "TOOL_PROMPT_TOKENS",
    "compact_json",
    "count_block",
    "count_text",
    "count_tool",
    "payload",
    "tokens_of_bytes",
    "tool_payload",
]

BYTES_PER_TOKEN = 3

#: What the provider adds to a prompt once tools are offered (286 for Opus 5 with `auto`). The only
#: tokens that stand for no bytes of the request.
TOOL_PROMPT_TOKENS = 286


def count_text(*parts: str) -> int:
    """Return the tokens of `parts` taken as one text; 0 for no text."""
    return tokens_of_bytes(sum(len(part.encode()) for part in parts))


def tokens_of_bytes(size_bytes: int) -> int:
    """Return the tokens of a text of that many bytes of UTF-8."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def count_block(block: Block) -> int:
    """Return the tokens of a content block, at least 1."""
    return max(1, count_text(*payload(block)))


def count_tool(tool: Tool) -> int:
    """Return the tokens of a tool's definition."""
    return count_text(tool_payload(tool))


def payload(block: Block) -> tuple[str, ...]:
    """Return the texts of a block that the model reads; its cache breakpoint is none of them."""
    match block:
        case Text():
            return (block.text,)
        case Thinking():
            return (block.thinking, block.signature)
        case RedactedThinking():
            return (block.data,)
        case ToolUse():
            return (block.id, block.name, compact_json(block.input))
        case ToolResult():
            return (block.tool_use_id, *(part.text for part in block.content))
    assert_never(block)


def tool_payload(tool: Tool) -> str:
    """Return the text of a tool's definition, keys in the order in which they came."""
    return compact_json(tool.model_dump(mode="json", exclude={"cache_control"}, exclude_unset=True))


def compact_json(value: Mapping[str, Any]) -> str:
    """Return `value` as JSON without spaces, keys in their own order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
