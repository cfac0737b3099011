"""What the Message Batches API says, read from its JSON.

Rule: an address is made from an id of ours to keep, never followed from an answer; what cannot be read
is `BrokenReply`. A message in a batch is read by the same rules as a streamed one.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any, Literal, cast

from worker.core.batches import Answered
from worker.ports import Batch, BatchAnswer
from worker.teacher.assembly import Assembly, BrokenReply, event_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.core.teaching import TeacherReply

__all__ = ["PATH", "answer_of", "batch_of", "batches_of", "path_of"]

PATH = "/v1/messages/batches"
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


def path_of(batch_id: str, what: str = "") -> str:
    """Return where a batch is.

    Raises:
        BrokenReply: This is no id of a batch.
    """
    if not _ID.fullmatch(batch_id):
        raise BrokenReply(f"{batch_id[:80]!r} is no id of a batch")
    return f"{PATH}/{batch_id}{what}"


def batch_of(told: dict[str, Any]) -> Batch:
    """Return a batch from the provider's words.

    Raises:
        BrokenReply: They are of no batch.
    """
    batch_id, counts = told.get("id"), told.get("request_counts")
    if not isinstance(batch_id, str) or not isinstance(counts, dict):
        raise BrokenReply("a batch without id or request_counts")
    _ = path_of(batch_id)
    return Batch(
        batch_id=batch_id,
        ended=told.get("processing_status") == "ended",
        created_ms=_ms(told.get("created_at")),
        requests=sum(n for n in cast("dict[str, Any]", counts).values() if isinstance(n, int)),
    )


def batches_of(told: dict[str, Any]) -> tuple[Batch, ...]:
    """Return a page of the provider's list.

    Raises:
        BrokenReply: It is none.
    """
    data = told.get("data")
    if not isinstance(data, list):
        raise BrokenReply("a list of batches without data")
    return tuple(batch_of(_object(one)) for one in cast("list[object]", data))


def answer_of(
    lines: str, *, custom_id: str, cache_ttl: Literal["5m", "1h"], request_id: str
) -> BatchAnswer | None:
    """Return what became of a request, from a batch's results; None where they do not name it.

    Raises:
        BrokenReply: They cannot be read.
    """
    for line in lines.split("\n"):
        row = event_of(line) if line.strip() else {}
        if row.get("custom_id") == custom_id:
            return _answer(_object(row.get("result")), cache_ttl, request_id)
    return None


def _answer(result: dict[str, Any], ttl: Literal["5m", "1h"], request_id: str) -> BatchAnswer:
    kind = result.get("type")
    if kind not in set(Answered):
        raise BrokenReply(f"a result of type {kind!r}")
    answered = Answered(str(kind))
    if answered is not Answered.SUCCEEDED:
        return BatchAnswer(answered=answered, why=_why(result))
    message = _object(result.get("message"))
    return BatchAnswer(answered=answered, reply=_reply(message, ttl, request_id))


def _why(result: dict[str, Any]) -> str:
    outer = result.get("error")
    inner = cast("dict[str, Any]", outer).get("error") if isinstance(outer, dict) else None
    return str(cast("dict[str, Any]", inner).get("message")) if isinstance(inner, dict) else ""


def _reply(message: dict[str, Any], ttl: Literal["5m", "1h"], request_id: str) -> TeacherReply:
    assembly = Assembly(cache_ttl=ttl)
    for event in _as_streamed(message):
        assembly.feed(event)
    return assembly.reply(request_id=request_id)


def _as_streamed(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events that a stream of the same message would have had."""
    blocks = message.get("content")
    if not isinstance(blocks, list):
        raise BrokenReply("a message without content")
    yield {"type": "message_start", "message": message}
    for index, block in enumerate(cast("list[object]", blocks)):
        yield {"type": "content_block_start", "index": index, "content_block": block}
    delta = {"stop_reason": message.get("stop_reason")}
    yield {"type": "message_delta", "delta": delta}
    yield {"type": "message_stop"}


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BrokenReply(f"an object is wanted, not a {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _ms(text: object) -> int:
    try:
        at = dt.datetime.fromisoformat(str(text))
    except ValueError as exc:
        raise BrokenReply(f"{str(text)[:40]!r} is no time") from exc
    return round((at if at.tzinfo else at.replace(tzinfo=dt.UTC)).timestamp() * 1000)
