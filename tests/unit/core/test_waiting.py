"""Who may go on when money comes: nobody starves, and no account is handed out twice."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from worker.core.admission import expected_cost, plan_closing
from worker.core.prices import PRICE_VERSION, price_of
from worker.core.values import Limits
from worker.core.waiting import Room, may_go


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Somebody who waits."""

    name: int
    needs_nusd: int
    scopes: tuple[str, ...]
    escrow: bool = False


ACCOUNTS = ("fleet", "campaign:a", "campaign:b")
queues = st.lists(
    st.builds(
        Session,
        name=st.integers(),
        needs_nusd=st.integers(1, 20),
        scopes=st.sampled_from([("fleet", "campaign:a"), ("fleet", "campaign:b")]),
        escrow=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda one: one.name,
)
rooms = st.fixed_dictionaries(
    {
        scope: st.builds(Room, free_nusd=st.integers(0, 60), promised_nusd=st.integers(0, 20))
        for scope in ACCOUNTS
    }
)


def left_of(room: Room, session: Session) -> int:
    return room.free_nusd - (room.promised_nusd if session.escrow else 0)


@given(queue=queues, rooms=rooms)
def test_who_goes_fits_together_into_what_there_is(
    queue: list[Session], rooms: dict[str, Room]
) -> None:
    going = may_go(queue, rooms)

    for scope, room in rooms.items():
        taken = sum(one.needs_nusd for one in going if scope in one.scopes)
        assert taken <= room.free_nusd
        if any(one.escrow for one in going if scope in one.scopes):
            first = [one for one in going if scope in one.scopes]
            last = max(at for at, one in enumerate(first) if one.escrow)
            assert (
                sum(o.needs_nusd for o in first[: last + 1]) <= room.free_nusd - room.promised_nusd
            )


@given(queue=queues, rooms=rooms)
def test_who_came_later_never_takes_what_an_earlier_one_lacks(
    queue: list[Session], rooms: dict[str, Room]
) -> None:
    going = may_go(queue, rooms)

    for at, waiter in enumerate(queue):
        if waiter in going:
            continue
        before = [one for one in queue[:at] if one in going]
        short = {
            scope
            for scope in waiter.scopes
            if left_of(rooms[scope], waiter)
            - sum(one.needs_nusd for one in before if scope in one.scopes)
            < waiter.needs_nusd
        }
        after = [one for one in queue[at:] if one in going]
        assert not any(short.intersection(one.scopes) for one in after)


@given(queue=queues, rooms=rooms)
def test_the_first_one_goes_as_soon_as_it_fits_and_going_is_in_order(
    queue: list[Session], rooms: dict[str, Room]
) -> None:
    going = may_go(queue, rooms)

    assert [one for one in queue if one in going] == list(going)
    if queue and all(left_of(rooms[s], queue[0]) >= queue[0].needs_nusd for s in queue[0].scopes):
        assert going[0] == queue[0]


@given(queue=queues, rooms=rooms)
def test_a_campaign_that_lacks_money_holds_no_other_campaign_up(
    queue: list[Session], rooms: dict[str, Room]
) -> None:
    rich = {**rooms, "fleet": Room(free_nusd=10_000)}
    alone = [one for one in queue if "campaign:b" in one.scopes]

    together = [one for one in may_go(queue, rich) if "campaign:b" in one.scopes]

    assert together == list(may_go(alone, rich))


def test_an_account_that_is_not_there_has_nothing() -> None:
    assert may_go([Session(name=1, needs_nusd=1, scopes=("fleet",))], {}) == ()


# ------------------------------------------------------------------------------- what it may cost

OPUS = price_of("claude-opus-4-6")
HOLD = plan_closing(OPUS, 5_000_000_000).hold_nusd


def test_the_expected_cost_is_the_sum_of_turns_that_read_what_was_written_before() -> None:
    expected = expected_cost(OPUS, Limits(max_turns=2), HOLD)

    # $5 in, $25 out, $6.25 to write, $0.50 to read a million tokens:
    # turn 1 writes 8,000 and says 700; turn 2 reads 8,000, writes 5,000 and says 700.
    turns_nusd = 50_000_000 + 17_500_000 + 4_000_000 + 31_250_000 + 17_500_000
    assert expected.cost_nusd == HOLD + turns_nusd
    assert expected.source == (
        f"2 turns of claude-opus-4-6 with 5000 new tokens each, at the prices of {PRICE_VERSION}"
    )


def test_nobody_expects_more_than_the_cap_or_less_than_the_closing_call() -> None:
    tight = expected_cost(OPUS, Limits(max_cost_nusd=1_000_000_000), HOLD)
    measured = expected_cost(OPUS, Limits(), HOLD, measured_nusd=2_500_000_000)
    least = expected_cost(OPUS, Limits(), HOLD, measured_nusd=1)

    assert (tight.cost_nusd, tight.source[:8]) == (1_000_000_000, "its cap;")
    assert measured.cost_nusd == 2_500_000_000
    assert measured.source == "the setting expected_session_usd, $2.50"
    assert least.cost_nusd == HOLD


@given(turns=st.integers(1, 199))
def test_one_turn_more_is_never_expected_to_cost_less(turns: int) -> None:
    limits = Limits(max_turns=turns, max_cost_nusd=10**12)

    fewer = expected_cost(OPUS, limits, HOLD)
    more = expected_cost(OPUS, replace(limits, max_turns=turns + 1), HOLD)

    assert fewer.cost_nusd < more.cost_nusd <= limits.max_cost_nusd
