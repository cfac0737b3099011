from __future__ import annotations

import datetime as dt
import email.utils
import pickle
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.teacher_faults import Failure, What, retry_after_ms, teacher_fault

Billing = Literal["unbilled", "unknown"]
Retry = Literal["later", "never", "stop"]


@pytest.mark.parametrize(
    ("status", "billing", "retry"),
    [
        (400, "unbilled", "never"),
        (401, "unbilled", "stop"),
        (402, "unbilled", "stop"),
        (403, "unbilled", "stop"),
        (404, "unbilled", "never"),
        (413, "unbilled", "never"),
        (422, "unbilled", "never"),
        (429, "unbilled", "later"),
        (529, "unbilled", "later"),
        (408, "unknown", "later"),
        (409, "unknown", "later"),
        (500, "unknown", "later"),
        (502, "unknown", "later"),
        (503, "unknown", "later"),
        (504, "unknown", "later"),
        (520, "unknown", "later"),
        (307, "unknown", "never"),
        (405, "unknown", "never"),
        (418, "unknown", "never"),
    ],
)
def test_a_status_is_judged_by_the_table(status: int, billing: Billing, retry: Retry) -> None:
    fault = teacher_fault(Failure(what=What.STATUS, detail="d", status=status))

    assert (fault.billing, fault.retry, fault.status) == (billing, retry, status)


@pytest.mark.parametrize(
    ("what", "sent", "billing", "retry"),
    [
        (What.CONNECT, False, "unbilled", "later"),
        (What.UNSENDABLE, False, "unbilled", "never"),
        (What.TIMEOUT, False, "unbilled", "later"),
        (What.TIMEOUT, True, "unknown", "later"),
        (What.CUT, False, "unbilled", "later"),
        (What.CUT, True, "unknown", "later"),
        (What.BROKEN, True, "unknown", "later"),
        (What.STOPPED, False, "unbilled", "later"),
        (What.STOPPED, True, "unknown", "later"),
        (What.NOT_A_STREAM, True, "unknown", "never"),
        (What.TOO_LARGE, True, "unknown", "never"),
    ],
)
def test_what_the_network_does_is_judged_by_the_table(
    what: What, sent: bool, billing: Billing, retry: Retry
) -> None:
    fault = teacher_fault(Failure(what=what, detail="d", sent=sent))

    assert (fault.billing, fault.retry) == (billing, retry)


@pytest.mark.parametrize(
    ("error_type", "retry"),
    [
        ("overloaded_error", "later"),
        ("api_error", "later"),
        ("rate_limit_error", "later"),
        ("timeout_error", "later"),
        ("", "later"),
        ("something_new", "later"),
        ("invalid_request_error", "never"),
        ("not_found_error", "never"),
        ("authentication_error", "stop"),
        ("permission_error", "stop"),
        ("billing_error", "stop"),
    ],
)
def test_an_error_within_the_stream_may_have_been_billed(error_type: str, retry: Retry) -> None:
    fault = teacher_fault(Failure(what=What.ERROR_EVENT, detail="d", error_type=error_type))

    assert (fault.billing, fault.retry) == ("unknown", retry)


@pytest.mark.parametrize(
    ("status", "error_code", "detail"),
    [
        (400, "", "You have reached your specified API usage limits. You will regain access on …"),
        (400, "", "You have reached your specified workspace API usage limits."),
        (400, "", "Your credit balance is too low to access the Anthropic API."),
        (400, "organization_on_hold", "This organization has been disabled."),
        (402, "linked_organization_spend_limit_reached", "m"),
        (429, "enforced_spend_limit_reached", "m"),
        (429, "contract_spend_limit_reached", "m"),
    ],
)
def test_a_spend_limit_stops_whatever_its_status(status: int, error_code: str, detail: str) -> None:
    fault = teacher_fault(
        Failure(what=What.STATUS, detail=detail, status=status, error_code=error_code)
    )

    assert (fault.billing, fault.retry) == ("unbilled", "stop")
    assert "spend limits" in str(fault)


def test_a_ramp_limit_is_waited_for() -> None:
    fault = teacher_fault(
        Failure(
            what=What.STATUS,
            detail="m",
            status=429,
            error_code="ramp_limit_exceeded",
            retry_after_ms=30_000,
        )
    )

    assert (fault.billing, fault.retry, fault.retry_after_ms) == ("unbilled", "later", 30_000)


#: Everything a failure can look like.
failures = st.builds(
    Failure,
    what=st.sampled_from(What),
    detail=st.text(max_size=30) | st.just("reached your specified API usage limits"),
    sent=st.booleans(),
    status=st.none() | st.integers(100, 999),
    error_type=st.sampled_from(["", "api_error", "billing_error", "invalid_request_error", "x"]),
    error_code=st.sampled_from(["", "enforced_spend_limit_reached", "x"]),
    retry_after_ms=st.none() | st.integers(0, 10**9),
    request_id=st.none() | st.just("req_1"),
)


@given(failure=failures)
def test_unbilled_is_only_what_is_proven(failure: Failure) -> None:
    fault = teacher_fault(failure)

    if fault.billing == "unbilled" and failure.what is not What.STATUS:
        assert not failure.sent
    if failure.what is What.STATUS:
        refused = failure.status in {400, 401, 402, 403, 404, 413, 422, 429, 529}
        assert (fault.billing == "unbilled") == refused


@given(failure=failures)
def test_a_fault_carries_its_facts_through_a_pickle(failure: Failure) -> None:
    fault = pickle.loads(pickle.dumps(teacher_fault(failure)))  # noqa: S301 - just pickled

    assert fault.status == failure.status
    assert fault.request_id == failure.request_id
    assert fault.retry_after_ms == failure.retry_after_ms


def test_a_message_is_never_longer_than_a_reader_wants() -> None:
    fault = teacher_fault(Failure(what=What.CUT, detail="x" * 100_000))

    assert len(str(fault)) < 700


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30_000),
        ({"retry-after": " 1.5 "}, 1_500),
        ({"retry-after": "0"}, 0),
        ({"retry-after-ms": "250", "retry-after": "30"}, 250),
        ({"retry-after-ms": "soon", "retry-after": "30"}, 30_000),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Sun, 22 Nov 2026 20:00:30 GMT"}, None),
        (
            {
                "date": "Sun, 22 Nov 2026 20:00:00 GMT",
                "retry-after": "Sun, 22 Nov 2026 20:00:30 GMT",
            },
            30_000,
        ),
        (
            {
                "date": "Sun, 22 Nov 2026 20:00:30 GMT",
                "retry-after": "Sun, 22 Nov 2026 20:00:00 GMT",
            },
            0,
        ),
        (
            {
                "date": "Wed, 29 Feb 2028 23:59:59 GMT",
                "retry-after": "Thu, 01 Mar 2028 00:00:01 GMT",
            },
            2_000,
        ),
        ({"date": "x", "retry-after": "Sun, 22 Foo 2026 20:00:30 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_all_its_spellings(
    headers: dict[str, str], expected: int | None
) -> None:
    assert retry_after_ms(headers) == expected


@given(
    now=st.datetimes(dt.datetime(1970, 3, 1), dt.datetime(2400, 1, 1)),  # noqa: DTZ001
    wait_s=st.integers(0, 10_000_000),
)
def test_a_date_is_as_far_off_as_the_calendar_says(now: dt.datetime, wait_s: int) -> None:
    then = now + dt.timedelta(seconds=wait_s)

    headers = {"date": _http_date(now), "retry-after": _http_date(then)}

    assert retry_after_ms(headers) == wait_s * 1000


def _http_date(when: dt.datetime) -> str:
    return email.utils.format_datetime(when.replace(tzinfo=dt.UTC), usegmt=True)


@given(value=st.text(max_size=30), date=st.text(max_size=30))
def test_no_header_raises(value: str, date: str) -> None:
    waited = retry_after_ms({"retry-after": value, "retry-after-ms": value, "date": date})

    assert waited is None or waited >= 0
