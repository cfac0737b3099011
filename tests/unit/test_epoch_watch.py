"""What a process takes Redis for, and when it looks again."""

from __future__ import annotations

import pytest

from worker.artifacts.memory import MemoryArtifacts
from worker.core import keys
from worker.core.epoch import Verdict
from worker.epoch import KEPT_MARKS, MARK_MS, RESCUE, TURN_MS, Epoch
from worker.errors import Unavailable
from worker.ledger.memory import MemoryLedger
from worker.redis_connection import OtherServer
from worker.testing import ManualClock, MemoryRegister
from worker.wire.epoch import decode_epoch, decode_mark


class Store(MemoryArtifacts):
    """An object store that counts what it is asked, and can be away."""

    asked = 0
    away = False

    def list(self, prefix: str) -> tuple[str, ...]:
        self._ask()
        return super().list(prefix)

    def exists(self, key: str) -> bool:
        self._ask()
        return super().exists(key)

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("the store is away")


class Fleet:
    """One Redis and one store; as many processes as a test makes."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.register = MemoryRegister(self.clock)
        self.store = Store()
        self.ledger = MemoryLedger(self.clock)
        self.nonces = 0

    def process(self, name: str = "a", *, fleet: str = "diagnosis") -> Epoch:
        def new_nonce() -> str:
            self.nonces += 1
            return f"{name}{self.nonces}"

        return Epoch(
            self.register,
            self.store,
            self.clock,
            fleet=fleet,
            owner=name,
            new_nonce=new_nonce,
            accounts=self.ledger.accounts,
            now_s=lambda: self.clock.now_ms() / 1000,
        )

    def marks(self) -> list[int]:
        return [keys.number_of(name) for name in self.store.list(keys.marks(1))]


def epoch_of(epoch: Epoch) -> str:
    with epoch.trusted() as found:
        return found


def is_refused(epoch: Epoch, *, why: str = "") -> bool:
    with pytest.raises(Unavailable, match=why), epoch.trusted():
        raise AssertionError("money was held")
    return True


def test_the_first_process_of_a_fleet_begins_its_first_epoch_and_marks_it() -> None:
    fleet = Fleet()

    first, second = fleet.process("a"), fleet.process("b")

    assert epoch_of(first) == epoch_of(second)
    assert decode_epoch(fleet.store.get(keys.epoch(1)) or b"").why == "provisioned"
    assert fleet.marks() == [1]


def test_while_another_process_sets_the_fleet_up_nothing_is_held_yet() -> None:
    fleet = Fleet()
    fleet.register.take_turn(RESCUE, "other", for_ms=TURN_MS)
    process = fleet.process()

    assert is_refused(process, why="never set up")
    fleet.clock.advance(TURN_MS)
    assert epoch_of(process)


def test_a_redis_that_was_found_whole_is_not_looked_at_for_every_dollar() -> None:
    fleet = Fleet()
    process = fleet.process()
    epoch_of(process)
    asked = fleet.store.asked

    for _ in range(100):
        epoch_of(process)
    process.look()

    assert fleet.store.asked == asked


def test_another_run_of_the_server_is_looked_at_before_money_is_held() -> None:
    fleet = Fleet()
    process = fleet.process()
    process.connected("run-1")
    epoch_of(process)
    asked = fleet.store.asked

    process.connected("run-1")
    epoch_of(process)
    assert fleet.store.asked == asked

    process.connected("run-2")
    assert epoch_of(process)
    assert fleet.store.asked > asked


def test_what_is_known_of_a_server_holds_for_one_run_of_it() -> None:
    process = Fleet().process()
    process.connected("run-1")
    first = process.generation

    process.connected("run-1")
    assert process.generation == first
    process.connected("run-2")
    assert process.generation > first
    hidden = process.generation
    process.connected("")
    assert process.generation > hidden, "who does not say may be anybody"


def test_what_was_meant_for_one_server_is_not_sent_to_another_one() -> None:
    process = Fleet().process()
    process.connected("run-1")
    epoch_of(process)

    with pytest.raises(OtherServer), process.trusted():
        process.connected("run-2")
    # Nothing is under way now that trusts anything.
    process.connected("run-3")


def test_a_flushed_redis_is_noticed_by_the_next_look_and_takes_no_money() -> None:
    fleet = Fleet()
    process = fleet.process()
    epoch_of(process)

    fleet.register = process._register = MemoryRegister(fleet.clock)

    with pytest.raises(Unavailable, match="lost all its data"):
        process.check()
    assert is_refused(process, why="lost all its data")
    assert process.look().verdict is Verdict.EMPTY


def test_a_loss_since_the_last_mark_is_noticed_by_who_saw_what_is_gone() -> None:
    fleet = Fleet()
    process, other = fleet.process("a"), fleet.process("b")
    fleet.register.transitions += ["1-0", "2-0"]
    epoch_of(process)
    fleet.register.transitions.append("3-0")
    process.look()

    fleet.register.transitions.pop()

    assert process.look().verdict is Verdict.OLDER
    # One that was not there cannot know; it is told by the first one's doubt.
    assert other.look().verdict is Verdict.WHOLE


def test_a_doubt_is_everybodys_until_the_next_epoch_begins() -> None:
    fleet = Fleet()
    process, other = fleet.process("a"), fleet.process("b")
    first = epoch_of(process)
    epoch_of(other)

    process.doubt("a request went out before")

    assert is_refused(process, why="a request went out before")
    assert other.look().verdict is Verdict.OLDER
    assert is_refused(other, why="a request went out before")

    assert process.begin(after=1, expected=first, why="older")
    assert process.look().verdict is Verdict.WHOLE
    assert other.look().verdict is Verdict.WHOLE
    assert epoch_of(process) == epoch_of(other) != first


def test_marks_are_passed_by_one_process_at_a_time_and_few_are_kept() -> None:
    fleet = Fleet()
    processes = [fleet.process(name) for name in "abc"]
    for process in processes:
        epoch_of(process)

    for number in range(2, 14):
        fleet.clock.advance(MARK_MS)
        assert sum(process.mark() for process in processes) == 1
        assert fleet.marks()[-1] == number
    assert len(fleet.marks()) == KEPT_MARKS
    assert not processes[0].mark()


def test_a_mark_has_the_accounts_and_the_kill_switch_as_they_were() -> None:
    fleet = Fleet()
    fleet.ledger.open_account("fleet", 5)
    process = fleet.process()
    first = epoch_of(process)
    fleet.ledger.set_cap("fleet", 7)
    fleet.register.killed = True

    assert process.mark(at_once=True)

    mark = process.newest_mark(first)
    assert mark is not None
    assert [account.cap_nusd for account in mark.accounts] == [7]
    assert mark.killed


def test_a_mark_that_one_left_in_redis_alone_is_stored_by_the_next() -> None:
    fleet = Fleet()
    process = fleet.process()
    first = epoch_of(process)
    assert fleet.register.advance(first, 1, "died")

    assert process.mark(at_once=True)

    assert fleet.marks() == [1, 2, 3]
    mark = decode_mark(fleet.store.get(keys.mark(1, 2)) or b"")
    assert mark.mark.nonce == "died"


def test_of_two_servers_that_pass_the_same_mark_one_is_doubted() -> None:
    fleet = Fleet()
    process = fleet.process("a")
    first = epoch_of(process)
    twin = MemoryRegister(fleet.clock)
    twin.begin(first, expected="")
    twin._mark = fleet.register.standing().mark
    other = fleet.process("b")
    other._register = twin
    assert other.look().verdict is Verdict.WHOLE

    assert process.mark(at_once=True)

    assert not other.mark(at_once=True)
    assert other.look().verdict is Verdict.OLDER
    assert process.look(deep=True).verdict is Verdict.WHOLE


def test_while_the_store_is_away_what_was_trusted_stays_so_and_nothing_new_is() -> None:
    fleet = Fleet()
    process, late = fleet.process("a"), fleet.process("b")
    epoch_of(process)
    fleet.store.away = True

    assert epoch_of(process)
    with pytest.raises(Unavailable, match="away"), late.trusted():
        raise AssertionError("money was held")
    fleet.clock.advance(MARK_MS + 1)
    with pytest.raises(Unavailable, match="away"):
        process.refresh()
    fleet.store.away = False
    assert process.refresh().verdict is Verdict.WHOLE


def test_a_process_whose_server_was_left_behind_notices_the_newer_epoch() -> None:
    fleet = Fleet()
    process = fleet.process("a")
    epoch_of(process)
    elsewhere = fleet.process("b")
    elsewhere._register = MemoryRegister(fleet.clock)
    assert elsewhere.look().verdict is Verdict.EMPTY
    assert elsewhere.begin(after=1, expected="", why="empty")

    fleet.clock.advance(MARK_MS + 1)

    assert process.refresh().verdict is Verdict.OLDER


def test_another_fleets_bucket_is_refused() -> None:
    fleet = Fleet()
    epoch_of(fleet.process())
    fleet.register = MemoryRegister(fleet.clock)

    stranger = fleet.process(fleet="other")

    assert stranger.look().verdict is Verdict.FOREIGN
    assert is_refused(stranger, why="different fleets")
