"""What a chat completion server's reply means: an answer of the student, or a fault of its server.

Rule: only what the model itself produced is an answer. Whatever else comes back (a status, an error
in a 200, a body that is no completion) is a fault, and no text is made up in place of a missing one.
"""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from worker.core.values import RunOutcome
from worker.errors import StudentFault
from worker.ports import StudentAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

__all__ = ["read_answer", "read_retry_after_ms", "read_status"]

#: How much of a server's own words goes into an error.
_EXCERPT_CHARS = 200
#: Longer waits than a day are a server's mistake; the caller has limits of its own.
_LONGEST_WAIT_MS = 86_400_000
#: Client errors that pass by themselves: the server gave up waiting, or is not up yet.
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}
#: Whose bodies may quote the key.
_ABOUT_KEYS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
#: OpenAI's code for an account without money: a 429 that no waiting cures.
_NO_MONEY = "insufficient_quota"


def read_status(status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Return for a success.

    Args:
        status: The HTTP status.
        headers: The reply's headers, with lower-case names.
        body: The reply's body, or its beginning.

    Raises:
        StudentFault: Any other status, sorted by whether the same request may succeed later.
    """
    if 200 <= status < 300:  # noqa: PLR2004 - the class of successes
        return
    reason, retryable = _sort(status, _error(body))
    said = "" if status in _ABOUT_KEYS else _excerpt(body)
    raise StudentFault(
        f"The student's server answered with HTTP {status}{said and f': {said!r}'}. {_cure(status)}",
        reason=reason,
        retryable=retryable,
        retry_after_ms=read_retry_after_ms(headers),
        status=status,
    )


def read_answer(body: bytes, *, latency_ms: int, status: int = 200) -> StudentAnswer:
    """Return what the student said.

    Null or empty content is an empty answer, also where the tokens ran out before any content came.
    Tool calls and refusals are what the student said: the calls are kept as JSON text.

    Raises:
        StudentFault: The body is not a chat completion.
    """
    completion = _object(body, status)
    choice = _first(completion.get("choices"))
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        raise _bad_body(f"is no chat completion: {_excerpt(body)!r}", status)
    content = _content(cast("dict[str, Any]", message), status)
    finish_reason = _text(choice.get("finish_reason"))
    return StudentAnswer(
        outcome=_outcome(content, finish_reason),
        content=content,
        prompt_tokens=_tokens(completion, "prompt_tokens"),
        completion_tokens=_tokens(completion, "completion_tokens"),
        latency_ms=latency_ms,
        finish_reason=finish_reason,
        response_id=_text(completion.get("id")),
        model=_text(completion.get("model")),
    )


def read_retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Return how long the server asks us to wait, None where it does not say.

    `retry-after-ms`, and `retry-after` in seconds or as a date; a date is counted from the reply's
    own date, so no clock of ours is asked.
    """
    for name, unit_ms in (("retry-after-ms", 1), ("retry-after", 1000)):
        said = headers.get(name, "").strip()
        wait_ms = _milliseconds(said, unit_ms)
        if wait_ms is None and said and unit_ms != 1:
            wait_ms = _until(said, headers.get("date", ""))
        if wait_ms is not None:
            return max(0, min(wait_ms, _LONGEST_WAIT_MS))
    return None


def _sort(status: int, error: Mapping[str, Any]) -> tuple[str, bool]:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limited", error.get("code") != _NO_MONEY
    if status in _PASSING:
        return "server_error", True
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error", status != HTTPStatus.NOT_IMPLEMENTED
    return "refused", False


def _cure(status: int) -> str:
    match status:
        case 401 | 403:
            return "Check the `api_key` of this student in the settings."
        case 404:
            return "Check the `base_url` (it ends with /v1) and `model` of this student."
        case _ if 300 <= status < 400:  # noqa: PLR2004 - the class of redirects
            return "Redirects are not followed: set this student's `base_url` to the new address."
        case 429:
            return "The server is busy, or the account has reached its limit."
        case _ if status >= 500:  # noqa: PLR2004 - the class of servers' errors
            return "See the log of the student's server."
        case _:
            return "The request itself was refused: check this student's settings and the task."


def _object(body: bytes, status: int) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise _bad_body(f"is not JSON ({type(exc).__name__}): {_excerpt(body)!r}", status) from exc
    if not isinstance(found, dict):
        raise _bad_body(f"is not a JSON object: {_excerpt(body)!r}", status)
    return cast("dict[str, Any]", found)


def _bad_body(what: str, status: int) -> StudentFault:
    return StudentFault(
        f"The body of the student's server {what}.",
        reason="bad_body",
        retryable=True,
        status=status,
    )


def _first(choices: object) -> dict[str, Any] | None:
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return cast("dict[str, Any]", choices[0])
    return None


def _content(message: dict[str, Any], status: int) -> str | None:
    """Return all that the student said, None for nothing but blanks."""
    said = [_written(message.get("content"), status), _written(message.get("refusal"), status)]
    if calls := message.get("tool_calls") or message.get("function_call"):
        said.append(json.dumps(calls, ensure_ascii=False))
    text = _storable("\n".join(part for part in said if part))
    return text if text.strip() else None


def _written(content: object, status: int) -> str:
    """Return a text that is whole or comes as a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = cast("list[object]", content)
        texts = [
            cast("dict[str, Any]", part).get("text") for part in parts if isinstance(part, dict)
        ]
        return "".join(text for text in texts if isinstance(text, str))
    raise _bad_body(f"holds content of type {type(content).__name__!r}, not text", status)


def _outcome(content: str | None, finish_reason: str) -> RunOutcome:
    if content is None:
        return RunOutcome.EMPTY
    return RunOutcome.CUT if finish_reason == "length" else RunOutcome.ANSWERED


def _storable(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _text(value: object) -> str:
    return _storable(value) if isinstance(value, str) else ""


def _tokens(completion: dict[str, Any], name: str) -> int:
    usage = completion.get("usage")
    count = cast("dict[str, Any]", usage).get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0


def _error(body: bytes) -> dict[str, Any]:
    """Return the `error` object of a body, empty where there is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    error = cast("dict[str, Any]", found).get("error") if isinstance(found, dict) else None
    return cast("dict[str, Any]", error) if isinstance(error, dict) else {}


def _excerpt(body: bytes) -> str:
    message = _error(body).get("message")
    text = message if isinstance(message, str) else body[:_EXCERPT_CHARS].decode(errors="replace")
    return _storable(" ".join(text.split()))[:_EXCERPT_CHARS]


def _milliseconds(said: str, unit_ms: int) -> int | None:
    try:
        wait = float(said) * unit_ms
    except ValueError:
        return None
    return int(wait) if abs(wait) < float("inf") else None


def _until(date: str, now: str) -> int | None:
    try:
        wait: timedelta = parsedate_to_datetime(date) - parsedate_to_datetime(now)
    except (ValueError, TypeError):  # no date, or one with a time zone and one without
        return None
    return int(wait.total_seconds() * 1000)
