"""The simulator's own endpoints, under `/_sim`: what tests read and switch.

Rule: the provider has none of these; a client that speaks to the provider never calls them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.embedded.teacher.api_error import ApiError, invalid
from worker.embedded.teacher.batches import BatchSwitch, kept_batches
from worker.embedded.teacher.faults import FaultList
from worker.embedded.teacher.limits import BucketLimits
from worker.embedded.teacher.script import ScriptBody
from worker.embedded.teacher.wire import Shape, read_json, read_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker.embedded.teacher.desk import Desk

__all__ = ["answer_control"]

_PARTS = frozenset({"bill", "cache", "faults", "limits", "log", "script"})


class _ResetBody(Shape):
    #: What to forget; None for everything.
    only: list[str] | None = None


def answer_control(desk: Desk, method: str, path: str, body: bytes) -> dict[str, Any]:
    """Return the JSON answer to a request for one of our own endpoints.

    Raises:
        ApiError: There is no such endpoint (404), or its body is wrong (400).
    """
    endpoint = _ENDPOINTS.get((method, path))
    if endpoint is None:
        known = ", ".join(f"{verb} {name}" for verb, name in _ENDPOINTS)
        raise ApiError(404, f"{method} {path} is not an endpoint; there are: {known}")
    return endpoint(desk, body)


def _health(desk: Desk, body: bytes) -> dict[str, Any]:
    del body
    return {"status": "ok", "simulated": True, "open_requests": desk.open_requests}


def _bill(desk: Desk, body: bytes) -> dict[str, Any]:
    del body
    # Asked before the lines: a request that ends in between is then on the bill and still counted
    # as open, never missing from both.
    still_open = desk.open_requests
    lines = desk.bill.lines()
    return {
        "entries": [line.as_json() for line in lines],
        "open_requests": still_open,
        "total_nano_usd": sum(line.amount_nano_usd for line in lines),
        "total_pico_usd": sum(line.amount_pico_usd for line in lines),
    }


def _log(desk: Desk, body: bytes) -> dict[str, Any]:
    del body
    return desk.log.as_json() | {"crashes": list(desk.crashes)}


def _faults(desk: Desk, body: bytes) -> dict[str, Any]:
    del body
    return {"faults": [fault.model_dump(mode="json") for fault in desk.faults.waiting()]}


def _add_faults(desk: Desk, body: bytes) -> dict[str, Any]:
    desk.faults.add(*read_shape(FaultList, read_json(body)).faults)
    return _faults(desk, b"")


def _limits(desk: Desk, body: bytes) -> dict[str, Any]:
    del body
    return desk.buckets.as_json()


def _set_limits(desk: Desk, body: bytes) -> dict[str, Any]:
    desk.buckets.set(read_shape(BucketLimits, read_json(body)))
    return _limits(desk, b"")


def _batches(desk: Desk, body: bytes) -> dict[str, Any]:
    del body
    return kept_batches(desk)


def _switch_batches(desk: Desk, body: bytes) -> dict[str, Any]:
    desk.batches.switch = read_shape(BatchSwitch, read_json(body))
    return _batches(desk, b"")


def _script(desk: Desk, body: bytes) -> dict[str, Any]:
    del body
    return {"left": desk.script.left, "overruns": desk.script.overruns}


def _play_script(desk: Desk, body: bytes) -> dict[str, Any]:
    desk.script.play(read_shape(ScriptBody, read_json(body)))
    return _script(desk, b"")


def _reset(desk: Desk, body: bytes) -> dict[str, Any]:
    only = read_shape(_ResetBody, read_json(body or b"{}")).only
    what = _PARTS if only is None else frozenset(only)
    if not what <= _PARTS:
        raise invalid(f"only: unknown {sorted(what - _PARTS)!r}; there are {sorted(_PARTS)!r}")
    desk.reset(what)
    return {"forgot": sorted(what)}


_ENDPOINTS: Mapping[tuple[str, str], Callable[[Desk, bytes], dict[str, Any]]] = {
    ("GET", "/health"): _health,
    ("GET", "/_sim/bill"): _bill,
    ("GET", "/_sim/log"): _log,
    ("GET", "/_sim/faults"): _faults,
    ("POST", "/_sim/faults"): _add_faults,
    ("GET", "/_sim/limits"): _limits,
    ("POST", "/_sim/limits"): _set_limits,
    ("GET", "/_sim/batches"): _batches,
    ("POST", "/_sim/batches"): _switch_batches,
    ("GET", "/_sim/script"): _script,
    ("GET", "/_sim/script_overrun"): _script,
    ("POST", "/_sim/script"): _play_script,
    ("POST", "/_sim/reset"): _reset,
}
