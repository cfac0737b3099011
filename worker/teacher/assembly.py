"""A streamed reply, put together from its events.

Rule: blocks come out as they went in, so that they can be sent back: no key is added, none is
dropped, and what this version does not know is kept. What makes no whole message is `BrokenReply`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard, cast

from worker.core.rates import Rates
from worker.core.teaching import TeacherReply
from worker.core.values import Usage

__all__ = ["INVALID_JSON", "Assembly", "BrokenReply", "ProviderError", "event_of"]

#: The provider's advice for tool arguments that do not parse (or were cut at the token limit): they
#: go back as an object with the raw text in it. No tool has such an argument, so it is refused.
INVALID_JSON = "INVALID_JSON"

#: More tokens than any model takes or gives; a larger count is not one.
_MAX_TOKENS = 1_000_000_000
#: Deeper JSON is refused: whoever writes it again would run out of stack.
_MAX_DEPTH = 100


class BrokenReply(Exception):
    """The events make no message."""


class ProviderError(Exception):
    """An `error` event: the provider gave up in the middle."""

    def __init__(self, event: dict[str, Any]) -> None:
        error = event.get("error")
        told: dict[str, Any] = error if _is_object(error) else {}
        details = told.get("details")
        code = details.get("error_code") if _is_object(details) else None
        self.error_type = str(told.get("type") or "")
        self.error_code = str(code or "")
        self.message = str(told.get("message") or "")
        super().__init__(self.message)


@dataclass(slots=True)
class _Block:
    """A content block while it streams."""

    body: dict[str, Any]
    #: Text pieces by the field that they belong to.
    pieces: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    #: Pieces of a tool's arguments.
    arguments: list[str] = field(default_factory=list[str])

    def add(self, name: str, piece: str) -> None:
        self.pieces.setdefault(name, []).append(piece)

    def whole(self) -> dict[str, Any]:
        body = dict(self.body)
        for name, pieces in self.pieces.items():
            body[name] = str(body.get(name) or "") + "".join(pieces)
        text = "".join(self.arguments)
        if text:
            body["input"] = _arguments(text)
        return _sendable(body)


class Assembly:
    """One reply. Feed it every event in order; it is whole when `done`."""

    def __init__(self, *, cache_ttl: Literal["5m", "1h"]) -> None:
        """Begin a reply.

        Args:
            cache_ttl: What the request's longest cache breakpoint asks for. Tells apart the writes
                of a provider that counts them without saying which they were.
        """
        self._cache_ttl: Literal["5m", "1h"] = cache_ttl
        self._message: dict[str, Any] = {}
        self._counts: dict[str, Any] = {}
        self._blocks: list[_Block] = []
        self._stop_reason: str | None = None
        #: `message_stop` has come.
        self.done = False

    def feed(self, event: dict[str, Any]) -> Literal["started"] | None:
        """Take the next event; "started" once the prompt's usage is known.

        Raises:
            BrokenReply: It does not belong here, or lacks what it must have.
            ProviderError: It is an error.
        """
        match event.get("type"):
            case "message_start":
                self._start(event)
                return "started"
            case "content_block_start":
                self._begin_block(event)
            case "content_block_delta":
                self._change_block(event)
            case "message_delta":
                self._change_message(event)
            case "message_stop":
                self._end()
            case "error":
                raise ProviderError(event)
            case _:
                pass  # `ping`, `content_block_stop`, and what is not invented yet
        return None

    @property
    def usage(self) -> Usage:
        """What was counted so far.

        Raises:
            BrokenReply: A count is missing or is none.
        """
        counts = self._counts
        split = counts.get("cache_creation")
        split = split if _is_object(split) else {}
        write_5m = _tokens(split, "ephemeral_5m_input_tokens")
        write_1h = _tokens(split, "ephemeral_1h_input_tokens")
        untold = max(_tokens(counts, "cache_creation_input_tokens") - write_5m - write_1h, 0)
        return Usage(
            input_tokens=_tokens(counts, "input_tokens", required=True),
            cache_write_5m_tokens=write_5m + (untold if self._cache_ttl == "5m" else 0),
            cache_write_1h_tokens=write_1h + (untold if self._cache_ttl == "1h" else 0),
            cache_read_tokens=_tokens(counts, "cache_read_input_tokens"),
            output_tokens=_tokens(counts, "output_tokens", required=True),
        )

    @property
    def content(self) -> list[dict[str, Any]]:
        """The blocks, in order."""
        return [block.whole() for block in self._blocks]

    @property
    def stop_reason(self) -> str:
        """Why the model stopped.

        Raises:
            BrokenReply: It has not said so.
        """
        if self._stop_reason is None:
            raise BrokenReply("the reply has no stop_reason")
        return self._stop_reason

    @property
    def message_id(self) -> str:
        """The provider's id of the message, empty where it gave none."""
        return str(self._message.get("id") or "")

    @property
    def model(self) -> str:
        """The model that answered, empty where it was not said."""
        return str(self._message.get("model") or "")

    def reply(
        self, *, request_id: str, latency_ms: int = 0, rates: Rates | None = None
    ) -> TeacherReply:
        """Return the whole reply.

        Args:
            request_id: The provider's, or a batch's.
            latency_ms: How long it took; 0 where that says nothing.
            rates: The account's limits, where the answer's head told them.

        Raises:
            BrokenReply: It lacks what it must have.
        """
        content, usage = self.content, self.usage
        refused = self.stop_reason == "refusal"
        return TeacherReply(
            content=content,
            stop_reason=self.stop_reason,
            usage=usage,
            model=self.model,
            message_id=self.message_id,
            request_id=request_id,
            latency_ms=latency_ms,
            unbilled=refused and not content and usage.output_tokens == 0,
            rates=rates or Rates(),
        )

    # -------------------------------------------------------------------------------------- events

    def _start(self, event: dict[str, Any]) -> None:
        if self._message:
            raise BrokenReply("a second message_start")
        self._message = _object(event, "message")
        self._count(_object(self._message, "usage"))
        _ = self.usage  # it is asked for at once, and must be readable

    def _begin_block(self, event: dict[str, Any]) -> None:
        body = _object(event, "content_block")
        if not self._message or self.done or event.get("index") != len(self._blocks):
            raise BrokenReply(f"a content block out of place: index {event.get('index')!r}")
        needed = {"type", "id", "name"} if body.get("type") == "tool_use" else {"type"}
        if not all(isinstance(body.get(name), str) and body[name] for name in needed):
            raise BrokenReply(f"a {body.get('type')!r} block without {' or '.join(sorted(needed))}")
        self._blocks.append(_Block(body))

    def _change_block(self, event: dict[str, Any]) -> None:
        index = event.get("index")
        if not isinstance(index, int) or not 0 <= index < len(self._blocks) or self.done:
            raise BrokenReply(f"a delta of no block: index {index!r}")
        _apply(_object(event, "delta"), self._blocks[index])

    def _change_message(self, event: dict[str, Any]) -> None:
        if not self._message or self.done:
            raise BrokenReply("a message_delta out of place")
        reason = _object(event, "delta").get("stop_reason")
        if reason is not None:
            self._stop_reason = str(reason)
        if event.get("usage") is not None:
            self._count(_object(event, "usage"))

    def _end(self) -> None:
        _ = self.stop_reason, self.usage
        self.done = True

    def _count(self, usage: dict[str, Any]) -> None:
        """Take cumulative counts: what is told replaces, what is not told stays."""
        self._counts |= {name: value for name, value in usage.items() if value is not None}


def _apply(delta: dict[str, Any], block: _Block) -> None:
    """Change a block as a delta says; of an unknown kind, its text is appended and the rest set."""
    match delta.get("type"):
        case "input_json_delta":
            block.arguments.append(_text(delta, "partial_json"))
        case "signature_delta":
            block.body["signature"] = _text(delta, "signature")
        case "citations_delta":
            block.body["citations"] = [*(block.body.get("citations") or ()), delta.get("citation")]
        case _:
            for name, value in delta.items():
                if name == "type":
                    continue
                if isinstance(value, str):
                    block.add(name, value)
                elif value is not None:
                    block.body[name] = value


# ------------------------------------------------------------------------------------------- JSON


def event_of(data: str) -> dict[str, Any]:
    """Return the event that a server-sent event's data is.

    Raises:
        BrokenReply: It is no JSON object.
    """
    event = _json(data)
    if not _is_object(event):
        raise BrokenReply(f"an event that is no JSON object: {data[:80]!r}")
    return event


def _arguments(text: str) -> dict[str, Any]:
    """Return a tool's arguments; the raw text under `INVALID_JSON` where they are no object."""
    arguments = _json(text)
    return arguments if _is_object(arguments) else {INVALID_JSON: text}


def _json(text: str) -> object:
    """Return what JSON text says, None where it is not strictly JSON."""
    try:
        value: object = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return None if _is_deep(value, _MAX_DEPTH) else value


def _is_deep(value: object, levels: int) -> bool:
    """Whether objects and arrays nest deeper than that."""
    if _is_object(value):
        items = list(value.values())
    elif isinstance(value, list):
        items = cast("list[Any]", value)
    else:
        return False
    return levels == 0 or any(_is_deep(item, levels - 1) for item in items)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large")
    return value


def _sendable(block: dict[str, Any]) -> dict[str, Any]:
    """Return the block as it can be sent back: half of a surrogate pair is not UTF-8."""
    text = json.dumps(block, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        mended: dict[str, Any] = json.loads(whole)
        return mended
    return block


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _object(holder: dict[str, Any], name: str) -> dict[str, Any]:
    value = holder.get(name)
    if not _is_object(value):
        raise BrokenReply(f"{holder.get('type')!r} without {name!r}")
    return value


def _text(holder: dict[str, Any], name: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise BrokenReply(f"{holder.get('type')!r} without {name!r}")
    return value


def _tokens(counts: dict[str, Any], name: str, *, required: bool = False) -> int:
    value = counts.get(name, None if required else 0)
    value = 0 if value is None and not required else value
    if type(value) is not int or not 0 <= value <= _MAX_TOKENS:
        raise BrokenReply(f"usage.{name} is {value!r}")
    return value
