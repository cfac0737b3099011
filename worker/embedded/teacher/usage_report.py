"""The provider's usage export, from the bill: `GET /v1/organizations/usage_report/messages`.

Rule: the shape of the real one: buckets of a minute, an hour or a day, snapped to it, in pages; only
what was billed is in it, in the bucket in which the request ended. Every result is of one key.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from worker.embedded.teacher.api_error import invalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from worker.embedded.teacher.bill import BillLine

__all__ = ["API_KEY_ID", "USAGE_REPORT", "usage_report"]

USAGE_REPORT = "/v1/organizations/usage_report/messages"
API_KEY_ID = "apikey_simulated"

#: bucket_width -> its length, buckets a page by default, and at most.
_WIDTHS = {"1m": (60_000, 60, 1_440), "1h": (3_600_000, 24, 168), "1d": (86_400_000, 7, 31)}


def usage_report(
    lines: Iterable[BillLine], query: Mapping[str, Sequence[str]], *, now_ms: int
) -> dict[str, Any]:
    """Return one page.

    Args:
        lines: The bill.
        query: The request's parameters, each with all of its values.
        now_ms: The time; buckets that have not begun are not told.

    Raises:
        ApiError: A parameter is missing or wrong (400).
    """
    width = _one(query, "bucket_width", "1d")
    if width not in _WIDTHS:
        raise invalid(f"bucket_width: {width!r} is not one of {sorted(_WIDTHS)}")
    width_ms, usual, most = _WIDTHS[width]
    start_ms = _ms(_one(query, "page", _one(query, "starting_at", ""))) // width_ms * width_ms
    ending_at = _one(query, "ending_at", "")
    until_ms = min(_ms(ending_at), now_ms) if ending_at else now_ms
    limit = min(int(_one(query, "limit", str(usual))), most)
    starts = range(start_ms, until_ms, width_ms)
    told = list(starts[:limit])
    by_bucket: defaultdict[int, list[BillLine]] = defaultdict(list)
    for line in lines:
        if line.billed:
            by_bucket[line.ended_ms // width_ms * width_ms].append(line)
    more = len(starts) > len(told)
    return {
        "data": [
            {
                "starting_at": _iso(at),
                "ending_at": _iso(at + width_ms),
                "results": [_result(name, found) for name, found in _by_model(by_bucket[at])],
            }
            for at in told
        ],
        "has_more": more,
        "next_page": _iso(starts[len(told)]) if more else None,
    }


def _by_model(lines: Iterable[BillLine]) -> list[tuple[str, list[BillLine]]]:
    found: defaultdict[str, list[BillLine]] = defaultdict(list)
    for line in lines:
        found[line.model].append(line)
    return sorted(found.items())


def _result(model: str, lines: Sequence[BillLine]) -> dict[str, Any]:
    usages = [line.usage for line in lines]
    return {
        "uncached_input_tokens": sum(usage.input_tokens for usage in usages),
        "cache_creation": {
            "ephemeral_5m_input_tokens": sum(usage.cache_write_5m_tokens for usage in usages),
            "ephemeral_1h_input_tokens": sum(usage.cache_write_1h_tokens for usage in usages),
        },
        "cache_read_input_tokens": sum(usage.cache_read_tokens for usage in usages),
        "output_tokens": sum(usage.output_tokens for usage in usages),
        "server_tool_use": {"web_search_requests": 0},
        "api_key_id": API_KEY_ID,
        "workspace_id": None,
        "model": model,
        "service_tier": "standard",
        "context_window": None,
    }


def _one(query: Mapping[str, Sequence[str]], name: str, default: str) -> str:
    values = query.get(name, ())
    return values[0] if values else default


def _ms(text: str) -> int:
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError as exc:
        raise invalid(f"starting_at: {text!r} is no RFC 3339 timestamp") from exc
    return round((at if at.tzinfo else at.replace(tzinfo=dt.UTC)).timestamp() * 1000)


def _iso(at_ms: int) -> str:
    at = dt.datetime.fromtimestamp(at_ms / 1000, tz=dt.UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
