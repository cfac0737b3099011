"""What an export proves: laws over random nights, a provider that bills as it likes, and clocks apart."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.costs import Charge, plus
from worker.core.reconcile import (
    CLOCKS_MS,
    RUN_ON_MS,
    SETTLED_MS,
    Bucket,
    Verdict,
    family,
    joined,
    reconcile,
)
from worker.core.values import Usage
from worker.errors import BadInput
from worker.wire.usage_export import read_export

MINUTE_MS = 60_000
BEGAN_MS = 1_795_400_040_000
MODELS = ("claude-opus-5", "claude-haiku-4-5")
NIGHT_MS = 240 * MINUTE_MS
#: After this everything is settled.
LATER_MS = NIGHT_MS + RUN_ON_MS + CLOCKS_MS + SETTLED_MS + 3 * MINUTE_MS
BOUND = 10_000


@dataclass(frozen=True)
class Truth:
    """A call as the ledger has it, and what only the provider knows."""

    charge: Charge
    #: What was billed; nothing for a call that was not.
    tokens: Usage
    #: When the provider counted it, by its own clock.
    at_ms: int


def usage(tokens: int, kind: int) -> Usage:
    if not tokens:
        return Usage()
    return Usage(
        input_tokens=tokens if kind == 0 else 0,
        cache_read_tokens=tokens if kind == 1 else 0,
        output_tokens=tokens if kind == 2 else 0,
    )


@st.composite
def truths(draw: st.DrawFn, *, unknown_billed: bool = True) -> Truth:
    state = draw(st.sampled_from(("settled", "settled", "expired", "void", "refunded")))
    created = BEGAN_MS + draw(st.integers(0, NIGHT_MS // 1000 - 900)) * 1000
    ended = created + draw(st.integers(0, 600)) * 1000
    billed = state == "settled" or (state == "expired" and unknown_billed and draw(st.booleans()))
    tokens = usage(draw(st.integers(1, 50)) if billed else 0, draw(st.integers(0, 2)))
    late = RUN_ON_MS if state == "expired" else 0
    counted = draw(st.integers(created, ended + late)) + draw(st.integers(-CLOCKS_MS, CLOCKS_MS))
    charge = Charge(
        session="s",
        tenant="t",
        campaign="c",
        night="n",
        kind="explore",
        model=draw(st.sampled_from(MODELS)),
        state=state,
        reservation_id=str(draw(st.uuids())),
        step_id="turn/1",
        amount_nusd=BOUND,
        actual_nusd={"settled": cost(tokens), "expired": BOUND}.get(state, 0),
        usage=tokens if state == "settled" else None,
        created_ms=created,
        ended_ms=ended,
    )
    return Truth(charge, tokens, counted)


def cost(tokens: Usage) -> int:
    return tokens.prompt_tokens + 5 * tokens.output_tokens


def export(
    calls: list[Truth], *, start_ms: int = -30 * MINUTE_MS, end_ms: int = LATER_MS, width: int = 1
) -> list[Bucket]:
    """Return what the provider tells of some calls."""
    width_ms = width * MINUTE_MS
    first = (BEGAN_MS + start_ms) // width_ms * width_ms
    buckets: list[Bucket] = []
    for at in range(first, BEGAN_MS + end_ms, width_ms):
        found: dict[str, Usage] = {}
        for call in calls:
            if at <= call.at_ms < at + width_ms and call.tokens != Usage():
                name = call.charge.model
                found[name] = plus(found.get(name, Usage()), call.tokens)
        buckets.append(Bucket(start_ms=at, end_ms=at + width_ms, usage=found))
    return buckets


def charges(calls: list[Truth]) -> list[Charge]:
    return [call.charge for call in calls]


def decided(
    calls: list[Truth], told: list[Bucket], *, now_ms: int = BEGAN_MS + LATER_MS
) -> Verdict:
    return reconcile(told, charges(calls), now_ms=now_ms)


def after(calls: list[Truth], verdict: Verdict) -> list[Charge]:
    """Return the ledger once the refunds were carried out."""
    names = {charge.reservation_id for charge in verdict.refunds}
    return [
        replace(one, state="refunded", actual_nusd=0) if one.reservation_id in names else one
        for one in charges(calls)
    ]


@settings(max_examples=300, deadline=None)
@given(
    calls=st.lists(truths(), max_size=12),
    others=st.lists(truths(), max_size=2),
    from_minute=st.sampled_from((-30, -30, -30, 0, 60)),
    to_ms=st.sampled_from((LATER_MS, LATER_MS, NIGHT_MS // 2, 90 * MINUTE_MS)),
    width=st.sampled_from((1, 1, 60)),
)
def test_nothing_is_refunded_that_was_billed(
    calls: list[Truth], others: list[Truth], from_minute: int, to_ms: int, width: int
) -> None:
    told = export([*calls, *others], start_ms=from_minute * MINUTE_MS, end_ms=to_ms, width=width)

    verdict = decided(calls, told)

    billed = {call.charge.reservation_id for call in calls if call.tokens != Usage()}
    refunded = {charge.reservation_id for charge in verdict.refunds}
    assert not refunded & billed
    unknown = {c.reservation_id for c in charges(calls) if c.state == "expired"}
    kept = {one.charge.reservation_id for one in verdict.kept}
    assert refunded | kept == unknown
    assert not refunded & kept


@settings(max_examples=200, deadline=None)
@given(calls=st.lists(truths(), max_size=12))
def test_the_ledger_never_falls_below_what_the_provider_billed(calls: list[Truth]) -> None:
    verdict = decided(calls, export(calls))

    total = sum(charge.actual_nusd for charge in after(calls, verdict))

    assert total >= sum(cost(call.tokens) for call in calls)


@settings(max_examples=100, deadline=None)
@given(calls=st.lists(truths(), max_size=12))
def test_said_again_it_finds_nothing_more(calls: list[Truth]) -> None:
    told = export(calls)
    later = after(calls, decided(calls, told))

    again = reconcile(told, later, now_ms=BEGAN_MS + LATER_MS)

    assert again.refunds == ()


@settings(max_examples=200, deadline=None)
@given(calls=st.lists(truths(unknown_billed=False), max_size=12))
def test_where_no_unknown_call_was_billed_and_the_key_is_ours_all_of_it_comes_back(
    calls: list[Truth],
) -> None:
    verdict = decided(calls, export(calls))

    if any(call.charge.state == "settled" for call in calls):
        assert verdict.kept == ()
        assert {c.reservation_id for c in verdict.refunds} == {
            c.reservation_id for c in charges(calls) if c.state == "expired"
        }
    else:
        assert verdict.refunds == ()


@settings(max_examples=100, deadline=None)
@given(calls=st.lists(truths(), min_size=1, max_size=8), lost=st.integers(0, 7))
def test_an_export_with_a_known_call_missing_proves_nothing(calls: list[Truth], lost: int) -> None:
    known = [call for call in calls if call.charge.state == "settled"]
    if not known:
        return
    missing = known[lost % len(known)]

    verdict = decided(calls, export([call for call in calls if call is not missing]))

    # Tokens of an unknown call may stand in for those that are missing; then it is kept anyway.
    if all(call.charge.state != "expired" or call.tokens == Usage() for call in calls):
        assert verdict.problem
    if verdict.problem:
        assert verdict.refunds == ()


def settled(minute: int, tokens: int = 10) -> Truth:
    return _call("settled", minute, usage(tokens, 0))


def expired(minute: int, tokens: int = 0) -> Truth:
    return _call("expired", minute, usage(tokens, 0))


def _call(state: str, minute: int, tokens: Usage) -> Truth:
    at_ms = BEGAN_MS + minute * MINUTE_MS
    charge = Charge(
        session="s",
        tenant="t",
        campaign="c",
        night="n",
        kind="explore",
        model="claude-opus-5",
        state=state,
        reservation_id=f"{state}{minute}",
        step_id="turn/1",
        amount_nusd=BOUND,
        actual_nusd=cost(tokens) if state == "settled" else BOUND,
        usage=tokens if state == "settled" else None,
        created_ms=at_ms,
        ended_ms=at_ms + 1_000,
    )
    return Truth(charge, tokens, at_ms + 500)


def test_one_billed_call_keeps_only_those_near_it() -> None:
    calls = [settled(0), expired(1, tokens=3), expired(2), settled(60), expired(61)]

    verdict = decided(calls, export(calls))

    assert [charge.reservation_id for charge in verdict.refunds] == ["expired61"]
    assert [one.charge.reservation_id for one in verdict.kept] == ["expired1", "expired2"]
    assert {one.why.partition(" ")[0] for one in verdict.kept} == {"3"}
    assert verdict.unexplained == {"claude-opus-5": Usage(input_tokens=3)}


@pytest.mark.parametrize(("minutes", "refunded"), [(42, 0), (43, 1)])
def test_half_an_hour_passes_before_anything_is_decided(minutes: int, refunded: int) -> None:
    calls = [settled(0), expired(0)]  # which may be written on for 10 minutes, by clocks 2 apart
    now_ms = BEGAN_MS + minutes * MINUTE_MS

    verdict = decided(calls, export(calls), now_ms=now_ms)

    assert len(verdict.refunds) == refunded


@pytest.mark.parametrize(("hours", "refunded"), [(4, 0), (26, 0), (28, 1)])
def test_a_batch_may_be_billed_for_a_day_after_its_session_ended(hours: int, refunded: int) -> None:
    one = expired(1)
    batched = replace(one, charge=replace(one.charge, kind="judge_batch"))
    calls = [settled(0), batched]
    end_ms = hours * 60 * MINUTE_MS

    verdict = decided(calls, export(calls, end_ms=end_ms), now_ms=BEGAN_MS + end_ms)

    assert len(verdict.refunds) == refunded


def test_a_short_export_is_as_young_as_its_last_bucket() -> None:
    calls = [settled(0), expired(0)]

    verdict = decided(calls, export(calls, end_ms=30 * MINUTE_MS))

    assert "too soon" in verdict.kept[0].why


def test_a_hole_in_the_export_covers_nothing() -> None:
    calls = [settled(0), settled(60), expired(60)]
    told = [b for b in export(calls) if b.start_ms != (BEGAN_MS // MINUTE_MS + 62) * MINUTE_MS]

    verdict = decided(calls, told)

    assert verdict.refunds == ()
    assert [one.why for one in verdict.kept] == ["the export does not cover its time"]


def test_an_export_of_another_key_proves_nothing() -> None:
    calls = [settled(0), expired(60)]

    verdict = decided(calls, export([]))

    assert "fewer tokens" in verdict.problem
    assert verdict.refunds == ()


def test_an_export_without_any_known_call_proves_nothing() -> None:
    verdict = decided([expired(0)], export([]))

    assert "key" in verdict.problem
    assert verdict.refunds == ()


def test_a_refusal_that_was_not_charged_explains_no_tokens() -> None:
    refusal = settled(0, tokens=7)
    free = Truth(replace(refusal.charge, actual_nusd=0), Usage(), refusal.at_ms)
    calls = [free, settled(1), expired(2, tokens=7)]

    verdict = decided(calls, export(calls))

    assert verdict.refunds == ()


def test_an_alias_and_its_dated_model_are_one() -> None:
    assert family("claude-haiku-4-5-20251001") == family("claude-haiku-4-5") == "claude-haiku-4-5"
    assert family("claude-opus-4-5") != family("claude-opus-4-6")


# ----------------------------------------------------------------------------------- the export


def page(*, start: str = "T00:00:00Z", end: str = "T00:01:00Z", **result: object) -> bytes:
    row = {
        "uncached_input_tokens": 1500,
        "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
        "cache_read_input_tokens": 200,
        "output_tokens": 500,
        "server_tool_use": {"web_search_requests": 10},
        "api_key_id": "apikey_1",
        "workspace_id": "wrkspc_1",
        "model": "claude-opus-5",
        "service_tier": "standard",
        "context_window": "0-200k",
        **result,
    }
    bucket = {
        "starting_at": f"2026-11-22{start}",
        "ending_at": f"2026-11-22{end}",
        "results": [row],
    }
    return json.dumps({"data": [bucket], "has_more": False, "next_page": None}).encode()


def test_a_page_of_the_provider_is_read_to_the_last_token() -> None:
    (bucket,) = read_export(page())

    assert bucket.end_ms - bucket.start_ms == MINUTE_MS
    assert bucket.usage == {
        "claude-opus-5": Usage(
            input_tokens=1500,
            cache_write_5m_tokens=500,
            cache_write_1h_tokens=1000,
            cache_read_tokens=200,
            output_tokens=500,
        )
    }


def test_pages_come_one_a_line_or_as_a_list() -> None:
    pages = page(), page(start="T00:01:00Z", end="T00:02:00Z")

    assert len(read_export(b"\n".join(pages))) == 2
    assert len(read_export(b"[" + b",".join(pages) + b"]")) == 2


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"", "no usage export"),
        (b"{}", "no usage export"),
        (b"\xff", "no usage export"),
        (b'{"data": [{}]}', "no usage export"),
        (page(output_tokens=-1), "no usage export"),
        (page(start="T00:00:00"), "no usage export"),
        (page(model=None), "by model"),
        (page() + b"\n" + page(), "twice"),
        (page(end="T00:00:00Z"), "ends before"),
        (page() + b"\n" + page(start="T00:01:00Z", end="T00:02:00Z", api_key_id="b"), "--api-key"),
    ],
)
def test_an_export_that_could_lack_something_is_refused(raw: bytes, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        read_export(raw)


def test_only_the_fleets_own_key_counts() -> None:
    pages = page() + b"\n" + page(start="T00:01:00Z", end="T00:02:00Z", api_key_id="b")

    mine = read_export(pages, api_key_ids=["b"])

    assert [sorted(bucket.usage) for bucket in mine] == [[], ["claude-opus-5"]]
    with pytest.raises(BadInput, match="nothing of the keys"):
        read_export(pages, api_key_ids=["c"])


@given(calls=st.lists(truths(), max_size=8), data=st.data())
def test_several_accounts_exports_are_one_where_all_of_them_tell(
    calls: list[Truth], data: st.DataObject
) -> None:
    mine = [call for call in calls if data.draw(st.booleans())]
    theirs = [call for call in calls if call not in mine]

    assert joined([export(mine), export(theirs)]) == tuple(export(calls))
    assert joined([export(mine), export(theirs)[5:]]) == tuple(export(calls)[5:])
    assert joined([export(calls)]) == tuple(export(calls))
