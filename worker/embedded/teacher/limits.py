"""The rate-limit headers of every answer.

Rule: the simulator never limits by itself: it says so with buckets that are always full. A 429
comes only from a fault that a test has asked for.
"""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["rate_limit_headers"]

#: The provider's middle tier for an Opus model, per minute.
_LIMITS = {
    "requests": 5_000,
    "input-tokens": 5_000_000,
    "output-tokens": 1_000_000,
    "tokens": 6_000_000,
}


def rate_limit_headers(now_ms: int) -> dict[str, str]:
    """Return the headers of an account that has used nothing yet."""
    now = datetime.fromtimestamp(now_ms // 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    headers: dict[str, str] = {}
    for name, limit in _LIMITS.items():
        headers[f"anthropic-ratelimit-{name}-limit"] = str(limit)
        headers[f"anthropic-ratelimit-{name}-remaining"] = str(limit)
        headers[f"anthropic-ratelimit-{name}-reset"] = now
    return headers
