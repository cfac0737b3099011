"""Every error of the project, sorted by what the caller should do.

Rule: an error says what was wrong, with the value; what to do; and it carries its facts as
fields, so that nobody has to parse a message. All of them survive pickling.

* fix the input: `BadInput` and its children
* fix the settings or the machine: `Misconfigured`
* wait and try again: `Unavailable`
* a bug, or a journal of another version: `IllegalEvent`, `UnknownVersion`
* money said no: `BudgetDenied`
* somebody else's server has no room for us now: `RateLimited`
"""

from __future__ import annotations

from typing import Any, Literal

__all__ = [
    "BadInput",
    "BudgetDenied",
    "BundleInvalid",
    "Cancelled",
    "DiagnosisError",
    "IllegalEvent",
    "InBatch",
    "LeaseLost",
    "Misconfigured",
    "NotYet",
    "RateLimited",
    "RequestInvalid",
    "StillWaiting",
    "StudentFault",
    "TeacherFault",
    "Unavailable",
    "UnknownModel",
    "UnknownVersion",
]


class DiagnosisError(Exception):
    """The root: `except DiagnosisError` catches all that this project raises on purpose."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        #: What the message was made from, by name: values, limits, ids.
        self.facts: dict[str, Any] = facts

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.facts))


def _rebuild(cls: type[DiagnosisError], message: str, facts: dict[str, Any]) -> DiagnosisError:
    error = cls.__new__(cls)
    DiagnosisError.__init__(error, message, **facts)
    error.__dict__.update(facts)
    return error


class BadInput(DiagnosisError):
    """Something that came from outside is wrong. Cure: change it as the message says."""


class RequestInvalid(BadInput):
    """A diagnose request was refused. Cure: the message names the field; enqueue it corrected."""


class BundleInvalid(BadInput):
    """A bundle, or the home it is made from, cannot be used. Cure: as the message says."""


class UnknownModel(BadInput):
    """A model without a price. Cure: add it to `worker/core/prices.py`, or name another one."""


class UnknownVersion(BadInput):
    """A message or record of a version this process does not know. Cure: upgrade the worker.

    The message is kept (its step stays due), so a newer worker can take it.
    """


class Misconfigured(DiagnosisError):
    """Settings or servers break a promise. Cure: in the message; `diagnosis doctor` lists all."""


class IllegalEvent(DiagnosisError):
    """An event that the transition table does not allow. Nothing changed. Always a bug."""


class Unavailable(DiagnosisError):
    """A server of ours (Redis, S3) did not answer. Cure: wait; everything is kept."""


class LeaseLost(DiagnosisError):
    """The step went to another worker, which goes on with it. Cure: drop the work, commit nothing."""


class NotYet(DiagnosisError):
    """Something must end first (a paid call under way). Cure: none needed; it is tried again."""


class InBatch(NotYet):
    """A call is in a batch of the provider. Cure: none needed; it is asked about again.

    Attributes:
        retry_after_ms: When it is worth asking.
    """

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.retry_after_ms = retry_after_ms


class RateLimited(DiagnosisError):
    """A call has to wait for its server's rate or room. Cure: none needed; it is tried again.

    Attributes:
        retry_after_ms: When it may be its turn.
        why: What it waits for: `requests`, `input tokens`, `output tokens`, `slots` or `pause`.
    """

    def __init__(self, message: str, *, retry_after_ms: int, why: str) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms, why=why)
        self.retry_after_ms = retry_after_ms
        self.why = why


class StillWaiting(DiagnosisError):
    """What a pause waits for is not there yet. Cure: none needed; it is looked at again.

    Attributes:
        left_ms: How much longer the session may wait.
    """

    def __init__(self, message: str, *, left_ms: int) -> None:
        super().__init__(message, left_ms=left_ms)
        self.left_ms = left_ms


class Cancelled(DiagnosisError):
    """The session was cancelled while the step ran. Cure: stop; the session concludes by itself."""


class BudgetDenied(DiagnosisError):
    """A reservation did not fit. Cure: a smaller call, a higher cap (`diagnosis budget set`).

    Attributes:
        scope: The account that said no.
        free_nusd: What it had left, in nano-dollars.
        why: `cap`, `frozen`, `killed`, `closed` or `no_account`.
        amount_nusd: What was asked for; 0 where it was to be sent, and not to be held.
    """

    def __init__(
        self, message: str, *, scope: str, free_nusd: int, why: str, amount_nusd: int = 0
    ) -> None:
        super().__init__(
            message, scope=scope, free_nusd=free_nusd, why=why, amount_nusd=amount_nusd
        )
        self.scope = scope
        self.free_nusd = free_nusd
        self.why = why
        self.amount_nusd = amount_nusd


class TeacherFault(DiagnosisError):
    """A call to the teacher's API failed.

    Attributes:
        billing: What the provider did with it: `unbilled` (proven by the status, or no byte was
            sent) or `unknown` (it may have been billed: charged at its bound).
        retry: `later` (try the same again), `never` (the request itself is refused) or
            `stop` (the key or account is refused: spend limit, bad credentials).
        retry_after_ms: The server's own word, None where it said nothing.
        status: HTTP status, None where there was no answer.
        request_id: The provider's request id, None where there was no answer.
        pushback: What the answer says about load: `rate` (a limit a minute), `ramp` (we grew too
            fast), `overload` (the provider has too much), `spend` (the account pays no more), or
            nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        billing: Literal["unbilled", "unknown"],
        retry: Literal["later", "never", "stop"],
        retry_after_ms: int | None = None,
        status: int | None = None,
        request_id: str | None = None,
        pushback: Literal["", "rate", "ramp", "overload", "spend"] = "",
    ) -> None:
        super().__init__(
            message,
            billing=billing,
            retry=retry,
            retry_after_ms=retry_after_ms,
            status=status,
            request_id=request_id,
            pushback=pushback,
        )
        self.billing: Literal["unbilled", "unknown"] = billing
        self.retry: Literal["later", "never", "stop"] = retry
        self.retry_after_ms = retry_after_ms
        self.status = status
        self.request_id = request_id
        self.pushback: Literal["", "rate", "ramp", "overload", "spend"] = pushback


class StudentFault(DiagnosisError):
    """The student's server failed. Never the student's answer, never in a denominator.

    Attributes:
        reason: A short constant: `timeout`, `connect`, `rate_limited`, `server_error`,
            `bad_body`, `too_large`, `refused`.
        retryable: Whether the same request may succeed later.
        retry_after_ms: The server's own word, None where it said nothing.
        status: HTTP status, None where there was no answer.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        retryable: bool,
        retry_after_ms: int | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(
            message,
            reason=reason,
            retryable=retryable,
            retry_after_ms=retry_after_ms,
            status=status,
        )
        self.reason = reason
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.status = status
