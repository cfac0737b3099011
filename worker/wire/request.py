"""The diagnose request: what a scheduler sends.

Rule: ids, names and small numbers only; never a URL of a model, never a key. Unknown fields and
versions are refused with a message that names the field.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from worker.errors import RequestInvalid, UnknownVersion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

__all__ = ["REQUEST_VERSION", "DiagnoseRequest", "ForkRequest", "RequestLimits", "parse_request"]

REQUEST_VERSION = 1
#: A request larger than this is refused unread: messages carry ids.
MAX_REQUEST_BYTES = 64_000

#: How much of a wrong value an error shows, and how many wrong fields.
_SHOWN_CHARS = 100
_SHOWN_FIELDS = 10

_NAME = r"^[a-z0-9](?:\.?[a-z0-9_-])*$"
_REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_BUNDLE = r"^s3://[a-z0-9][a-z0-9.-]{1,62}/bundles/[0-9a-f]{64}\.tar\.gz$"
_STEP = r"^[a-z]+(?:/[0-9]{1,5}(?:\.[0-9]{1,5}){0,2})?$"
_LINE = r"^[^\p{Cc}\p{Zl}\p{Zp}]*$"

#: Pattern -> what it asks for, in words.
_WANTED: Mapping[str, str] = {
    _NAME: "it takes a-z, 0-9, '_', '-' and single dots, and begins with a letter or digit",
    _REFERENCE: "it takes letters, digits, '.', '_' and '-': a name in the workers' settings",
    _BUNDLE: "it reads 's3://<bucket>/bundles/<sha256>.tar.gz': `diagnosis enqueue --home DIR` "
    "makes one",
    _STEP: "it is a step's id, such as 'call/3.0'",
    _LINE: "it is one line without control characters",
}

#: Session, tenant and campaign ids become parts of keys and paths.
Name = Annotated[str, StringConstraints(pattern=_NAME, max_length=100)]
#: Names of students, teachers and judges in the worker's settings.
Reference = Annotated[str, StringConstraints(pattern=_REFERENCE, max_length=100)]
#: A content-addressed bundle, as `diagnosis enqueue` uploaded it.
BundleUri = Annotated[str, StringConstraints(pattern=_BUNDLE)]
#: Words that stand in reports and in the teacher's brief.
Line = Annotated[str, StringConstraints(pattern=_LINE)]


def _written(value: object) -> object:
    """Return a date that is written as one; a bare number would be read as seconds since 1970."""
    if isinstance(value, str | dt.date):
        return value
    raise ValueError("a date is written YYYY-MM-DD")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RequestLimits(_Strict):
    """What the session may use; whichever is reached first ends the exploration."""

    max_turns: int = Field(30, ge=1, le=200, strict=True)
    max_tool_calls: int = Field(150, ge=1, le=2_000, strict=True)
    max_student_runs: int = Field(500, ge=0, le=10_000, strict=True)
    #: US dollars; exact to a nano-dollar.
    max_cost_usd: Decimal = Field(Decimal(5), gt=0, le=1_000, max_digits=13, decimal_places=9)
    #: Without the time for which the session stands still.
    max_duration_s: int = Field(3_600, ge=10, le=86_400, strict=True)
    #: Tool calls of one turn that may be under way at once; the others wait, and hold no slot.
    max_parallel_calls: int = Field(16, ge=1, le=1_000, strict=True)
    #: Student runs of the session, each with its judging, that may be under way at once.
    max_parallel_runs: int = Field(64, ge=1, le=10_000, strict=True)
    #: Longest time at a stretch for which it may stand still: for money, a decision or its start.
    max_pause_s: int = Field(86_400, ge=1, le=1_209_600, strict=True)


#: A step of a session, as its journal names it.
StepId = Annotated[str, StringConstraints(pattern=_STEP, max_length=40)]


class ForkRequest(_Strict):
    """A session to begin from, and how much of it."""

    session_id: Name
    #: The last turn that is taken over; 0 takes the bundle alone, None all but the end.
    at_turn: int | None = Field(None, ge=0, le=200, strict=True)
    #: Steps that are left out and done again.
    without: tuple[StepId, ...] = Field((), max_length=10)


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
    trigger: Line = Field("manual", max_length=100)
    #: Traces that somebody flagged; the teacher is told to look at them first.
    flagged_trace_ids: tuple[Annotated[Line, Field(max_length=200)], ...] = Field(
        (), max_length=200
    )
    #: Whether the teacher may see the benchmark's reference answers.
    reveal_references: bool = Field(False, strict=True)
    #: The night the session belongs to, for reports.
    date: Annotated[dt.date, BeforeValidator(_written)] | None = None
    #: What a paid call that finds too little money leads to: the closing call, or a pause until
    #: there is more. None takes the workers' setting.
    when_money_lacks: Literal["conclude", "pause"] | None = None
    #: Where its accounts cannot carry what it is expected to cost: it starts all the same, waits
    #: for its start, or is refused. None takes the workers' setting.
    when_funds_lack: Literal["start", "wait", "refuse"] | None = None
    #: Whether it can wait for judgements and the extraction, up to a day each, at half the price.
    #: None takes the workers' setting.
    batches: bool | None = Field(None, strict=True)
    #: Begins with a part of another session's journal; the bundle must be that session's.
    fork: ForkRequest | None = None

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
    # `True` and `1.0` equal 1, and are no version that anybody has written.
    if type(version) is not int or version != REQUEST_VERSION:
        raise UnknownVersion(
            f"version: {_shown(version)} is not known to this worker (it speaks "
            f"{REQUEST_VERSION}): upgrade the worker or enqueue with the older client",
            field="version",
            value=_shown(version),
        )
    try:
        return DiagnoseRequest.model_validate(fields)
    except pydantic.ValidationError as exc:
        raise RequestInvalid(_explain(exc), fields=[_path(e["loc"]) for e in exc.errors()]) from exc


def _object(raw: object) -> dict[str, Any]:
    """Return the request as an object of a size that can be a request.

    Raises:
        RequestInvalid: It is none.
    """
    if not isinstance(raw, dict):
        raise RequestInvalid(
            f"a diagnose request is a JSON object, not {type(raw).__name__}: "
            "send {'version': 1, 'session_id': …, 'bundle': …}"
        )
    size = _size(cast("object", raw))
    if size is None or size > MAX_REQUEST_BYTES:
        raise RequestInvalid(
            f"the request has {size or 'countless'} characters and may have {MAX_REQUEST_BYTES}: "
            "messages carry ids; put data into the bundle",
            size=size,
        )
    return cast("dict[str, Any]", raw)


def _size(raw: object) -> int | None:
    """Return the length of a value as text; None for one that cannot be written down."""
    try:
        return len(repr(raw))
    except (RecursionError, ValueError):
        return None


def _path(location: tuple[int | str, ...]) -> str:
    """Return a field's name; of an unknown field it is the sender's word, cut and made printable."""
    name = ".".join(str(part) for part in location) or "request"
    return name if name.isprintable() and len(name) <= _SHOWN_CHARS else _shown(name)


def _explain(exc: pydantic.ValidationError) -> str:
    """Return what is wrong with each field: its name, the value and what it takes."""
    errors = exc.errors(include_url=False)
    lines = [f"{_path(error['loc'])}: {_problem(error)}" for error in errors[:_SHOWN_FIELDS]]
    more = len(errors) - _SHOWN_FIELDS
    return "; ".join([*lines, *([f"and {more} more"] if more > 0 else [])])


def _problem(error: ErrorDetails) -> str:
    shown = _shown(error["input"])
    match error["type"]:
        case "missing":
            return "is missing, and a request must have it"
        case "extra_forbidden":
            return f"is no field of a version {REQUEST_VERSION} request (it was {shown})"
        case "string_pattern_mismatch":
            return f"{shown} cannot be used: {_WANTED[error.get('ctx', {})['pattern']]}"
        case "model_type":
            return f"{shown} is no JSON object of limits"
        case _:
            return f"{error['msg']} (it was {shown})"


def _shown(value: object) -> str:
    """Return a value as it may stand in a message: short, and printable."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
