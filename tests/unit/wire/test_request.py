"""A bad request is refused with its field and its cure, whatever it is."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus.bad_requests import BadRequest, bad_requests, nested
from worker.core import keys
from worker.errors import BadInput, RequestInvalid, UnknownVersion
from worker.wire.request import MAX_REQUEST_BYTES, DiagnoseRequest, parse_request

BUNDLE = f"s3://diagnosis/bundles/{'0' * 64}.tar.gz"
BAD = [case for case in bad_requests(BUNDLE) if case.at == "parse"]
#: What a message may have at most: ten fields, each with a hundred characters of its value.
LONGEST_MESSAGE = 5_000

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    "case", BAD, ids=[case.name.encode("unicode_escape").decode() for case in BAD]
)
def test_a_bad_request_is_refused_by_its_field(case: BadRequest) -> None:
    with pytest.raises(BadInput) as refused:
        parse_request(case.body, default_id="s-1")

    message = refused.value.message
    assert type(refused.value).__name__ == case.error
    assert re.search(case.says, message), message
    assert message.isprintable(), "a message goes to terminals and logs"
    assert len(message) <= LONGEST_MESSAGE


@given(
    fields=st.dictionaries(
        st.sampled_from([*DiagnoseRequest.model_fields, "other"]), _JSON, max_size=4
    )
)
def test_whatever_stands_in_a_field_is_taken_or_refused_with_a_word(fields: dict[str, Any]) -> None:
    request, refusal = _taken_or_refused({"bundle": BUNDLE, **fields})

    if request is not None:
        assert parse_request(request.model_dump(mode="json")) == request
    if refusal is not None:
        assert refusal.message.isprintable()
        assert pickle.loads(pickle.dumps(refusal)).message == refusal.message  # noqa: S301 - ours


def _taken_or_refused(body: dict[str, Any]) -> tuple[DiagnoseRequest | None, BadInput | None]:
    try:
        return parse_request(body, default_id="s-1"), None
    except BadInput as exc:
        return None, exc


@given(name=st.text("ab.-_9A/ ", max_size=6))
def test_a_name_that_is_taken_can_stand_in_every_key(name: str) -> None:
    try:
        request = parse_request({"bundle": BUNDLE, "session_id": name, "tenant": name})
    except RequestInvalid:
        return

    place = {"tenant": request.tenant, "campaign": "c", "session_id": request.session_id}
    assert f"/{name}/" in keys.manifest(**place)


def test_a_request_that_no_python_can_write_down_is_refused() -> None:
    deep = {"bundle": BUNDLE, "limits": nested(100_000)}
    long = {"bundle": BUNDLE, "limits": {"max_turns": 10**5_000}}

    for body in (deep, long):
        with pytest.raises(
            RequestInvalid, match=f"countless characters and may have {MAX_REQUEST_BYTES}"
        ):
            parse_request(body, default_id="s-1")


def test_the_smallest_request_has_the_documented_defaults() -> None:
    request = parse_request({"bundle": BUNDLE}, default_id="s-1")

    assert request.session_id == "s-1"
    assert (request.student, request.teacher, request.judge) == ("default", "default", "default")
    assert (request.tenant, request.campaign) == ("default", "default")
    assert request.limits.max_turns == 30
    assert request.max_cost_nusd == 5_000_000_000
    assert request.reveal_references is False


@pytest.mark.parametrize("written", ["0.3", 0.3, Decimal("0.3")], ids=["text", "float", "decimal"])
def test_a_cap_is_exact_to_the_nano_dollar_however_it_is_written(written: object) -> None:
    request = parse_request({"bundle": BUNDLE, "limits": {"max_cost_usd": written}}, default_id="s")

    assert request.max_cost_nusd == 300_000_000


def test_a_request_says_its_own_id_or_takes_the_given_one() -> None:
    assert (
        parse_request({"bundle": BUNDLE, "session_id": "own"}, default_id="s-1").session_id == "own"
    )
    with pytest.raises(RequestInvalid, match="session_id: is missing"):
        parse_request({"bundle": BUNDLE})


def test_a_date_is_a_night_and_no_number_of_seconds() -> None:
    request = parse_request({"bundle": BUNDLE, "date": "2026-11-22"}, default_id="s-1")

    assert request.date == dt.date(2026, 11, 22)
    assert json.loads(request.model_dump_json())["date"] == "2026-11-22"
    with pytest.raises(RequestInvalid, match=r"date: .* a date is written YYYY-MM-DD"):
        parse_request({"bundle": BUNDLE, "date": 20_261_122}, default_id="s-1")


def test_a_newer_version_is_refused_before_its_fields_are_looked_at() -> None:
    with pytest.raises(UnknownVersion, match=r"version: 2 .* upgrade the worker"):
        parse_request({"version": 2, "everything": "else"}, default_id="s-1")
