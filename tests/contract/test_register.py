"""What every register keeps of an epoch."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from worker.core.epoch import NO_MARK, Mark, Position
from worker.core.values import Usage
from worker.errors import Unavailable
from worker.ledger.redis import RedisLedger
from worker.ledger.register import RedisRegister
from worker.redis_connection import connect
from worker.testing import ManualClock, MemoryRegister

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.ports import Register

EPOCH = "00000001-aa"


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=[pytest.mark.integration, pytest.mark.enable_socket]),
    ]
)
def register(request: pytest.FixtureRequest) -> Iterator[Register]:
    if request.param == "memory":
        yield MemoryRegister(ManualClock())
        return
    with connect(request.getfixturevalue("redis_url")) as client:
        yield RedisRegister(client)


def test_an_epoch_begins_once_where_the_expected_one_stands(register: Register) -> None:
    assert register.standing() == Position()

    assert register.begin(EPOCH, expected="")
    assert not register.begin("00000001-bb", expected="")
    assert register.standing().epoch == EPOCH
    assert register.begin("00000002-cc", expected=EPOCH)
    assert register.standing().epoch == "00000002-cc"


def test_marks_are_passed_one_after_the_other_by_whoever_knows_the_last(register: Register) -> None:
    register.begin(EPOCH, expected="")

    assert register.advance(EPOCH, 0, "a")
    assert not register.advance(EPOCH, 0, "b")
    assert not register.advance("00000002-cc", 1, "b")
    assert register.advance(EPOCH, 1, "b")

    standing = register.standing()
    assert (standing.before, standing.mark) == (Mark(1, "a"), Mark(2, "b"))
    assert 0 <= standing.mark_age_ms < 60_000


def test_a_doubted_epoch_passes_no_mark_until_a_new_one_begins(register: Register) -> None:
    register.begin(EPOCH, expected="")
    register.advance(EPOCH, 0, "a")

    assert not register.doubt("00000002-cc", "not here")
    assert register.doubt(EPOCH, "it is older")
    assert register.standing().doubt == "it is older"
    assert not register.advance(EPOCH, 1, "b")

    assert register.begin("00000002-cc", expected=EPOCH)
    standing = register.standing()
    assert (standing.doubt, standing.mark, standing.before) == ("", NO_MARK, NO_MARK)


def test_a_turn_is_one_owners_until_it_lets_it_go(register: Register) -> None:
    assert register.take_turn("rescue", "a", for_ms=60_000)
    assert register.take_turn("rescue", "a", for_ms=60_000)
    assert not register.take_turn("rescue", "b", for_ms=60_000)
    assert register.take_turn("mark", "b", for_ms=60_000)


@pytest.mark.integration
@pytest.mark.enable_socket
class TestWhatWasSeen:
    """The newest transition of a real ledger, which a worker remembers."""

    def test_a_transition_that_was_seen_and_is_gone_is_missed(self, redis_url: str) -> None:
        with connect(redis_url) as client:
            register, ledger = RedisRegister(client), RedisLedger(client)
            ledger.open_account("fleet", 100)
            first = register.standing().newest
            ledger.open_account("tenant:t", 100)
            second = register.standing(first)

            assert second.has_seen
            assert register.standing(second.newest).has_seen
            client.xdel("{diagnosis}:bud:j", second.newest)
            assert not register.standing(second.newest).has_seen
            client.flushall()
            assert not register.standing(first).has_seen

    def test_an_older_stream_that_went_on_lacks_it(self, redis_url: str) -> None:
        with connect(redis_url) as client:
            register, ledger = RedisRegister(client), RedisLedger(client)
            ledger.open_account("fleet", 100)
            ledger.open_account("tenant:t", 100)
            seen = register.standing().newest
            client.delete("{diagnosis}:bud:j")
            client.xadd("{diagnosis}:bud:j", {"op": "x"}, id="1-1")
            client.xadd("{diagnosis}:bud:j", {"op": "y"})

            assert not register.standing(seen).has_seen

    def test_what_was_trimmed_is_not_missed(self, redis_url: str) -> None:
        with connect(redis_url) as client:
            register, ledger = RedisRegister(client), RedisLedger(client)
            ledger.open_account("fleet", 100)
            first = register.standing().newest
            ledger.open_account("tenant:t", 100)
            client.xtrim("{diagnosis}:bud:j", maxlen=1, approximate=False)
            assert register.standing(first).has_seen

            client.xtrim("{diagnosis}:bud:j", maxlen=0, approximate=False)
            assert register.standing(first).has_seen


@pytest.mark.integration
@pytest.mark.enable_socket
def test_money_is_held_in_the_epoch_that_its_process_found_whole_and_in_no_other(
    redis_url: str,
) -> None:
    with connect(redis_url) as client:
        register = RedisRegister(client)
        ledger = RedisLedger(client, trusted=lambda: nullcontext(EPOCH))
        ledger.open_account("fleet", 100)

        def reserve(name: str) -> None:
            ledger.reserve(
                name,
                1,
                ("fleet",),
                kind="explore",
                model="m",
                step_id="turn/1",
                price_version="p",
                deadline_ms=60_000,
            )

        with pytest.raises(Unavailable, match="not in epoch"):
            reserve("r0")
        register.begin(EPOCH, expected="")
        reserve("r1")
        ledger.sent("r1")
        register.doubt(EPOCH, "older")
        with pytest.raises(Unavailable, match="doubted"):
            reserve("r2")
        # What went out is charged all the same.
        assert ledger.settle("r1", 1, usage=Usage())
        with pytest.raises(Unavailable, match="has lost data"):
            ledger.sent("r2")

        account = ledger.account("fleet")
        assert account is not None
        assert (account.held_nusd, account.posted_nusd) == (0, 1)
