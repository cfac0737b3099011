"""A reply shaped into an answer: stop sequences and `max_tokens` applied, output counted.

Rule: an answer never holds more output than the request allows, and its `output_tokens` are what
the same blocks count when they come back as input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from worker.embedded.teacher.rules import signature_of
from worker.embedded.teacher.tokens import (
    BYTES_PER_TOKEN,
    compact_json,
    count_block,
    count_text,
)
from worker.embedded.teacher.wire import RedactedThinking, Text, Thinking, ToolUse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.embedded.teacher.reply import Reply

    SaidBlock = Text | Thinking | RedactedThinking | ToolUse

__all__ = ["Answer", "CutToolUse", "answer_of"]

#: What an empty reply counts: the provider says that `output_tokens` is never 0 for one.
_EMPTY_REPLY_TOKENS = 1


@dataclass(frozen=True, slots=True)
class CutToolUse:
    """A tool call that ran into `max_tokens`: its arguments end somewhere in the middle."""

    id: str
    name: str
    partial_json: str

    @property
    def tokens(self) -> int:
        """What it counts."""
        return max(1, count_text(self.id, self.name, self.partial_json))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the client is told."""

    blocks: tuple[SaidBlock | CutToolUse, ...]
    stop_reason: str | None
    stop_sequence: str | None = None
    stop_details: Mapping[str, Any] | None = None
    output_tokens: int
    thinking_tokens: int = 0

    @property
    def unbilled(self) -> bool:
        """Whether it is a refusal before any output, which the provider does not charge."""
        return self.stop_reason == "refusal" and not self.blocks


def answer_of(
    reply: Reply,
    *,
    max_tokens: int,
    window_left_tokens: int | None = None,
    stop_sequences: Sequence[str] = (),
) -> Answer:
    """Return the answer that `reply` comes to.

    Args:
        reply: What the brain said.
        max_tokens: The most that may be generated; 0 only warms the cache.
        window_left_tokens: What the prompt leaves of the context window; None for enough.
        stop_sequences: Texts at whose first appearance the answer ends.
    """
    if max_tokens == 0:
        return Answer(blocks=(), stop_reason="max_tokens", output_tokens=0)
    blocks, found = _until_stop(reply.blocks, stop_sequences)
    left = max_tokens if window_left_tokens is None else min(max_tokens, window_left_tokens)
    kept = tuple(_within(blocks, left))
    answer = Answer(
        blocks=kept,
        stop_reason=reply.stop_reason if found is None else "stop_sequence",
        stop_sequence=found,
        stop_details=reply.stop_details,
        output_tokens=_output_tokens(kept, reply.stop_reason),
        thinking_tokens=sum(_count(block) for block in kept if isinstance(block, Thinking)),
    )
    if kept == blocks:
        return answer
    why = "max_tokens" if left == max_tokens else "model_context_window_exceeded"
    return replace(answer, stop_reason=why, stop_sequence=None, stop_details=None)


def _output_tokens(blocks: Sequence[SaidBlock | CutToolUse], stop_reason: str | None) -> int:
    if not blocks:
        return 0 if stop_reason == "refusal" else _EMPTY_REPLY_TOKENS
    return sum(_count(block) for block in blocks)


def _count(block: SaidBlock | CutToolUse) -> int:
    return block.tokens if isinstance(block, CutToolUse) else count_block(block)


def _until_stop(
    blocks: tuple[SaidBlock, ...], stop_sequences: Sequence[str]
) -> tuple[tuple[SaidBlock, ...], str | None]:
    """Return the blocks up to the first stop sequence in their text, and which one it was."""
    for index, block in enumerate(blocks):
        if not isinstance(block, Text):
            continue
        places = [(block.text.find(stop), stop) for stop in stop_sequences if stop]
        found = min(((at, stop) for at, stop in places if at >= 0), default=None)
        if found is not None:
            text = block.text[: found[0]]
            last = (Text(text=text),) if text else ()
            return (*blocks[:index], *last), found[1]
    return blocks, None


def _within(blocks: Sequence[SaidBlock], max_tokens: int) -> Iterator[SaidBlock | CutToolUse]:
    """Return the blocks as far as `max_tokens` go, the last one cut."""
    left = max_tokens
    for block in blocks:
        tokens = count_block(block)
        if tokens > left:
            cut = _cut(block, left * BYTES_PER_TOKEN)
            if cut is not None:
                yield cut
            return
        left -= tokens
        yield block


def _cut(block: SaidBlock, room_bytes: int) -> SaidBlock | CutToolUse | None:
    """Return the part of a block that fits, None where nothing of it does."""
    match block:
        case Text():
            text = _first_bytes(block.text, room_bytes)
            return Text(text=text) if text.strip() else None
        case Thinking():
            room_bytes -= len(signature_of(""))
            text = _first_bytes(block.thinking, room_bytes)
            return Thinking(thinking=text, signature=signature_of(text)) if text else None
        case ToolUse():
            room_bytes -= len(block.id.encode()) + len(block.name.encode())
            part = _first_bytes(compact_json(block.input), room_bytes)
            return CutToolUse(block.id, block.name, part) if room_bytes >= 0 else None
        case RedactedThinking():
            return None


def _first_bytes(text: str, room_bytes: int) -> str:
    """Return the longest beginning of `text` that takes at most `room_bytes`."""
    return text.encode()[: max(room_bytes, 0)].decode(errors="ignore")
