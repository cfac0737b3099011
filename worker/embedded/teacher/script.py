"""Replies that a test has written beforehand, given in order.

Rule: a script that runs out is an error of the test: the request gets a 500 that says so, and the
overrun is counted, so that the test can fail for it.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from pydantic import Field, TypeAdapter, ValidationError

from worker.embedded.teacher.api_error import ApiError, invalid
from worker.embedded.teacher.reply import Reply, call_id_stem
from worker.embedded.teacher.rules import signature_of
from worker.embedded.teacher.wire import ReplyBlock, Shape, ToolUse

if TYPE_CHECKING:
    from worker.embedded.teacher.wire import MessagesRequest

__all__ = ["Script", "ScriptBody", "ScriptedReply"]


class ScriptedReply(Shape):
    """One reply."""

    #: Content blocks. A tool call without an `id` and thinking without a `signature` get one.
    blocks: list[dict[str, Any]]
    #: None for what follows from the blocks.
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None


class ScriptBody(Shape):
    """The body of `POST /_sim/script`."""

    replies: list[ScriptedReply] = Field(min_length=1)
    #: The kind of request that it is for; None for every one.
    kind: str | None = None


_blocks = TypeAdapter[list[ReplyBlock]](list[ReplyBlock])


class Script:
    """The replies that are left. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: deque[ScriptedReply] = deque()
        self._kind: str | None = None
        self._active = False
        self._overruns = 0

    def play(self, script: ScriptBody) -> None:
        """Take a new script; what is left of an older one is dropped.

        Raises:
            ApiError: A block is not one that a model can say.
        """
        for index, reply in enumerate(script.replies):
            _read_blocks(reply, index, "toolu_sim_check")
        with self._lock:
            self._left = deque(script.replies)
            self._kind = script.kind
            self._active = True

    def take(self, request: MessagesRequest, kind: str) -> Reply | None:
        """Return the next reply, None where no script is for this request.

        Raises:
            ApiError: The script has run out (500).
        """
        with self._lock:
            if not self._active or self._kind not in {None, kind}:
                return None
            if not self._left:
                self._overruns += 1
                raise ApiError(500, f"The script ran out: no reply is left for this {kind}.")
            scripted = self._left.popleft()
        return _reply(scripted, call_id_stem(request))

    def clear(self) -> None:
        """Forget the script and its overruns."""
        with self._lock:
            self._left.clear()
            self._active = False
            self._overruns = 0

    @property
    def left(self) -> int:
        """How many replies were not given yet."""
        return len(self._left)

    @property
    def overruns(self) -> int:
        """How many requests found nothing left."""
        return self._overruns


def _reply(scripted: ScriptedReply, id_stem: str) -> Reply:
    blocks = _read_blocks(scripted, 0, id_stem)
    calls = any(isinstance(block, ToolUse) for block in blocks)
    stop_reason = scripted.stop_reason or ("tool_use" if calls else "end_turn")
    return Reply(tuple(blocks), stop_reason, scripted.stop_details)


def _read_blocks(scripted: ScriptedReply, index: int, id_stem: str) -> list[ReplyBlock]:
    filled = [
        _filled(block, f"{id_stem}_{place:02d}") for place, block in enumerate(scripted.blocks)
    ]
    try:
        return _blocks.validate_python(filled, strict=True)
    except ValidationError as exc:
        raise invalid(f"replies.{index}.blocks: {exc.errors(include_url=False)[0]}") from exc


def _filled(block: dict[str, Any], id_: str) -> dict[str, Any]:
    """Return the block with what a test need not write."""
    match block.get("type"):
        case "tool_use":
            return {"id": id_, **block}
        case "thinking":
            return {"signature": signature_of(str(block.get("thinking"))), **block}
        case _:
            return block
