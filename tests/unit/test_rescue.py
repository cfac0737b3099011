"""A worker that finds that Redis lost something rebuilds all of it, and only then is money held again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.unit.test_recovery import (
    SCOPES,
    SESSION,
    World,
    copy_of,
    go_back,
    session_of,
    workspace,
)
from worker.core import keys
from worker.core.epoch import Verdict
from worker.epoch import TURN_MS, Epoch
from worker.errors import Unavailable
from worker.ports import EntryState
from worker.recovery import Recovery
from worker.rescue import Rescue
from worker.testing import MemoryRegister
from worker.wire.epoch import decode_epoch

if TYPE_CHECKING:
    from worker.ports import Artifacts
    from worker.steps.workspace import Workspace
    from worker.wire.result import DiagnoseResult

__all__ = ["workspace"]


class Guarded(World):
    """The world of the recovery tests, with a register, and workers that look after it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.register = MemoryRegister(self.clock)
        self.nonces = 0
        self.killed = 0
        self.published_again: list[DiagnoseResult] = []
        self.epoch, self.rescue = self.worker("a")

    def worker(self, name: str, *, by_itself: bool = True) -> tuple[Epoch, Rescue]:
        artifacts = cast("Artifacts", self.artifacts)
        epoch = Epoch(
            cast("MemoryRegister", self),
            artifacts,
            self.clock,
            fleet="diagnosis",
            owner=name,
            new_nonce=self.new_nonce,
            accounts=lambda: self.ledger.accounts(),  # noqa: PLW0108 - a lost one is another
            now_s=self.now_s,
        )
        recovery = Recovery(
            runner=self.runner,
            journal=self.journal,
            ledger=self.ledger,
            artifacts=artifacts,
            save=lambda name: self.runner._checkpoint_all(name),  # noqa: PLW0108 - as above
            publish=lambda result, _: self.published_again.append(result),
        )
        return epoch, Rescue(
            epoch=epoch,
            register=cast("MemoryRegister", self),
            recovery=recovery,
            ledger=self.ledger,
            kill=self.kill,
            artifacts=artifacts,
            clock=self.clock,
            owner=name,
            by_itself=by_itself,
            now_s=self.now_s,
        )

    def __getattr__(self, name: str) -> Any:
        """Be the register too: the one of the Redis that there is now."""
        return getattr(self.__dict__["register"], name)

    def now_s(self) -> float:
        return self.clock.now_ms() / 1000

    def new_nonce(self) -> str:
        self.nonces += 1
        return f"n{self.nonces}"

    def kill(self) -> None:
        self.killed += 1

    def lose_all(self) -> None:
        self.lossy_journal.lose_everything()
        self.lossy_ledger.lose_everything()
        self.hints.clear()
        self.register = MemoryRegister(self.clock)

    def go_until(self, length: int) -> None:
        while self.journal.load(SESSION).length < length:
            self.go_on()

    def go_to_the_end(self) -> None:
        for _ in range(1_000):
            if self.ended:
                return
            self.go_on()
        raise AssertionError(f"not ended: {self.journal.steps(SESSION)}")

    def newest_epoch(self) -> tuple[int, str]:
        name = self.artifacts.list(keys.epochs())[-1]
        return keys.number_of(name), decode_epoch(self.artifacts.get(name) or b"").why


@pytest.fixture
def world(workspace: Workspace) -> Guarded:
    made = Guarded(workspace)
    assert made.rescue.tend().ready
    made.open()
    return made


def test_an_emptied_redis_is_rebuilt_and_its_session_goes_on(world: Guarded) -> None:
    world.go_until(9)
    stored = world.recovery.stored(SESSION)
    assert stored is not None
    world.lose_all()

    tended = world.rescue.tend()

    assert tended.ready
    assert [(row.session_id, row.status) for row in tended.rescued or ()] == [(SESSION, "restored")]
    assert world.newest_epoch() == (2, "empty")
    assert world.journal.load(SESSION).records == stored.records
    world.go_to_the_end()
    assert world.posted_nusd() >= world.bill.billed_nusd
    assert world.rescue.tend().rescued is None


def test_the_accounts_come_back_with_the_caps_and_locks_that_they_had(world: Guarded) -> None:
    world.ledger.set_cap("campaign:default", 7_000_000_000)
    world.ledger.open_account("tenant:frozen", 5)
    world.ledger.freeze("tenant:frozen")
    world.register.killed = True
    assert world.epoch.mark(at_once=True)
    world.lose_all()
    world.fund()

    assert world.rescue.tend().ready

    campaign, frozen = (
        world.ledger.account("campaign:default"),
        world.ledger.account("tenant:frozen"),
    )
    assert campaign is not None
    assert frozen is not None
    assert (campaign.cap_nusd, frozen.cap_nusd, frozen.frozen) == (7_000_000_000, 5, True)
    assert world.killed == 1


def test_an_ended_session_counts_again_and_its_result_is_published_again(world: Guarded) -> None:
    world.go_to_the_end()
    spent_nusd = world.posted_nusd()
    world.lose_all()

    assert world.rescue.tend().ready

    assert world.posted_nusd() == spent_nusd
    assert world.journal.labels(SESSION)["status"] == "ended"
    (result,) = world.published_again
    assert result == world.published[0]
    assert (result.session_id, result.outcome) == (SESSION, "concluded")
    assert result.cost_nusd == spent_nusd
    ended = session_of(world.journal.load(SESSION).records).ended
    assert ended is not None
    assert result.manifest_sha256 == ended.manifest_sha256


@pytest.mark.parametrize("further", [0, 1, 4])
def test_an_older_copy_is_brought_forward_to_what_is_stored(world: Guarded, further: int) -> None:
    world.go_until(5)
    older, register = copy_of(world), world.register
    marked = register.standing()
    world.go_until(9)
    assert world.epoch.mark(at_once=True)
    stored = world.recovery.stored(SESSION)
    assert stored is not None

    go_back(world, older)
    world.register = MemoryRegister(world.clock)
    world.register.begin(marked.epoch, expected="")
    world.register._mark = marked.mark
    # Nobody looks, and the copy goes on as far as it can.
    for _ in range(further):
        world.go_on()
    tended = world.rescue.tend()

    assert tended.ready, tended.why
    assert world.newest_epoch() == (2, "older")
    records = world.journal.load(SESSION).records
    assert records[: len(stored.records)] == stored.records
    world.go_to_the_end()
    assert world.posted_nusd() >= world.bill.billed_nusd
    assert len(world.artifacts.list(keys.epochs())) == 2


def test_money_that_an_older_copy_held_gets_the_outcome_that_is_stored(world: Guarded) -> None:
    while not any(e.state is EntryState.SENT for e in world.ledger.entries(SESSION)):
        world.go_on()
        if world.journal.load(SESSION).length > 3:
            break
    older, marked = copy_of(world), world.register.standing()
    for entry in older[1].entries(SESSION):
        # As if the copy had been taken while the call was under way.
        books = older[1]._books.reservations[entry.reservation_id]
        if entry.state is EntryState.SETTLED:
            books.state, books.actual = EntryState.SENT, 0
            for scope in entry.scopes:
                account = older[1]._books.accounts[scope]
                account.posted -= entry.actual_nusd
                account.held += entry.amount_nusd
    world.go_until(9)
    assert world.epoch.mark(at_once=True)
    go_back(world, older)
    world.register = MemoryRegister(world.clock)
    world.register.begin(marked.epoch, expected="")

    assert world.rescue.tend().ready

    world.go_to_the_end()
    entries = {entry.reservation_id: entry for entry in world.ledger.entries(SESSION)}
    assert entries[f"{SESSION}/turn/1/1.1"].state is EntryState.SETTLED
    assert world.posted_nusd() >= world.bill.billed_nusd


def test_a_session_whose_journal_is_damaged_is_charged_for_all_it_may_have_paid(
    world: Guarded,
) -> None:
    world.go_until(9)
    names = world.artifacts.list(keys.checkpoints(SESSION))
    world.artifacts.delete(names[1])
    world.lose_all()

    tended = world.rescue.tend()

    assert tended.ready
    assert [row.status for row in tended.rescued or ()] == ["charged"]
    fleet = world.ledger.account("fleet")
    assert fleet is not None
    assert fleet.posted_nusd >= world.bill.billed_nusd > 0
    assert not world.journal.labels(SESSION)


def test_where_the_money_cannot_be_proven_nothing_is_held_until_somebody_says_so(
    world: Guarded,
) -> None:
    world.go_until(9)
    world.artifacts.delete(world.artifacts.list(keys.checkpoints(SESSION))[1])
    note = world.artifacts.list(keys.sent_all(SESSION))[0]
    world.artifacts.put(note, b'{"v": 99}', content_type="application/json")
    world.lose_all()

    tended = world.rescue.tend()

    assert not tended.ready
    assert [row.status for row in tended.rescued or ()] == ["failed"]
    with pytest.raises(Unavailable), world.epoch.trusted():
        raise AssertionError("money was held")
    # It is not tried again at once, but after a while.
    assert world.rescue.tend().rescued is None
    world.clock.advance(TURN_MS)
    assert world.rescue.tend().rescued is not None

    assert world.rescue.accept()
    assert world.rescue.tend().ready
    assert world.newest_epoch() == (2, "accepted")


def test_what_no_session_accounts_for_any_more_is_carried_over(world: Guarded) -> None:
    world.go_to_the_end()
    spent_nusd = world.posted_nusd()
    assert world.epoch.mark(at_once=True)
    # As a lifecycle rule does, some day.
    for name in (*world.artifacts.list("checkpoints/"), *world.artifacts.list("sent/")):
        world.artifacts.delete(name)
    world.lose_all()

    assert world.rescue.tend().ready

    assert [world.posted_nusd(scope) for scope in SCOPES] == [spent_nusd] * 3


def test_of_two_workers_that_notice_at_once_one_rebuilds(world: Guarded) -> None:
    world.go_until(9)
    _, second = world.worker("b")
    assert second.tend().ready
    world.lose_all()
    world.register.take_turn("rescue", "b", for_ms=TURN_MS)

    assert not world.rescue.tend().ready
    assert second.tend().ready
    assert world.rescue.tend().ready

    assert world.newest_epoch() == (2, "empty")
    assert len(world.artifacts.list(keys.epochs())) == 2


def test_a_rebuilding_that_was_cut_is_begun_anew(world: Guarded) -> None:
    world.go_until(9)
    world.lose_all()
    assert world.recovery.recover(SESSION).status == "restored"
    world.register.take_turn("rescue", "dead", for_ms=TURN_MS)
    assert not world.rescue.tend().ready

    world.clock.advance(TURN_MS)

    assert world.rescue.tend().ready
    world.go_to_the_end()
    assert world.posted_nusd() >= world.bill.billed_nusd


def test_where_the_settings_say_so_workers_wait_for_somebody(world: Guarded) -> None:
    world.go_until(9)
    _, waiting = world.worker("b", by_itself=False)
    world.lose_all()

    tended = waiting.tend()

    assert not tended.ready
    assert "lost all its data" in tended.why
    assert not world.journal.labels(SESSION)
    rows = waiting.rescue()
    assert rows is not None
    assert waiting.tend().ready


def test_a_request_that_went_out_in_a_lost_history_does_not_go_out_again(world: Guarded) -> None:
    """The journal and the ledger go back a turn, and nobody has noticed: the store has."""
    world.go_until(3)
    older, asked = copy_of(world), world.purposes["explore"]
    while world.purposes["explore"] == asked:
        world.go_on()
    go_back(world, older)

    while not any("went out before" in doubt for doubt in world.doubts):
        world.go_on()

    assert world.purposes["explore"] == asked + 1
    world.epoch.doubt(world.doubts[-1])
    assert world.rescue.tend().ready
    world.go_to_the_end()
    assert world.purposes["explore"] == 4
    assert world.posted_nusd() == world.bill.billed_nusd


def test_while_redis_is_whole_there_is_nothing_to_do(world: Guarded) -> None:
    for _ in range(5):
        world.clock.advance(20_000)
        tended = world.rescue.tend()
        assert tended.ready
        assert tended.rescued is None
    assert world.newest_epoch() == (1, "provisioned")
    assert world.epoch.look(deep=True).verdict is Verdict.WHOLE


def test_with_no_session_stored_it_is_one_workers_turn_as_well(workspace: Workspace) -> None:
    world = Guarded(workspace)
    assert world.rescue.tend().ready
    world.lose_all()
    world.register.take_turn("rescue", "b", for_ms=TURN_MS)

    assert not world.rescue.tend().ready
    assert world.newest_epoch() == (1, "provisioned")

    world.clock.advance(TURN_MS)
    assert world.rescue.tend().ready
    assert world.newest_epoch() == (2, "empty")
