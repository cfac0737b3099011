from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.artifacts.memory import MemoryArtifacts
from worker.core import keys, report
from worker.core.costs import DIMENSIONS, Charge, Cost, Dimension, summed, total, unknown
from worker.core.report import StoredFile
from worker.core.values import Usage
from worker.costs import collect, night_of
from worker.ledger.memory import MemoryLedger
from worker.testing import ManualClock
from worker.wire.costs import Refund, read_costs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAMES = st.sampled_from(("a", "b", "c"))
AMOUNTS = st.integers(0, 2**53)
STATES = ("held", "sent", "settled", "expired", "void", "refunded")
CHARGED = {"settled", "expired"}


@st.composite
def charges(draw: st.DrawFn) -> Charge:
    state = draw(st.sampled_from(STATES))
    amount = draw(AMOUNTS)
    return Charge(
        session=draw(NAMES),
        tenant=draw(NAMES),
        campaign=draw(NAMES),
        night=draw(NAMES),
        kind=draw(NAMES),
        model=draw(NAMES),
        state=state,
        reservation_id=draw(NAMES),
        step_id="turn/1",
        amount_nusd=amount,
        actual_nusd=amount if state in CHARGED else 0,
        usage=Usage(input_tokens=draw(st.integers(0, 9))) if state == "settled" else None,
        created_ms=draw(st.integers(0, 9)),
    )


@given(
    found=st.lists(charges(), max_size=20),
    by=st.lists(st.sampled_from(DIMENSIONS), unique=True, max_size=6),
)
def test_however_it_is_added_up_it_is_the_same_money(
    found: list[Charge], by: list[Dimension]
) -> None:
    sums = summed(found, by)

    whole = total(found)
    assert whole.cost_nusd == sum(charge.actual_nusd for charge in found)
    assert sum(one.cost_nusd for one in sums) == whole.cost_nusd
    assert sum(one.unknown_nusd for one in sums) == whole.unknown_nusd
    assert sum(one.unknown_nusd for one in sums) == sum(c.actual_nusd for c in unknown(found))
    assert sum(one.held_nusd for one in sums) == whole.held_nusd
    assert sum(one.calls for one in sums) == whole.calls
    assert sum(one.usage.input_tokens for one in sums) == whole.usage.input_tokens
    assert [one.key for one in sums] == sorted({one.key for one in sums})


@pytest.mark.parametrize(
    ("at_ms", "night"),
    [
        (0, "unknown"),
        (1_795_348_799_999, "2026-11-21"),  # 11:59:59.999 on the 22nd
        (1_795_348_800_000, "2026-11-22"),  # noon
        (1_795_391_999_000, "2026-11-22"),  # 23:59:59
        (1_795_410_000_000, "2026-11-22"),  # 05:00 on the 23rd
    ],
)
def test_a_night_is_named_by_the_day_on_whose_noon_it_began(at_ms: int, night: str) -> None:
    assert night_of(at_ms) == night


# ------------------------------------------------------------------------------------- collecting


class Sessions:
    """The sessions that Redis knows."""

    def __init__(self, **labels: Mapping[str, str]) -> None:
        self._labels = labels

    def sessions(self, *, limit: int) -> tuple[str, ...]:
        return tuple(self._labels)

    def labels(self, session_id: str) -> Mapping[str, str]:
        return self._labels.get(session_id, {})


def cost(name: str, nusd: int, *, state: str = "settled") -> Cost:
    return Cost(
        reservation_id=name,
        step_id="turn/1",
        kind="explore",
        model="claude-opus-5",
        state=state,
        amount_nusd=1_000,
        actual_nusd=nusd,
        usage=Usage(output_tokens=nusd) if state == "settled" else None,
        created_ms=1_795_410_000_000,
        ended_ms=1_795_410_001_000,
    )


def conclude(
    store: MemoryArtifacts,
    session_id: str,
    costs: Sequence[Cost],
    *,
    tenant: str = "t",
    campaign: str = "c",
) -> str:
    """Leave what an ended session leaves; return the key of its costs."""
    place = {"tenant": tenant, "campaign": campaign, "session_id": session_id}
    body = b"".join(_line(one) for one in costs)
    sha256 = hashlib.sha256(body).hexdigest()
    edition = keys.edition_of({"costs.jsonl": sha256})
    key = keys.artifact(**place, edition=edition, name="costs.jsonl")
    store.put(key, body, content_type="application/x-ndjson")
    file = StoredFile(size_bytes=len(body), sha256=sha256, key=key)
    manifest = report.manifest_json({"costs.jsonl": file}, session_id=session_id)
    store.put(keys.manifest(**place), manifest.encode(), content_type="application/json")
    return key


def _line(one: Cost) -> bytes:
    return json.dumps(asdict(one)).encode() + b"\n"


def ledger_with(session_id: str, name: str = "r") -> MemoryLedger:
    """Return a ledger in which a session has a call that was sent."""
    ledger = MemoryLedger(ManualClock())
    ledger.open_account(f"session:{session_id}", 10_000)
    ledger.reserve(
        name,
        1_000,
        (f"session:{session_id}",),
        kind="explore",
        model="claude-opus-5",
        step_id="turn/1",
        price_version="v",
        deadline_ms=1,
    )
    ledger.sent(name)
    return ledger


EMPTY = MemoryLedger(ManualClock())


def test_ended_sessions_are_read_from_their_artifacts_and_open_ones_from_the_ledger() -> None:
    store = MemoryArtifacts()
    conclude(store, "ended", [cost("r1", 300), cost("r2", 40)])
    ledger = ledger_with("running")
    labels = {"tenant": "t", "campaign": "c", "status": "open"}
    told: list[tuple[int, int]] = []

    found = collect(
        Sessions(ended={**labels, "status": "ended"}, running=labels),
        ledger,
        store,
        progress=lambda done, of: told.append((done, of)),
    )

    assert (found.ended, found.open) == (("ended",), ("running",))
    whole = total(found.charges)
    assert (whole.cost_nusd, whole.held_nusd, whole.calls) == (340, 1_000, 3)
    assert told == [(1, 2), (2, 2)]
    assert {charge.night for charge in found.charges if charge.session == "ended"} == {"2026-11-22"}


def test_a_session_that_redis_forgot_still_counts() -> None:
    store = MemoryArtifacts()
    conclude(store, "pruned", [cost("r1", 300)])

    assert total(collect(Sessions(), EMPTY, store).charges).cost_nusd == 300


def test_only_what_is_asked_for_is_counted() -> None:
    store = MemoryArtifacts()
    places = [("t1", "c1", 1), ("t1", "c2", 20), ("t2", "c1", 300)]
    for tenant, campaign, nusd in places:
        name = f"{tenant}-{campaign}"
        conclude(store, name, [cost(name, nusd)], tenant=tenant, campaign=campaign)

    def cost_of(tenant: str | None = None, campaign: str | None = None) -> int:
        found = collect(Sessions(), EMPTY, store, tenant=tenant, campaign=campaign)
        return total(found.charges).cost_nusd

    assert cost_of() == 321
    assert cost_of(tenant="t1") == 21
    assert cost_of(campaign="c1") == 301
    assert cost_of(tenant="t2", campaign="c1") == 300
    assert cost_of(tenant="t2", campaign="c2") == 0


def test_an_unknown_outcome_that_became_known_late_is_told_as_it_is() -> None:
    store = MemoryArtifacts()
    conclude(store, "s", [cost("r", 1_000, state="expired")])
    ledger = ledger_with("s")
    ledger.charge_unknown("r", "time-out")

    before = collect(Sessions(), ledger, store).charges
    assert [charge.actual_nusd for charge in unknown(before)] == [1_000]

    ledger.settle("r", 70, usage=Usage(output_tokens=7))
    after = collect(Sessions(), ledger, store).charges
    assert unknown(after) == ()
    assert total(after).cost_nusd == 70


def test_a_refund_counts_for_good_even_when_the_ledger_has_forgotten_the_session() -> None:
    store = MemoryArtifacts()
    conclude(store, "s", [cost("r", 1_000, state="expired"), cost("q", 5)])
    note = Refund(reservation_id="r", amount_nusd=1_000, why="not in the export")
    store.put(keys.refund("s", "r"), note.model_dump_json().encode(), content_type="text/plain")

    found = collect(Sessions(), EMPTY, store).charges

    assert total(found).cost_nusd == 5
    assert [charge.why for charge in found if charge.state == "refunded"] == ["not in the export"]


@pytest.mark.parametrize("damage", ["missing", "other bytes", "no manifest", "no rows"])
def test_what_cannot_be_read_is_named_and_in_no_sum(damage: str) -> None:
    store = MemoryArtifacts()
    conclude(store, "good", [cost("g", 7)])
    key = conclude(store, "bad", [cost("r", 300)])
    match damage:
        case "missing":
            store.delete(key)
        case "other bytes":
            store.put(key, b"{}\n", content_type="application/x-ndjson")
        case "no manifest":
            store.put(
                keys.manifest(tenant="t", campaign="c", session_id="bad"), b"?", content_type="x"
            )
        case _:
            conclude(store, "bad", [replace(cost("r", 1), actual_nusd="?")])

    found = collect(Sessions(), EMPTY, store)

    assert [name for name, _ in found.unreadable] == ["bad"]
    assert found.ended == ("good",)
    assert total(found.charges).cost_nusd == 7


def test_rows_of_an_older_version_are_readable() -> None:
    old = asdict(cost("r", 7))
    del old["created_ms"], old["ended_ms"]
    old["actual_usd"] = "0.000000007"

    (row,) = read_costs(json.dumps(old).encode())

    assert (row.actual_nusd, row.created_ms) == (7, 0)
