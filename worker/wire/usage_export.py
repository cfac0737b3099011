"""A provider's usage export, as the Usage & Cost Admin API gives it (`usage_report/messages`).

Rule: what is missing from it would look like money that was not spent, so nothing is guessed: an
export that is not by model, that has a stretch of time twice, or keys of which none was chosen, is
refused. Times that are not in it at all are simply not covered.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pydantic
from pydantic import AwareDatetime, BaseModel, ConfigDict, NonNegativeInt

from worker.core.costs import plus
from worker.core.reconcile import Bucket
from worker.core.values import Usage
from worker.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["read_export"]


class _Writes(BaseModel):
    model_config = ConfigDict(frozen=True)

    ephemeral_5m_input_tokens: NonNegativeInt
    ephemeral_1h_input_tokens: NonNegativeInt


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)

    uncached_input_tokens: NonNegativeInt
    cache_creation: _Writes
    cache_read_input_tokens: NonNegativeInt
    output_tokens: NonNegativeInt
    model: str | None = None
    api_key_id: str | None = None

    @property
    def usage(self) -> Usage:
        return Usage(
            input_tokens=self.uncached_input_tokens,
            cache_write_5m_tokens=self.cache_creation.ephemeral_5m_input_tokens,
            cache_write_1h_tokens=self.cache_creation.ephemeral_1h_input_tokens,
            cache_read_tokens=self.cache_read_input_tokens,
            output_tokens=self.output_tokens,
        )


class _Stretch(BaseModel):
    model_config = ConfigDict(frozen=True)

    starting_at: AwareDatetime
    ending_at: AwareDatetime
    results: tuple[_Result, ...]


class _Page(BaseModel):
    model_config = ConfigDict(frozen=True)

    data: tuple[_Stretch, ...]


def read_export(raw: bytes, *, api_key_ids: Sequence[str] = ()) -> tuple[Bucket, ...]:
    """Return the export's buckets in the order of time.

    Args:
        raw: A page, a list of pages, or a page a line.
        api_key_ids: Of the fleet's own keys, where the export has several.

    Raises:
        BadInput: It cannot be read, is not by model, tells a time twice, or which key is meant is
            not clear; the message says what to export instead.
    """
    stretches = [stretch for page in _pages(raw) for stretch in page.data]
    wanted = frozenset(api_key_ids)
    _check_keys({r.api_key_id for s in stretches for r in s.results}, wanted)
    buckets = sorted((_bucket(one, wanted) for one in stretches), key=lambda b: b.start_ms)
    _check_once(buckets)
    return tuple(buckets)


def _pages(raw: bytes) -> Iterable[_Page]:
    try:
        pages = [_Page.model_validate(page) for page in _values(raw)]
    except (pydantic.ValidationError, UnicodeDecodeError, ValueError) as exc:
        raise _no_export(raw) from exc
    if not pages:
        raise _no_export(raw)
    return pages


def _no_export(raw: bytes) -> BadInput:
    return BadInput(
        f"{raw[:80]!r} is no usage export: take the answers of "
        "GET /v1/organizations/usage_report/messages as they are, one page or several"
    )


def _values(raw: bytes) -> list[Any]:
    text = raw.decode()
    try:
        whole: Any = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return cast("list[Any]", whole) if isinstance(whole, list) else [whole]


def _check_keys(found: set[str | None], wanted: frozenset[str]) -> None:
    if missing := sorted(wanted - found):
        raise BadInput(
            f"the export has nothing of the keys {missing}, only of {sorted(map(str, found))}: "
            "group it by api_key_id, or name others"
        )
    if not wanted and len(found) > 1:
        raise BadInput(
            f"the export has several keys, {sorted(map(str, found))}: say which are this fleet's "
            "own with --api-key-id"
        )


def _bucket(stretch: _Stretch, wanted: frozenset[str]) -> Bucket:
    usage: defaultdict[str, Usage] = defaultdict(Usage)
    for result in stretch.results:
        if wanted and result.api_key_id not in wanted:
            continue
        if result.model is None:
            raise BadInput("the export is not by model: export it with group_by[]=model")
        usage[result.model] = plus(usage[result.model], result.usage)
    return Bucket(
        start_ms=round(stretch.starting_at.timestamp() * 1000),
        end_ms=round(stretch.ending_at.timestamp() * 1000),
        usage=dict(usage),
    )


def _check_once(buckets: Sequence[Bucket]) -> None:
    if any(bucket.end_ms <= bucket.start_ms for bucket in buckets):
        raise BadInput("the export has a bucket that ends before it begins")
    for one, following in pairwise(buckets):
        if following.start_ms < one.end_ms:
            raise BadInput(
                f"the export tells the time from {following.start_ms} (ms since 1970) twice: "
                "give each page once, all of one bucket_width"
            )
