"""What a failed call to the teacher's API means: was it billed, and is it worth trying again.

Rule: a call counts as unbilled only where that is proven: by a status that refuses the request, or
because no byte of it was sent. Everything else is `unknown` and will be charged at its bound.

| what happened                                                | billing  | again                 |
|--------------------------------------------------------------|----------|-----------------------|
| no byte was sent (no route, no name, no TLS)                 | unbilled | later                 |
| the request cannot be written as JSON                        | unbilled | never                 |
| 400 404 413 422                                              | unbilled | never                 |
| 401 402 403; any status that names a spend limit             | unbilled | stop                  |
| 429 529                                                      | unbilled | later                 |
| 408 409 500 502 503 504 and other 5xx                        | unknown  | later                 |
| other statuses                                               | unknown  | never                 |
| time-out, reset or cut after bytes were sent, broken events  | unknown  | later                 |
| an `error` event within the stream                           | unknown  | as its type says      |
| the caller wanted it to end                                  | unknown  | later                 |
| an answer of another kind (a web page), or without end       | unknown  | never                 |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from worker.errors import TeacherFault

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Failure", "What", "retry_after_ms", "teacher_fault"]

Retry = Literal["later", "never", "stop"]
Pushback = Literal["", "rate", "ramp", "overload", "spend"]


class What(StrEnum):
    """How a call failed."""

    #: The connection could not be made.
    CONNECT = "connect"
    #: The request cannot be written down.
    UNSENDABLE = "unsendable"
    #: An HTTP status that is not 200.
    STATUS = "status"
    #: Too long in all, or silent for too long.
    TIMEOUT = "timeout"
    #: The connection ended before the reply did.
    CUT = "cut"
    #: An `error` event after a good status.
    ERROR_EVENT = "error_event"
    #: Events that cannot be read, or in an order that makes no message.
    BROKEN = "broken"
    #: The caller's `stopped` said so.
    STOPPED = "stopped"
    #: A good status, but no event stream.
    NOT_A_STREAM = "not_a_stream"
    #: More bytes than any reply has.
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is known of a failed call."""

    what: What
    #: What was said about it: by the provider, or by the network. Holds no secret.
    detail: str
    #: False: it is certain that no byte of the request left this machine.
    sent: bool = True
    status: int | None = None
    #: The provider's `error.type`.
    error_type: str = ""
    #: The provider's `error.details.error_code`.
    error_code: str = ""
    retry_after_ms: int | None = None
    request_id: str | None = None


#: "Request not processed", as a status.
_UNBILLED_STATUSES = frozenset({400, 401, 402, 403, 404, 413, 422, 429, 529})
_STOP_STATUSES = frozenset({401, 402, 403})
_LATER_STATUSES = frozenset({408, 409, 429})
_SERVER_ERROR = 500

#: Too many for the rate; grown too fast; too much for the provider.
_RATE_STATUS = 429
_RAMP_CODE = "ramp_limit_exceeded"
_FULL_STATUSES = frozenset({503, 504, 529})
_FULL_TYPES = frozenset({"overloaded_error", "timeout_error"})

_STOP_TYPES = frozenset({"authentication_error", "billing_error", "permission_error"})
_NEVER_TYPES = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})
_STOP_CODES = frozenset(
    {
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "linked_organization_spend_limit_reached",
        "organization_on_hold",
    }
)
#: An own spend limit has no code, only these words in a 400.
_SPEND_WORDS = re.compile(
    r"reached your specified .{0,40}usage limits|credit balance is too low", re.IGNORECASE
)

_RETRY: Mapping[What, Retry] = {
    What.CONNECT: "later",
    What.UNSENDABLE: "never",
    What.TIMEOUT: "later",
    What.CUT: "later",
    What.BROKEN: "later",
    What.STOPPED: "later",
    What.NOT_A_STREAM: "never",
    What.TOO_LARGE: "never",
}

_SAID: Mapping[What, str] = {
    What.CONNECT: "could not be reached",
    What.UNSENDABLE: "was not asked: the request cannot be written as JSON",
    What.TIMEOUT: "did not answer in time",
    What.CUT: "broke off",
    What.ERROR_EVENT: "broke off with an error",
    What.BROKEN: "sent events that cannot be read",
    What.STOPPED: "was stopped by us",
    What.NOT_A_STREAM: "sent something else than an event stream; check its base_url",
    What.TOO_LARGE: "sent more than any reply has; check its base_url",
}
_STOP_CURE = "Check the key, its permissions, and the spend limits and credit of the account."
_DETAIL_CHARS = 500


def teacher_fault(failure: Failure) -> TeacherFault:
    """Return the fault that a failed call is, as the table above says."""
    retry = _retry(failure)
    said = _SAID.get(failure.what) or f"answered with status {failure.status}"
    kind = failure.error_code or failure.error_type
    message = f"The teacher's API {said}{f' ({kind})' if kind else ''}: "
    message += failure.detail.strip()[:_DETAIL_CHARS].rstrip(".") or "nothing more was said"
    return TeacherFault(
        f"{message}. {_STOP_CURE}" if retry == "stop" else message,
        billing="unbilled" if _is_unbilled(failure) else "unknown",
        retry=retry,
        retry_after_ms=failure.retry_after_ms,
        status=failure.status,
        request_id=failure.request_id,
        pushback=_pushback(failure),
    )


def _pushback(failure: Failure) -> Pushback:
    """Return what the failure says about the provider's load, or about the account."""
    if _is_spend_stop(failure):
        return "spend"
    if failure.error_code == _RAMP_CODE:
        return "ramp"
    if failure.status == _RATE_STATUS or failure.error_type == "rate_limit_error":
        return "rate"
    full = failure.status in _FULL_STATUSES or failure.error_type in _FULL_TYPES
    return "overload" if full else ""


def _is_unbilled(failure: Failure) -> bool:
    if failure.what is What.STATUS:
        return failure.status in _UNBILLED_STATUSES
    return not failure.sent


def _retry(failure: Failure) -> Retry:
    if _is_spend_stop(failure):
        return "stop"
    match failure.what:
        case What.STATUS:
            return _retry_of_status(failure.status or 0)
        case What.ERROR_EVENT:
            return _retry_of_type(failure.error_type)
        case _:
            return _RETRY[failure.what]


def _is_spend_stop(failure: Failure) -> bool:
    if failure.what not in {What.STATUS, What.ERROR_EVENT}:
        return False
    if failure.error_code in _STOP_CODES or failure.error_type == "billing_error":
        return True
    return failure.status in {400, None} and _SPEND_WORDS.search(failure.detail) is not None


def _retry_of_status(status: int) -> Retry:
    if status in _STOP_STATUSES:
        return "stop"
    return "later" if status in _LATER_STATUSES or status >= _SERVER_ERROR else "never"


def _retry_of_type(error_type: str) -> Retry:
    if error_type in _STOP_TYPES:
        return "stop"
    return "never" if error_type in _NEVER_TYPES else "later"


# ------------------------------------------------------------------------------------ retry-after

_SECONDS = re.compile(r"\d{1,7}(\.\d{1,9})?", re.ASCII)
_HTTP_DATE = re.compile(
    r"[A-Z][a-z]{2}, (\d{2}) ([A-Z][a-z]{2}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) GMT",
    re.ASCII,
)
_MONTHS: list[str] = [
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
]


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Return how long the server asks to wait, None where it does not say so or not readably.

    A date is taken relative to the server's own `date` header, so that no clock of ours matters.

    Args:
        headers: Of the response, names in lower case.
    """
    exact = headers.get("retry-after-ms", "").strip()
    if _SECONDS.fullmatch(exact):
        return round(float(exact))
    said = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(said):
        return round(float(said) * 1000)
    until, now = _epoch_s(said), _epoch_s(headers.get("date", "").strip())
    return None if until is None or now is None else max(until - now, 0) * 1000


def _epoch_s(date: str) -> int | None:
    """Return the seconds since 1970 of an HTTP date, None where it is none."""
    found = _HTTP_DATE.fullmatch(date)
    if found is None or found[2] not in _MONTHS:
        return None
    day, year, hour, minute, second = (int(found[group]) for group in (1, 3, 4, 5, 6))
    days = _days_before(year, _MONTHS.index(found[2]) + 1) + day - 1
    return ((days * 24 + hour) * 60 + minute) * 60 + second


def _days_before(year: int, month: int) -> int:
    """Return the days from 1970-01-01 to the first of a month, by the Gregorian rule.

    Years are counted from March, so that the leap day is the last of its year.
    """
    from_march, years = (month - 3) % 12, year - (month < 3)  # noqa: PLR2004 - March
    leap_days = years // 4 - years // 100 + years // 400
    return years * 365 + leap_days + (from_march * 153 + 2) // 5 - 719_468
