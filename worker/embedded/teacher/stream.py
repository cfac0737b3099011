"""An answer as it goes over the wire: server-sent events, or one JSON body.

Rule: events come in the order and shape that the SDK reads; `message_start` tells the exact prompt,
`message_delta` the totals. Every event knows how much output the client has once it is sent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from worker.embedded.teacher.answer import CutToolUse
from worker.embedded.teacher.tokens import compact_json, count_block, tokens_of_bytes
from worker.embedded.teacher.wire import RedactedThinking, Text, Thinking, ToolUse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.embedded.teacher.answer import Answer
    from worker.embedded.teacher.bill import Usage

__all__ = ["Envelope", "StreamEvent", "body_of", "error_event", "events_of"]

#: Length of the pieces in which text and arguments are streamed.
_PIECE_CHARS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What surrounds an answer's content."""

    message_id: str
    model: str
    #: The whole usage, output included.
    usage: Usage
    inference_geo: str


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One server-sent event."""

    data: dict[str, Any]
    #: Output generated up to and including this event.
    output_tokens: int

    @property
    def name(self) -> str:
        """The event's type."""
        return str(self.data["type"])

    def encode(self) -> bytes:
        """Return the event as bytes of the stream."""
        body = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        return f"event: {self.name}\ndata: {body}\n\n".encode()


def body_of(answer: Answer, envelope: Envelope) -> dict[str, Any]:
    """Return the JSON body of an answer that is not streamed."""
    return _message(envelope) | {
        "content": [_as_json(block) for block in answer.blocks],
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
        "stop_details": _details(answer),
        "usage": _usage(envelope) | _output(answer),
    }


def events_of(answer: Answer, envelope: Envelope) -> Iterator[StreamEvent]:
    """Return the events of a streamed answer."""
    started = min(1, answer.output_tokens)
    usage = _usage(envelope) | {"output_tokens": started}
    message = _message(envelope) | {"usage": usage}
    yield StreamEvent({"type": "message_start", "message": message}, started)
    done = 0
    for index, block in enumerate(answer.blocks):
        for data, tokens in _block_events(index, block):
            yield StreamEvent(data, max(started, done + tokens))
            if index == 0 and data["type"] == "content_block_start":
                yield StreamEvent({"type": "ping"}, max(started, done + tokens))
        done += _tokens(block)
    yield StreamEvent(_message_delta(answer, envelope), answer.output_tokens)
    yield StreamEvent({"type": "message_stop"}, answer.output_tokens)


def error_event(error_type: str, message: str, request_id: str) -> StreamEvent:
    """Return the event by which a stream that has begun reports an error."""
    error = {"type": error_type, "message": message}
    return StreamEvent({"type": "error", "error": error, "request_id": request_id}, 0)


def _message(envelope: Envelope) -> dict[str, Any]:
    return {
        "id": envelope.message_id,
        "type": "message",
        "role": "assistant",
        "model": envelope.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def _usage(envelope: Envelope) -> dict[str, Any]:
    usage = envelope.usage
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "cache_read_input_tokens": usage.cache_read_tokens,
        "service_tier": "standard",
        "inference_geo": envelope.inference_geo,
    }


def _output(answer: Answer) -> dict[str, Any]:
    return {
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"thinking_tokens": answer.thinking_tokens},
    }


def _details(answer: Answer) -> dict[str, Any] | None:
    return dict(answer.stop_details) if answer.stop_details else None


def _message_delta(answer: Answer, envelope: Envelope) -> dict[str, Any]:
    usage = _usage(envelope)
    cumulative = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return {
        "type": "message_delta",
        "delta": {
            "stop_reason": answer.stop_reason,
            "stop_sequence": answer.stop_sequence,
            "stop_details": _details(answer),
        },
        "usage": {key: usage[key] for key in cumulative} | _output(answer),
    }


# --------------------------------------------------------------------------------- content blocks


def _as_json(block: Text | Thinking | RedactedThinking | ToolUse | CutToolUse) -> dict[str, Any]:
    match block:
        case Text():
            return {"type": "text", "text": block.text, "citations": None}
        case Thinking():
            return {
                "type": "thinking",
                "thinking": block.thinking,
                "signature": block.signature,
            }
        case RedactedThinking():
            return {"type": "redacted_thinking", "data": block.data}
        case ToolUse():
            return _call(block.id, block.name) | {"input": block.input}
        case CutToolUse():
            return _call(block.id, block.name)
    assert_never(block)


def _call(id_: str, name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": name, "input": {}}


def _tokens(block: Text | Thinking | RedactedThinking | ToolUse | CutToolUse) -> int:
    return block.tokens if isinstance(block, CutToolUse) else count_block(block)


def _block_events(
    index: int, block: Text | Thinking | RedactedThinking | ToolUse | CutToolUse
) -> Iterator[tuple[dict[str, Any], int]]:
    """Return a block's events, each with the block's tokens that are out after it."""
    start = {"type": "content_block_start", "index": index, "content_block": _opened(block)}
    yield start, 0
    sent_bytes = 0
    for delta, piece in _deltas(block):
        sent_bytes += len(piece.encode())
        tokens = min(tokens_of_bytes(sent_bytes), _tokens(block))
        yield {"type": "content_block_delta", "index": index, "delta": delta}, tokens
    yield {"type": "content_block_stop", "index": index}, _tokens(block)


def _opened(
    block: Text | Thinking | RedactedThinking | ToolUse | CutToolUse,
) -> dict[str, Any]:
    """Return the block as it is when it starts: empty, but for what is not streamed."""
    match block:
        case Text():
            return {"type": "text", "text": "", "citations": None}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case RedactedThinking():
            return _as_json(block)
        case ToolUse() | CutToolUse():
            return _call(block.id, block.name)
    assert_never(block)


def _deltas(
    block: Text | Thinking | RedactedThinking | ToolUse | CutToolUse,
) -> Iterator[tuple[dict[str, Any], str]]:
    match block:
        case Text():
            for piece in _pieces(block.text):
                yield {"type": "text_delta", "text": piece}, piece
        case Thinking():
            for piece in _pieces(block.thinking):
                yield {"type": "thinking_delta", "thinking": piece}, piece
            yield {"type": "signature_delta", "signature": block.signature}, block.signature
        case RedactedThinking():
            return
        case ToolUse():
            yield from _argument_deltas(compact_json(block.input) if block.input else "")
        case CutToolUse():
            yield from _argument_deltas(block.partial_json)


def _argument_deltas(text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Return an empty first piece, as the provider sends it, then the rest."""
    for piece in ("", *_pieces(text)):
        yield {"type": "input_json_delta", "partial_json": piece}, piece


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE_CHARS):
        yield text[start : start + _PIECE_CHARS]
