"""Which spooled reply is adopted, when it is settled by another, and when it goes."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.unit.core.strategies import spec_with
from tests.unit.money.test_paid import COST, REPLY, REQUEST, SilentLedger, hold
from worker.core.checkpoints import FIRST_LIFE
from worker.core.events import SessionOpened
from worker.core.machine import fold
from worker.core.values import Limits, Usage
from worker.errors import Unavailable, UnknownVersion
from worker.ports import EntryState
from worker.spool import Spool
from worker.spool.memory import MemoryFolder
from worker.spool.spool import BEGUN_MS, FRESH_MS, LOOK_AGAIN_MS
from worker.steps.context import Step
from worker.testing import ManualClock
from worker.wire.spool import (
    SpoolDamaged,
    Spooled,
    asked_sha256,
    decode_spooled,
    encode_spooled,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.ports import Entry
    from worker.steps.context import Ports

ASKED = asked_sha256(REQUEST)
RID = "s/turn/1/1.1"
DAY_MS = 86_400_000

SPOOLED = Spooled(
    session_id="s",
    step_id="turn/1",
    reservation_id=RID,
    asked_sha256=ASKED,
    max_tokens=8_000,
    cost_nusd=COST,
    price_version="v",
    reply=REPLY,
)


class BrokenFolder(MemoryFolder):
    """A disk that is full, or that nobody may read; each while it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = self.is_away = False

    def list(self) -> dict[str, int]:
        if self.is_away:
            raise PermissionError(13, "Permission denied")
        return dict(super().list())

    def write(self, name: str, body: bytes) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        super().write(name, body)

    @property
    def names(self) -> list[str]:
        return sorted(super().list())


class Machine:
    """A folder and the processes that share it."""

    def __init__(self) -> None:
        self.clock = ManualClock(1_700_000_000_000)
        self.folder = BrokenFolder()
        self.ledger = SilentLedger()
        self.counted: Counter[str] = Counter()
        self.spool = self.process()

    def process(self, *, fleet: str = "redis:6379/0 diagnosis", max_bytes: int = 10_000) -> Spool:
        return Spool(
            self.folder,
            self.ledger,
            self.clock,
            fleet=fleet,
            max_bytes=max_bytes,
            max_age_ms=DAY_MS,
            count=lambda event: self.counted.update([event]),
        )

    def sent(self, reservation_id: str = RID) -> None:
        hold(self.ledger, reservation_id, COST * 2)
        self.ledger.sent(reservation_id)

    def found(self, spool: Spool | None = None, *, attempt: str = "2.1") -> Spooled | None:
        return (spool or self.process()).find(
            "s", "turn/1", reservation_id=f"s/turn/1/{attempt}", asked_sha256=ASKED
        )

    def entry(self) -> Entry:
        (entry,) = self.ledger.entries("s")
        return entry


@pytest.fixture
def machine() -> Machine:
    return Machine()


def wanted(_: str, __: str) -> bool:
    return True


def unwanted(_: str, __: str) -> bool:
    return False


def unknown(_: str, __: str) -> None:
    return None


# -------------------------------------------------------------------------------------- the file


def test_a_reply_comes_back_as_it_was_written() -> None:
    odd = replace(
        REPLY, content=[{"type": "text", "text": "ä\ud800\n"}, {"type": "tool_use", "input": {}}]
    )
    spooled = replace(SPOOLED, reply=odd, written_ms=5)

    assert decode_spooled(encode_spooled(spooled)) == spooled


@given(st.data())
def test_no_damage_goes_unnoticed(data: st.DataObject) -> None:
    raw = bytearray(encode_spooled(SPOOLED))
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del raw[data.draw(st.integers(0, len(raw) - 2)) :]

    with suppress(SpoolDamaged, UnknownVersion):
        assert decode_spooled(bytes(raw)) == SPOOLED  # only the last line end may be lost


def test_what_is_asked_is_model_prompt_and_tools_and_not_how_long_the_answer_may_be() -> None:
    assert asked_sha256(replace(REQUEST, max_tokens=1, timeout_ms=1)) == ASKED
    for other in (
        replace(REQUEST, model="claude-opus-4-5"),
        replace(REQUEST, system=[]),
        replace(REQUEST, messages=[]),
        replace(REQUEST, tools=[{"name": "a"}]),
    ):
        assert asked_sha256(other) != ASKED


# ------------------------------------------------------------------------------------- adopting


@pytest.mark.parametrize("life", [FIRST_LIFE, "1700000000000-00000004"])
def test_steps_name_their_calls_as_the_spool_reads_them(machine: Machine, life: str) -> None:
    step = Step(
        session=fold([SessionOpened(spec=spec_with(Limits()))]),
        step_id="turn/1",
        attempt=7,
        stopped=lambda: False,
        ports=cast("Ports", None),
        life=life,
    )
    session_id, rid = step.session_id, step._reservation_id(2)
    machine.spool.keep(replace(SPOOLED, session_id=session_id, reservation_id=rid))

    asked = {"reservation_id": f"{session_id}/turn/1/8.2", "asked_sha256": ASKED}
    assert machine.spool.find(session_id, "turn/1", **asked) is not None


@pytest.mark.parametrize("attempt", ["2.1", "1.1@17000", "7.1@17000"])
def test_another_process_finds_what_any_attempt_in_any_life_heard(
    machine: Machine, attempt: str
) -> None:
    kept = machine.spool.keep(SPOOLED)

    assert kept == replace(SPOOLED, written_ms=machine.clock.now_ms())
    assert machine.found(attempt=attempt) == kept


def test_another_call_of_the_same_attempt_finds_nothing(machine: Machine) -> None:
    machine.spool.keep(SPOOLED)

    assert machine.found(attempt="2.2") is None


@pytest.mark.parametrize(
    "other",
    [
        replace(SPOOLED, session_id="other"),
        replace(SPOOLED, step_id="turn/2"),
        replace(SPOOLED, asked_sha256="0" * 64),
    ],
)
def test_what_answers_something_else_is_not_adopted(machine: Machine, other: Spooled) -> None:
    machine.spool.keep(other)

    assert machine.found() is None
    assert len(machine.folder.names) == 1


def test_another_fleet_on_this_machine_finds_nothing(machine: Machine) -> None:
    machine.spool.keep(SPOOLED)

    assert machine.found(machine.process(fleet="other:6379/0 diagnosis")) is None


def test_of_several_the_oldest_is_adopted_by_everybody(machine: Machine) -> None:
    first = machine.spool.keep(SPOOLED)
    machine.clock.advance(1)
    machine.process().keep(replace(SPOOLED, reservation_id="s/turn/1/2.1"))

    assert machine.found(attempt="3.1") == first


def test_what_is_damaged_is_removed_and_not_adopted(machine: Machine) -> None:
    machine.spool.keep(SPOOLED)
    (name,) = machine.folder.names
    machine.folder.write(name, b"{}" * 40)

    with capture_logs() as logs:
        assert machine.found() is None

    assert [log["event"] for log in logs] == ["a spooled reply is removed"]
    assert machine.counted["damaged"] == 1
    assert machine.folder.names == []


def test_what_another_version_wrote_is_left_alone_until_it_is_too_old(machine: Machine) -> None:
    machine.spool.keep(SPOOLED)
    (name,) = machine.folder.names
    body = encode_spooled(SPOOLED).replace(b'"v":1', b'"v":2', 1)
    machine.folder.write(name, body)

    assert machine.found() is None
    machine.spool.sweep(unwanted)
    machine.clock.advance(DAY_MS)
    machine.spool.sweep(unwanted)
    assert machine.folder.names == [name]
    machine.clock.advance(LOOK_AGAIN_MS)
    machine.process().sweep(unwanted)
    assert machine.folder.names == []


# ------------------------------------------------------------------------------------- a bad disk


def test_a_full_disk_is_told_of_and_ends_nothing(machine: Machine) -> None:
    machine.folder.is_full = True

    with capture_logs() as logs:
        machine.spool.keep(SPOOLED)

    assert machine.counted == {"failed": 1}
    assert "No space left" in logs[0]["error"]
    assert machine.found() is None


def test_the_spool_never_grows_above_its_limit(machine: Machine) -> None:
    size = len(encode_spooled(replace(SPOOLED, written_ms=machine.clock.now_ms())))
    spool = machine.process(max_bytes=2 * size)

    for attempt in range(1, 4):
        spool.keep(replace(SPOOLED, reservation_id=f"s/turn/1/{attempt}.1"))

    assert machine.counted == {"written": 2, "failed": 1}
    assert sum(machine.folder.list().values()) == 2 * size


def test_a_folder_that_cannot_be_read_is_as_if_there_were_none(machine: Machine) -> None:
    machine.folder.is_away = True

    with capture_logs() as logs:
        assert machine.found(machine.spool) is None
        for _ in range(3):
            machine.spool.sweep(wanted)
        machine.spool.forget("s", "turn/1")

    assert len(logs) == 2  # of the call, and once of the sweeps


# ----------------------------------------------------------------------------------- the sweep


def test_a_fresh_reply_is_left_to_its_own_worker(machine: Machine) -> None:
    machine.sent()
    machine.spool.keep(SPOOLED)
    machine.clock.advance(FRESH_MS - 1)

    machine.process().sweep(unwanted)

    assert machine.entry().state is EntryState.SENT
    assert len(machine.folder.names) == 1


@pytest.mark.parametrize("is_expired", [False, True])
def test_what_its_worker_did_not_settle_is_settled_exactly_by_any_other(
    machine: Machine, *, is_expired: bool
) -> None:
    machine.sent()
    machine.spool.keep(SPOOLED)
    if is_expired:
        machine.ledger.charge_unknown(RID, "deadline")
    machine.clock.advance(FRESH_MS)

    machine.process().sweep(wanted)

    entry = machine.entry()
    assert (entry.state, entry.actual_nusd, entry.usage) == ("settled", COST, REPLY.usage)
    assert (entry.request_id, entry.message_id) == (REPLY.request_id, REPLY.message_id)
    assert machine.ledger.session.unknown_nusd == 0
    assert machine.found() is not None  # its step may still go on from it


@pytest.mark.parametrize(
    ("is_wanted", "stays"), [(wanted, True), (unknown, True), (unwanted, False)]
)
def test_what_is_settled_goes_when_its_step_wants_it_no_more(
    machine: Machine, is_wanted: Callable[[str, str], bool | None], *, stays: bool
) -> None:
    machine.sent()
    machine.spool.keep(SPOOLED)
    machine.clock.advance(FRESH_MS)

    machine.process().sweep(is_wanted)

    assert bool(machine.folder.names) is stays
    assert machine.entry().state is EntryState.SETTLED


def test_what_the_ledger_does_not_know_waits_for_a_recovery(machine: Machine) -> None:
    machine.spool.keep(SPOOLED)
    process = machine.process()
    machine.clock.advance(FRESH_MS)
    process.sweep(unknown)
    assert len(machine.folder.names) == 1

    machine.sent()
    machine.ledger.charge_unknown(RID, "not told whether it was sent")
    machine.clock.advance(LOOK_AGAIN_MS)
    process.sweep(unwanted)

    assert (machine.entry().state, machine.entry().actual_nusd) == (EntryState.SETTLED, COST)
    assert machine.folder.names == []


def test_a_ledger_that_is_away_is_asked_again_at_once(machine: Machine) -> None:
    machine.sent()
    machine.spool.keep(SPOOLED)
    machine.clock.advance(FRESH_MS)
    machine.ledger.silent["settle"] = 1
    process = machine.process()

    with pytest.raises(Unavailable):
        process.sweep(wanted)
    process.sweep(wanted)

    assert machine.entry().state is EntryState.SETTLED


def test_nothing_stays_longer_than_the_limit_and_its_money_is_right_if_that_can_be(
    machine: Machine,
) -> None:
    machine.sent()
    machine.spool.keep(SPOOLED)
    machine.spool.keep(replace(SPOOLED, reservation_id="s/turn/1/9.1"))
    process = machine.process()
    machine.clock.advance(DAY_MS + 1)

    assert machine.found() is None
    process.sweep(wanted)

    assert machine.folder.names == []
    assert machine.counted["too_old"] == 2
    assert (machine.entry().state, machine.entry().actual_nusd) == (EntryState.SETTLED, COST)


def test_what_a_dead_writer_began_goes_and_foreign_files_stay(machine: Machine) -> None:
    machine.spool.keep(SPOOLED)
    (name,) = machine.folder.names
    machine.folder.remove(name)
    machine.folder.write(f"{name}.partial", b"half a re")
    machine.folder.write("notes.txt", b"of somebody")

    machine.clock.advance(BEGUN_MS)
    machine.process().sweep(wanted)
    assert f"{name}.partial" in machine.folder.names
    machine.clock.advance(1)
    machine.process().sweep(wanted)

    assert machine.folder.names == ["notes.txt"]


def test_what_is_committed_goes_at_once_if_it_is_settled(machine: Machine) -> None:
    settled = machine.spool.keep(SPOOLED)
    machine.spool.settled(settled)
    open_ = machine.spool.keep(replace(SPOOLED, reservation_id="s/turn/1/2.1"))
    machine.spool.settled(machine.spool.keep(replace(SPOOLED, step_id="turn/2")))

    machine.spool.forget("s", "turn/1")

    assert machine.found(attempt="3.1") == open_
    assert len(machine.folder.names) == 2


@given(usage=st.builds(Usage, input_tokens=st.integers(0, 9), output_tokens=st.integers(0, 9)))
def test_a_sweep_says_what_the_worker_would_have_said(usage: Usage) -> None:
    ledgers: list[Entry] = []
    for by_sweep in (True, False):
        machine = Machine()
        machine.sent()
        spooled = replace(SPOOLED, reply=replace(REPLY, usage=usage))
        machine.spool.keep(spooled)
        if by_sweep:
            machine.clock.advance(FRESH_MS)
            machine.process().sweep(wanted)
        else:
            ids = {"request_id": REPLY.request_id, "message_id": REPLY.message_id}
            machine.ledger.settle(RID, COST, usage=usage, **ids)
        ledgers.append(machine.entry())

    assert ledgers[0] == ledgers[1]
