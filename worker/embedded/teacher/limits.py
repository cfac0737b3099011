"""Token buckets as the provider keeps them, and the headers that tell of them.

Rule: without a limit that a test or an option has set the buckets are always full. Requests and input
are taken when a request begins, what a cache has read is free; output is taken when it was given, so
that its bucket may be in debt, and then nothing begins. Each workspace and model has its own buckets.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from worker.embedded.teacher.api_error import ApiError
from worker.embedded.teacher.wire import Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BucketLimits", "Buckets"]

_MINUTE_MS = 60_000

#: What the headers say where nothing is limited: the provider's middle tier for an Opus model.
_UNLIMITED = {"requests": 5_000, "input-tokens": 5_000_000, "output-tokens": 1_000_000}

_PerMinute = Annotated[int, Field(ge=1)] | None


class BucketLimits(Shape):
    """The body of `POST /_sim/limits`; what is left out is not limited."""

    requests_per_minute: _PerMinute = None
    input_tokens_per_minute: _PerMinute = None
    output_tokens_per_minute: _PerMinute = None
    #: How many seconds of its rate a bucket holds. The provider's hold a minute, but "60 RPM might be
    #: enforced as 1 request per second".
    burst_seconds: Annotated[float, Field(gt=0)] = 60.0

    def per_minute(self) -> dict[str, int]:
        """Return the limits by the name that headers give them."""
        named = {
            "requests": self.requests_per_minute,
            "input-tokens": self.input_tokens_per_minute,
            "output-tokens": self.output_tokens_per_minute,
        }
        return {name: limit for name, limit in named.items() if limit is not None}


@dataclass(slots=True)
class _Bucket:
    per_minute: int
    capacity: float
    level: float
    at_ms: int

    def refill(self, now_ms: int) -> None:
        elapsed_ms = max(now_ms - self.at_ms, 0)
        self.level = min(self.capacity, self.level + elapsed_ms * self.per_minute / _MINUTE_MS)
        self.at_ms = now_ms

    def missing_s(self, amount: float) -> float:
        """Return how long until it holds so much, or all it ever holds."""
        missing = min(amount, self.capacity) - self.level
        return max(missing, 0.0) * 60 / self.per_minute

    def full_in_s(self) -> float:
        return (self.capacity - self.level) * 60 / self.per_minute


class Buckets:
    """The buckets of all workspaces and models. Thread-safe."""

    def __init__(self, limits: BucketLimits | None = None) -> None:
        self._lock = threading.Lock()
        self._limits = limits or BucketLimits()
        self._buckets: dict[tuple[str, str, str], _Bucket] = {}
        #: How many requests were refused since the limits were set.
        self.refused = 0

    def set(self, limits: BucketLimits) -> None:
        """Limit from now on; all buckets are full."""
        with self._lock:
            self._limits = limits
            self._buckets.clear()
            self.refused = 0

    def as_json(self) -> dict[str, Any]:
        """Return the limits, and how many requests they have refused."""
        with self._lock:
            return {**self._limits.model_dump(), "refused": self.refused}

    def begin(self, workspace: str, model: str, input_tokens: int, now_ms: int) -> None:
        """Take a request and its input.

        Raises:
            ApiError: A bucket has too little (429); nothing was taken.
        """
        wanted = {"requests": 1.0, "input-tokens": float(input_tokens), "output-tokens": 1.0}
        with self._lock:
            found = self._of(workspace, model, now_ms)
            waits = {name: bucket.missing_s(wanted[name]) for name, bucket in found.items()}
            longest = max(waits, key=lambda name: waits[name], default=None)
            if longest is not None and waits[longest] > 0:
                self.refused += 1
                raise _refusal(longest, found[longest], waits[longest])
            for name in ("requests", "input-tokens"):
                if name in found:
                    found[name].level -= wanted[name]

    def end(self, workspace: str, model: str, output_tokens: int, now_ms: int) -> None:
        """Take the output that was given."""
        with self._lock:
            bucket = self._of(workspace, model, now_ms).get("output-tokens")
            if bucket is not None:
                bucket.level -= output_tokens

    def headers(self, workspace: str, model: str, now_ms: int) -> dict[str, str]:
        """Return what an answer says about the limits."""
        with self._lock:
            found = self._of(workspace, model, now_ms)
        headers: dict[str, str] = {}
        for name, unlimited in _UNLIMITED.items():
            bucket = found.get(name, _Bucket(unlimited, unlimited, unlimited, now_ms))
            headers |= _told(name, bucket, now_ms)
        both = [found.get(name) for name in ("input-tokens", "output-tokens")]
        if not any(both):
            tokens = sum(_UNLIMITED[name] for name in ("input-tokens", "output-tokens"))
            headers |= _told("tokens", _Bucket(tokens, tokens, tokens, now_ms), now_ms)
        return headers

    def _of(self, workspace: str, model: str, now_ms: int) -> Mapping[str, _Bucket]:
        found: dict[str, _Bucket] = {}
        for name, limit in self._limits.per_minute().items():
            capacity = max(limit * self._limits.burst_seconds / 60, 1.0)
            key = (workspace, model, name)
            bucket = self._buckets.setdefault(key, _Bucket(limit, capacity, capacity, now_ms))
            bucket.refill(now_ms)
            found[name] = bucket
        return found


def _refusal(name: str, bucket: _Bucket, wait_s: float) -> ApiError:
    what = name.replace("-", " ")
    return ApiError(
        429,
        f"This request would exceed the rate limit of {bucket.per_minute} {what} per minute "
        "(simulated)",
        headers={"retry-after": str(math.ceil(wait_s))},
    )


def _told(name: str, bucket: _Bucket, now_ms: int) -> dict[str, str]:
    full_at_s = now_ms // 1000 + math.ceil(bucket.full_in_s())
    reset = datetime.fromtimestamp(full_at_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        f"anthropic-ratelimit-{name}-limit": str(bucket.per_minute),
        f"anthropic-ratelimit-{name}-remaining": str(max(int(bucket.level), 0)),
        f"anthropic-ratelimit-{name}-reset": reset,
    }
