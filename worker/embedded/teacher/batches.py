"""Message Batches of the simulated teacher: made, processed after a while, read, cancelled.

Rule: a batch costs nothing until it was processed; then each of its requests that succeeded is on the
bill at half the price, and no other. It is processed when somebody looks after its time has come: no
thread waits for it.
"""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from worker.embedded.teacher.answer import answer_of
from worker.embedded.teacher.api_error import ApiError, invalid
from worker.embedded.teacher.bill import (
    BillLine,
    Outcome,
    Usage,
    amount_nano_usd,
    amount_pico_usd,
)
from worker.embedded.teacher.brain import kind_of
from worker.embedded.teacher.catalogue import MODELS
from worker.embedded.teacher.faults import Reset, Status
from worker.embedded.teacher.rules import accepted
from worker.embedded.teacher.stream import Envelope, body_of
from worker.embedded.teacher.wire import MessagesRequest, Shape, read_json, read_shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.embedded.teacher.desk import Desk, Received

__all__ = ["BATCHES", "Batches", "BatchSwitch", "Lost", "answer_batches", "kept_batches"]

BATCHES = "/v1/messages/batches"
_DAY_MS = 86_400_000
_PAGE = 20
_MOST_A_PAGE = 1_000

Ends = Literal["succeeded", "errored", "canceled", "expired"]


class Lost(Exception):
    """A fault keeps the answer from the client."""


class BatchSwitch(Shape):
    """The body of `POST /_sim/batches`: what becomes of batches that are made from now on."""

    processing_ms: Annotated[int, Field(ge=0)] = 0
    ends: Ends = "succeeded"


class _Item(Shape):
    custom_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    params: MessagesRequest


class _Create(Shape):
    requests: Annotated[list[_Item], Field(min_length=1, max_length=100_000)]


@dataclass(slots=True, kw_only=True)
class _Batch:
    batch_id: str
    workspace: str
    created_ms: int
    due_ms: int
    ends: Ends
    items: Sequence[_Item]
    cancelled_ms: int | None = None
    ended_ms: int | None = None
    #: Lines of the results, once it has ended.
    results: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Batches:
    """All batches of a simulated teacher. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.switch = BatchSwitch()
        self.kept: dict[str, _Batch] = {}


def kept_batches(desk: Desk) -> dict[str, Any]:
    """Return what the simulator knows of its batches, for tests."""
    with desk.batches.lock:
        _process_due(desk)
        told = [
            _told(batch) | {"custom_ids": [item.custom_id for item in batch.items]}
            for batch in desk.batches.kept.values()
        ]
        return desk.batches.switch.model_dump() | {"batches": told}


def answer_batches(
    desk: Desk, received: Received, method: str, query: Mapping[str, Sequence[str]]
) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the answer to a request about batches; a list is sent as JSON Lines.

    Raises:
        ApiError: It is refused.
        Lost: A fault was asked for: the connection is to be reset.
    """
    workspace = desk.workspace_of(received.headers)
    parts = received.path.removeprefix(BATCHES).strip("/").split("/")
    with desk.batches.lock:
        _process_due(desk)
        match method, parts:
            case "POST", [""]:
                desk.log.add(received)
                return _create(desk, received, workspace)
            case "GET", [""]:
                return _list(desk, workspace, query)
            case "GET", [batch_id]:
                return _told(_of(desk, workspace, batch_id))
            case "GET", [batch_id, "results"]:
                return _results(_of(desk, workspace, batch_id))
            case "POST", [batch_id, "cancel"]:
                return _cancel(desk, _of(desk, workspace, batch_id))
            case _:
                raise ApiError(404, f"{method} {received.path} is not an endpoint")


def _create(desk: Desk, received: Received, workspace: str) -> dict[str, Any]:
    body = read_shape(_Create, read_json(received.body))
    for item in body.requests:
        if item.params.stream or item.params.max_tokens == 0:
            raise invalid("requests.params: neither `stream` nor `max_tokens` 0 go into a batch")
        accepted(item.params)
    if len({item.custom_id for item in body.requests}) < len(body.requests):
        raise invalid("requests: custom_id must be unique within a batch")
    fault = desk.faults.take("batch", body.requests[0].params.model)
    if isinstance(fault, Status):
        raise ApiError(
            fault.status, fault.message, error_type=fault.error_type, headers=fault.headers
        )
    if isinstance(fault, Reset) and not fault.billed:
        raise Lost
    now_ms, switch = desk.clock.now_ms(), desk.batches.switch
    batch = _Batch(
        batch_id=f"msgbatch_sim_{received.sequence_no:06d}",
        workspace=workspace,
        created_ms=now_ms,
        due_ms=now_ms + switch.processing_ms,
        ends=switch.ends,
        items=body.requests,
    )
    desk.batches.kept[batch.batch_id] = batch
    if isinstance(fault, Reset):
        raise Lost
    return _told(batch)


def _list(desk: Desk, workspace: str, query: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    limit = int(query.get("limit", (str(_PAGE),))[0])
    if not 1 <= limit <= _MOST_A_PAGE:
        raise invalid(f"limit: {limit} is not from 1 to {_MOST_A_PAGE}")
    mine = [batch for batch in desk.batches.kept.values() if batch.workspace == workspace]
    mine.reverse()
    after = query.get("after_id", ("",))[0]
    if after:
        ids = [batch.batch_id for batch in mine]
        mine = mine[ids.index(after) + 1 :] if after in ids else []
    page = [_told(batch) for batch in mine[:limit]]
    return {
        "data": page,
        "has_more": len(mine) > limit,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def _of(desk: Desk, workspace: str, batch_id: str) -> _Batch:
    batch = desk.batches.kept.get(batch_id)
    if batch is None or batch.workspace != workspace:
        raise ApiError(404, f"there is no batch {batch_id!r}")
    return batch


def _results(batch: _Batch) -> list[dict[str, Any]]:
    if batch.ended_ms is None:
        raise ApiError(404, f"the batch {batch.batch_id!r} has no results yet")
    return batch.results


def _cancel(desk: Desk, batch: _Batch) -> dict[str, Any]:
    if batch.ended_ms is None:
        batch.cancelled_ms = desk.clock.now_ms()
        batch.ends = "canceled"
        _process(desk, batch)
        return _told(batch) | {"processing_status": "canceling"}
    return _told(batch)


# ---------------------------------------------------------------------------------- processing


def _process_due(desk: Desk) -> None:
    now_ms = desk.clock.now_ms()
    for batch in desk.batches.kept.values():
        if batch.ended_ms is None and batch.due_ms <= now_ms:
            _process(desk, batch)


def _process(desk: Desk, batch: _Batch) -> None:
    batch.ended_ms = desk.clock.now_ms()
    batch.results = [
        {"custom_id": item.custom_id, "result": _result(desk, batch, item.params)}
        for item in batch.items
    ]


def _result(desk: Desk, batch: _Batch, request: MessagesRequest) -> dict[str, Any]:
    if batch.ends == "errored":
        error = {"type": "api_error", "message": "a fault that was asked for (simulated)"}
        return {"type": "errored", "error": {"type": "error", "error": error}}
    if batch.ends != "succeeded":
        return {"type": batch.ends}
    request = accepted(request)
    now_ms = desk.clock.now_ms()
    with desk.request() as number:
        split = desk.split(request, batch.workspace, now_ms)
        kind = kind_of(request)
        answer = answer_of(
            desk.reply(request, kind),
            max_tokens=request.max_tokens,
            window_left_tokens=MODELS[request.model].window_tokens - split.total_tokens,
            stop_sequences=request.stop_sequences,
        )
        desk.begin(split, now_ms)
        usage = Usage(
            input_tokens=split.input_tokens,
            cache_write_5m_tokens=split.write_5m_tokens,
            cache_write_1h_tokens=split.write_1h_tokens,
            cache_read_tokens=split.read_tokens,
            output_tokens=answer.output_tokens,
        )
        geo = request.inference_geo or "global"
        outcome = Outcome.REFUSED if answer.unbilled else Outcome.COMPLETE
        # Every rate is a multiple of 10,000 pico-dollars, so half of a sum is exact.
        pico = amount_pico_usd(request.model, usage, inference_geo=geo) // 2
        pico = pico if outcome.billed else 0
        message_id = f"msg_sim_{number:06d}"
        desk.bill.add(
            BillLine(
                sequence_no=number,
                request_id=batch.batch_id,
                message_id=message_id,
                endpoint=BATCHES,
                kind=kind,
                model=request.model,
                usage=usage,
                inference_geo=geo,
                amount_pico_usd=pico,
                amount_nano_usd=amount_nano_usd(pico),
                outcome=outcome,
                billed=outcome.billed,
                http_status=200,
                stop_reason=answer.stop_reason,
                user_id=request.metadata.user_id,
                fault="",
                received_ms=batch.created_ms,
                ended_ms=now_ms,
            )
        )
    envelope = Envelope(message_id=message_id, model=request.model, usage=usage, inference_geo=geo)
    return {"type": "succeeded", "message": body_of(answer, envelope)}


def _told(batch: _Batch) -> dict[str, Any]:
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    counts["processing" if batch.ended_ms is None else batch.ends] = len(batch.items)
    ended = batch.ended_ms is not None
    return {
        "id": batch.batch_id,
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": counts,
        "created_at": _iso(batch.created_ms),
        "expires_at": _iso(batch.created_ms + _DAY_MS),
        "ended_at": _iso(batch.ended_ms),
        "cancel_initiated_at": _iso(batch.cancelled_ms),
        "archived_at": None,
        "results_url": f"https://simulated.invalid{BATCHES}/{batch.batch_id}/results"
        if ended
        else None,
    }


def _iso(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    at = dt.datetime.fromtimestamp(at_ms / 1000, tz=dt.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
