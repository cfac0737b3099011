"""The diagnose request: what a scheduler sends.

Rule: ids, names and small numbers only; never a URL of a model, never a key. Unknown fields and
versions are refused with a message that names the field.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated, Any, Literal, cast

import pydantic
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from worker.errors import RequestInvalid, UnknownVersion

__all__ = ["REQUEST_VERSION", "DiagnoseRequest", "RequestLimits", "parse_request"]

REQUEST_VERSION = 1
#: A request larger than this is refused unread: messages carry ids.
MAX_REQUEST_BYTES = 64_000

#: Session, tenant and campaign ids become parts of keys and paths.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
#: Names of students, teachers and judges in the worker's settings.
Reference = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
#: A content-addressed bundle, as `diagnosis enqueue` uploaded it.
BundleUri = Annotated[
    str, StringConstraints(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,62}/bundles/[0-9a-f]{64}\.tar\.gz$")
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RequestLimits(_Strict):
    """What the session may use; whichever is reached first ends the exploration."""

    max_turns: int = Field(30, ge=1, le=200)
    max_tool_calls: int = Field(150, ge=1, le=2_000)
    max_student_runs: int = Field(500, ge=0, le=10_000)
    #: US dollars; exact to a nano-dollar.
    max_cost_usd: Decimal = Field(Decimal(5), gt=0, le=1_000, max_digits=13, decimal_places=9)
    max_duration_s: int = Field(3_600, ge=10, le=86_400)


class DiagnoseRequest(_Strict):
    """One diagnose session, version 1."""

    version: Literal[1] = REQUEST_VERSION
    session_id: Name
    bundle: BundleUri
    student: Reference = "default"
    teacher: Reference = "default"
    judge: Reference = "default"
    tenant: Name = "default"
    campaign: Name = "default"
    limits: RequestLimits = Field(default_factory=lambda: RequestLimits.model_validate({}))
    #: What asked for the session: `nightly`, `manual`, `regression`, …
    trigger: str = Field("manual", max_length=100)
    #: Traces that somebody flagged; the teacher is told to look at them first.
    flagged_trace_ids: tuple[Annotated[str, Field(max_length=200)], ...] = Field((), max_length=200)
    #: Whether the teacher may see the benchmark's reference answers.
    reveal_references: bool = False
    #: The night the session belongs to, for reports.
    date: dt.date | None = None

    @property
    def max_cost_nusd(self) -> int:
        """The session's cap in nano-dollars."""
        return int(self.limits.max_cost_usd * 1_000_000_000)


def parse_request(raw: object, *, default_id: str | None = None) -> DiagnoseRequest:
    """Return the request in a message.

    `default_id` is the session id of a request that names none.

    Raises:
        UnknownVersion: A newer scheduler wrote it.
        RequestInvalid: A field is wrong; the message names each one with its value.
    """
    fields = _object(raw)
    if default_id is not None:
        fields = {"session_id": default_id, **fields}
    version = fields.get("version", REQUEST_VERSION)
    if version != REQUEST_VERSION:
        raise UnknownVersion(
            f"version: {version!r} is not known to this worker (it speaks {REQUEST_VERSION}): "
            "upgrade the worker or enqueue with the older client",
            field="version",
            value=repr(version)[:100],
        )
    try:
        return DiagnoseRequest.model_validate(fields)
    except pydantic.ValidationError as exc:
        raise RequestInvalid(_explain(exc), fields=[_path(e["loc"]) for e in exc.errors()]) from exc


def _object(raw: object) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise RequestInvalid(
            f"a diagnose request is a JSON object, not {type(raw).__name__}: "
            "send {'version': 1, 'session_id': …, 'bundle': …}"
        )
    size = len(repr(cast("object", raw)))
    if size > MAX_REQUEST_BYTES:
        raise RequestInvalid(
            f"the request has {size} characters and may have {MAX_REQUEST_BYTES}: "
            "messages carry ids; put data into the bundle",
            size=size,
        )
    return cast("dict[str, Any]", raw)


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "request"


def _explain(exc: pydantic.ValidationError) -> str:
    """Return one line a field: its name, what is wrong and the value."""
    lines = [
        f"{_path(error['loc'])}: {error['msg']} (it was {error['input']!r:.100})"
        for error in exc.errors(include_url=False, include_context=False)[:10]
    ]
    return "; ".join(lines)
