"""The simulator's own token buckets: what they refuse, with which headers, and when again."""

from __future__ import annotations

import pytest

from worker.embedded.teacher import BucketLimits
from worker.embedded.teacher.api_error import ApiError
from worker.embedded.teacher.limits import Buckets

NOW_MS = 1_800_000_000_000


def goes(buckets: Buckets, at_ms: int, *, input_tokens: int = 0, model: str = "m") -> bool:
    try:
        buckets.begin("w", model, input_tokens, NOW_MS + at_ms)
    except ApiError:
        return False
    return True


def test_a_minute_holds_its_rate_and_not_more() -> None:
    buckets = Buckets(BucketLimits(requests_per_minute=300, burst_seconds=1))

    gone = sum(goes(buckets, at_ms) for at_ms in range(0, 60_000, 10))

    assert 300 <= gone <= 305
    assert buckets.refused == 6_000 - gone


def test_a_refusal_says_which_limit_and_when_to_come_back() -> None:
    buckets = Buckets(BucketLimits(requests_per_minute=30, burst_seconds=1))
    assert goes(buckets, 0)

    with pytest.raises(ApiError, match="30 requests per minute") as refused:
        buckets.begin("w", "m", 0, NOW_MS)

    assert (refused.value.status, refused.value.headers) == (429, {"retry-after": "2"})
    assert not goes(buckets, 1_999)
    assert goes(buckets, 2_000)


def test_input_is_taken_when_a_request_begins() -> None:
    buckets = Buckets(BucketLimits(input_tokens_per_minute=6_000, burst_seconds=10))

    assert goes(buckets, 0, input_tokens=900)
    assert not goes(buckets, 0, input_tokens=200)
    assert goes(buckets, 1_000, input_tokens=200)


def test_output_that_is_owed_keeps_others_from_beginning() -> None:
    buckets = Buckets(BucketLimits(output_tokens_per_minute=600, burst_seconds=10))
    assert goes(buckets, 0)

    buckets.end("w", "m", 150, NOW_MS)

    assert not goes(buckets, 4_900)
    assert goes(buckets, 5_200)


def test_each_model_has_its_own_buckets() -> None:
    buckets = Buckets(BucketLimits(requests_per_minute=60, burst_seconds=1))

    assert goes(buckets, 0)
    assert goes(buckets, 0, model="n")
    assert not goes(buckets, 0)


def test_headers_tell_what_is_left() -> None:
    buckets = Buckets(BucketLimits(requests_per_minute=60))
    goes(buckets, 0)

    headers = buckets.headers("w", "m", NOW_MS)

    assert headers["anthropic-ratelimit-requests-limit"] == "60"
    assert headers["anthropic-ratelimit-requests-remaining"] == "59"
    assert headers["anthropic-ratelimit-requests-reset"] == "2027-01-15T08:00:01Z"
    assert headers["anthropic-ratelimit-input-tokens-limit"] == "5000000"
