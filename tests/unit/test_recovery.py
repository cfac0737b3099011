"""Redis is lost, at every moment of a session, and the session goes on as if nothing had been.

Rule: the world decides when everything but the object store is gone; the code under test is the
runner, the steps, the paid calls, the checkpoints and the recovery.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.chaos.provider import BatchServer, Bill, Provider, StudentServer
from tests.chaos.stories import TASKS, WHOLE, purpose_of, student_says
from tests.unit.bundle.homes import make_home, pack_and_open
from worker.artifacts.memory import MemoryArtifacts
from worker.batched import BatchedTeacher
from worker.checkpoints import Checkpoints, changed_since
from worker.core import keys
from worker.core.costs import Charge, Cost
from worker.core.machine import Session, fold
from worker.door import Door
from worker.errors import RequestInvalid, Unavailable
from worker.heart import Heart
from worker.journal.memory import MemoryJournal
from worker.judge.llm import LlmJudge
from worker.ledger.memory import MemoryLedger
from worker.paid import PaidTeacher
from worker.payloads import Payloads
from worker.ports import EntryState, Record
from worker.recovery import Recovered, Recovery, charged
from worker.refunds import WHY, carry_out
from worker.runner import Runner
from worker.settings import Settings
from worker.steps.context import Ports, closing_hold_id
from worker.steps.workspace import Workspace
from worker.testing import ManualClock
from worker.wire.checkpoint import decode_checkpoint
from worker.wire.costs import cost_of
from worker.wire.journal import decode_all
from worker.wire.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from worker.core.teaching import TeacherReply, TeacherRequest
    from worker.core.values import Usage
    from worker.ports import Announcement, Artifacts, Entry, Journal, Ledger
    from worker.wire.result import DiagnoseResult

SESSION = "s-1"
SCOPES = ("fleet", "tenant:default", "campaign:default")
PLACE = {"tenant": "default", "campaign": "default", "session_id": SESSION}
#: More steps than a turn of the story has: what is done in a turn is stored when it is over.
LOST_EVERY = 12
#: Far more than a session has.
MOMENTS = 1_000
_SETTINGS = Settings.model_validate(
    {
        "teachers": {"default": {}},
        "students": {"default": {"base_url": "http://student/v1", "model": "student"}},
    }
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The stories' tasks."""
    directory = tmp_path_factory.mktemp("home")
    samples: list[dict[str, Any]] = [
        {
            "trace_id": task_id,
            "query": query,
            "reference_answer": reference,
            "metadata": {"scorer": scorer} if scorer else {},
        }
        for task_id, (query, reference, scorer) in TASKS.items()
    ]
    home = make_home(directory / "home", samples=samples)
    with pack_and_open(home, directory) as bundle:
        yield Workspace(bundle)


class Lossy:
    """A server that can lose everything; whoever talks to it goes on talking to it."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        self.inner: Any = make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def lose_everything(self) -> None:
        self.inner = self._make()


class Away(MemoryArtifacts):
    """An object store that can be away."""

    away = False
    all_away = False

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        if self.all_away or (self.away and key.startswith("checkpoints/")):
            raise Unavailable("the store is away")
        return super().put_new(key, body, content_type=content_type)

    def get(self, key: str) -> bytes | None:
        if self.all_away:
            raise Unavailable("the store is away")
        return super().get(key)


@dataclass
class Asked:
    """A provider that counts what it is asked for."""

    provider: Provider
    purposes: Counter[str]
    asked: Callable[[str], None]

    def send(
        self,
        request: TeacherRequest,
        *,
        on_answer: Callable[[str], None],
        on_start: Callable[[Usage], None],
        stopped: Callable[[], bool],
    ) -> TeacherReply:
        self.purposes[purpose_of(request)] += 1
        self.asked(purpose_of(request))
        return self.provider.send(request, on_answer=on_answer, on_start=on_start, stopped=stopped)


@dataclass
class World:
    """One worker, which lives on when Redis loses everything at the moment `lost_at`."""

    workspace: Workspace
    lost_at: int | None = None
    #: Recovered while the step that was under way goes on, or once it is over.
    at_once: bool = False
    moment: int = 0
    under_way: str = ""
    published: list[DiagnoseResult] = field(default_factory=list["DiagnoseResult"])
    #: What proved that Redis has lost something.
    doubts: list[str] = field(default_factory=list[str])
    purposes: Counter[str] = field(default_factory=Counter[str])
    bill: Bill = field(default_factory=Bill)
    artifacts: Away = field(default_factory=Away)
    clock: ManualClock = field(default_factory=ManualClock)
    hints: deque[Announcement] = field(default_factory=deque[Any])
    #: What Redis held when it was lost.
    before: tuple[Record, ...] = ()
    interrupted: str = ""
    recovered: Recovered | None = None
    #: Another worker, which takes a step whenever the first one waits.
    second: Runner | None = None
    #: What the request says beside.
    asks: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        self.lossy_journal = Lossy(lambda: MemoryJournal(self.clock))
        self.lossy_ledger = Lossy(lambda: MemoryLedger(self.clock))
        self.journal = cast("Journal", self.lossy_journal)
        self.ledger = cast("Ledger", self.lossy_ledger)
        self.fund()
        self.batches = BatchServer(WHOLE, self.bill, Counter(), self.clock)
        self.runner = self.new_runner()
        self.recovery = Recovery(
            runner=self.new_runner(),
            journal=self.journal,
            ledger=self.ledger,
            artifacts=self.artifacts,
        )

    def fund(self) -> None:
        for scope in SCOPES:
            self.ledger.open_account(scope, 100_000_000_000)

    def new_runner(self) -> Runner:
        checkpoints = Checkpoints(
            self.journal,
            self.ledger,
            cast("Artifacts", self.artifacts),
            self.clock,
            doubt=self.doubts.append,
        )
        provider = Provider(WHOLE, self.bill, Counter(), self.elapse)
        teacher = PaidTeacher(
            Asked(provider, self.purposes, self.look),
            self.ledger,
            patience_ms=0,
            note=checkpoints.note_sent,
        )
        tokens = iter(range(MOMENTS * 10))
        ports = Ports(
            ledger=self.ledger,
            artifacts=self.artifacts,
            payloads=Payloads(self.artifacts, inline_bytes=400),
            workspaces=lambda _: self.workspace,
            teachers={"default": teacher},
            batches={
                "default": BatchedTeacher(
                    self.batches,
                    self.ledger,
                    self.clock,
                    first_poll_ms=15_000,
                    patience_ms=0,
                    note=checkpoints.note_sent,
                )
            },
            students={"default": StudentServer(WHOLE, student_says, self.elapse)},
            judge=LlmJudge(),
            clock=self.clock,
            records=lambda session_id: self.journal.load(session_id).records,
            publish=lambda result, _runtime_s: self.published.append(result),
        )
        return Runner(
            journal=self.journal,
            hints=self,
            ports=ports,
            owner="w",
            new_token=lambda: str(next(tokens)),
            chance=lambda: 0.5,
            heart=Heart(self.journal, beat_ms=None),
            checkpoints=checkpoints,
        )

    def look(self, purpose: str) -> None:
        """See that a turn begins only once all before it are stored."""
        stored = self.recovery.stored(SESSION)
        assert stored is not None
        if purpose == "explore" and self.recovered is None and not self.before:
            assert stored.records == self.journal.load(SESSION).records

    def tell(self, announcements: Sequence[Announcement]) -> None:
        self.hints.extend(announcements)

    def elapse(self, by_ms: int) -> None:
        self.clock.advance(by_ms)
        if self.second is not None and self.hints:
            hint = self.hints.popleft()
            self.second.work(hint.session_id, hint.step_id)
        self.pass_moment()

    def pass_moment(self) -> None:
        self.moment += 1
        if self.moment != self.lost_at:
            return
        self.before = self.journal.load(SESSION).records
        self.interrupted = self.under_way
        self.lossy_journal.lose_everything()
        self.lossy_ledger.lose_everything()
        self.hints.clear()
        self.fund()
        if self.at_once:
            self.recovered = self.recovery.recover(SESSION)

    def open(self) -> bool:
        uri = f"s3://diagnosis/bundles/{'0' * 64}.tar.gz"
        request = parse_request({"session_id": SESSION, "bundle": uri, **self.asks})
        door = Door(self.runner, self.ledger, _SETTINGS, reopen=self.recovery.reopen)
        return door.open(request)

    def run(self) -> None:
        self.open()
        self.finish()

    def finish(self) -> None:
        for _ in range(MOMENTS):
            if self.ended:
                return
            self.go_on()
            if self.before and self.recovered is None:
                self.recovered = self.recovery.recover(SESSION)
        raise AssertionError(f"not ended: {self.journal.steps(SESSION)}")

    def go_on(self) -> None:
        if not self.hints:
            self.clock.advance(1_000)
            self.runner.sweep()
            return
        hint = self.hints.popleft()
        self.under_way = hint.step_id
        self.runner.work(hint.session_id, hint.step_id)
        self.under_way = ""
        self.pass_moment()

    @property
    def ended(self) -> bool:
        return self.journal.labels(SESSION).get("status") == "ended"

    def artifact(self, name: str) -> bytes:
        manifest = json.loads(self.artifacts.get(keys.manifest(**PLACE)) or b"{}")
        return self.artifacts.get(manifest["files"][name]["key"]) or b""

    def posted_nusd(self, scope: str = "fleet") -> int:
        account = self.ledger.account(scope)
        assert account is not None
        assert account.held_nusd == 0
        return account.posted_nusd


def session_of(records: Sequence[Record]) -> Session:
    return fold(decode_all(records))


def run(workspace: Workspace, lost_at: int | None = None, *, at_once: bool = False) -> World:
    world = World(workspace, lost_at=lost_at, at_once=at_once)
    world.run()
    return world


@pytest.fixture(scope="module")
def calm(workspace: Workspace) -> World:
    """The same session when nothing is lost."""
    return run(workspace)


def test_a_session_of_which_nothing_is_lost_costs_what_was_billed(calm: World) -> None:
    assert calm.posted_nusd() == calm.bill.billed_nusd
    assert calm.moment > 20
    assert calm.purposes["explore"] == 4


@pytest.mark.parametrize("at_once", [False, True], ids=["after the step", "during the step"])
def test_whenever_redis_is_lost_the_session_ends_as_it_would_have(
    workspace: Workspace, calm: World, *, at_once: bool
) -> None:
    for moment in range(1, calm.moment):
        world = run(workspace, moment, at_once=at_once)

        assert world.recovered is not None, moment
        assert world.recovered.status == "restored", moment
        for name in ("diagnosis.md", "clusters.json"):
            assert facts(world.artifact(name)) == facts(calm.artifact(name)), (moment, name)
        turns_kept(world, calm, moment)
        money_covers_the_bill(world, moment)


def test_a_session_that_stands_still_when_redis_is_lost_still_does_and_goes_on_as_it_would_have(
    workspace: Workspace, calm: World
) -> None:
    paused = 0
    for moment in range(1, calm.moment):
        world = World(workspace)
        world.open()
        while world.moment < moment:
            world.go_on()
        if not world.runner.pause(SESSION, "look at it first"):
            continue
        paused += 1
        entries, records = world.ledger.entries(SESSION), world.journal.load(SESSION).records

        lose_and_recover(world)

        assert world.journal.load(SESSION).records == records, moment
        assert world.ledger.entries(SESSION) == entries, moment
        assert world.runner.resume(SESSION, "looked at"), moment
        world.finish()
        for name in ("diagnosis.md", "clusters.json"):
            assert facts(world.artifact(name)) == facts(calm.artifact(name)), (moment, name)
        assert world.purposes == calm.purposes, moment
        money_covers_the_bill(world, moment)
    assert paused > 15


def test_a_batch_is_not_bought_again_when_redis_is_lost(workspace: Workspace) -> None:
    asks = {"batches": True}
    calm = World(workspace, asks=asks)
    calm.run()
    assert len(calm.batches.made) == 2
    for moment in range(1, calm.moment):
        world = World(workspace, lost_at=moment, asks=asks)
        world.run()

        assert len(world.batches.made) == 2, moment
        for name in ("diagnosis.md", "clusters.json"):
            assert facts(world.artifact(name)) == facts(calm.artifact(name)), (moment, name)
        money_covers_the_bill(world, moment)


def facts(body: bytes) -> list[str]:
    """Return an artifact's lines but for those that say what the session cost."""
    return [line for line in body.decode().splitlines() if "ost" not in line]


def turns_kept(world: World, calm: World, moment: int) -> None:
    """No turn that was committed is lost, or bought again."""
    assert world.recovered is not None
    assert world.recovered.stored is not None
    restored = world.recovered.stored.records
    assert world.before[: len(restored)] == restored, moment
    assert len(session_of(restored).turns) == len(session_of(world.before).turns), moment
    bought_again = int(world.interrupted.startswith("turn/"))
    assert world.purposes["explore"] == calm.purposes["explore"] + bought_again, moment


def money_covers_the_bill(world: World, moment: int) -> None:
    ended = session_of(world.journal.load(SESSION).records).ended
    assert ended is not None
    assert world.posted_nusd() >= world.bill.billed_nusd, moment
    assert ended.cost_nusd >= world.bill.billed_nusd, moment
    assert {world.posted_nusd(scope) for scope in SCOPES} == {world.posted_nusd()}, moment


def test_a_turn_that_two_workers_end_together_is_stored(workspace: Workspace, calm: World) -> None:
    world = World(workspace)
    world.second = world.new_runner()

    world.run()

    assert world.purposes == calm.purposes
    assert facts(world.artifact("clusters.json")) == facts(calm.artifact("clusters.json"))


def test_redis_may_be_lost_again_and_again(workspace: Workspace, calm: World) -> None:
    world = World(workspace)
    world.open()
    for number in range(MOMENTS):
        if world.ended:
            break
        world.go_on()
        if number % LOST_EVERY == 0 and not world.ended:
            world.lost_at = world.moment + 1
            world.pass_moment()
            world.recovery.recover(SESSION)

    assert world.ended
    assert facts(world.artifact("clusters.json")) == facts(calm.artifact("clusters.json"))
    assert world.posted_nusd() >= world.bill.billed_nusd
    assert world.purposes["explore"] == calm.purposes["explore"]


def test_an_ended_session_is_put_back_with_its_money_and_does_nothing(workspace: Workspace) -> None:
    world = run(workspace)
    cost_nusd, asked = world.posted_nusd(), world.purposes.total()
    world.lossy_journal.lose_everything()
    world.lossy_ledger.lose_everything()
    world.fund()

    assert world.recovery.recover(SESSION, ended=False).status == "ended"
    assert world.recovery.recover(SESSION).status == "restored"
    world.runner.sweep()

    assert world.ended
    assert not world.hints
    assert (world.posted_nusd(), world.purposes.total()) == (cost_nusd, asked)
    assert world.recovery.recover(SESSION).status == "known"


def test_what_was_proven_unbilled_is_not_charged_again_when_redis_is_lost(
    workspace: Workspace,
) -> None:
    world = run(workspace)
    spent_nusd = world.posted_nusd()
    unknown = _as(world.ledger.entries(SESSION)[0], f"{SESSION}/turn/9/1.1", EntryState.SENT)
    Checkpoints(world.journal, world.ledger, world.artifacts, world.clock).note_sent(unknown)
    lose_and_recover(world)
    assert world.posted_nusd() == spent_nusd + unknown.amount_nusd
    charge = Charge(
        **{each.name: getattr(cost_of(unknown), each.name) for each in fields(Cost)},
        session=SESSION,
        tenant="default",
        campaign="default",
        night="2023-11-14",
    )
    assert [one.done for one in carry_out(world.ledger, world.artifacts, [charge])] == [True]

    lose_and_recover(world)

    after = {entry.reservation_id: entry for entry in world.ledger.entries(SESSION)}
    assert after[unknown.reservation_id].state is EntryState.REFUNDED
    assert after[unknown.reservation_id].why == WHY
    assert {world.posted_nusd(scope) for scope in SCOPES} == {spent_nusd}


def test_what_a_session_was_promised_is_promised_again_until_it_ends(workspace: Workspace) -> None:
    world = World(workspace, asks={"when_funds_lack": "wait"})
    world.open()
    for _ in range(5):
        world.go_on()
    promised = world.ledger.rooms(SCOPES)
    assert promised["fleet"].promised_nusd > 0

    lose_and_recover(world)

    assert world.ledger.rooms(SCOPES) == promised
    world.finish()
    assert {room.promised_nusd for room in world.ledger.rooms(SCOPES).values()} == {0}
    lose_and_recover(world)
    assert {room.promised_nusd for room in world.ledger.rooms(SCOPES).values()} == {0}


def test_a_session_that_waits_for_its_funds_is_promised_nothing_when_redis_is_lost(
    workspace: Workspace,
) -> None:
    world = World(workspace, asks={"when_funds_lack": "wait"})
    world.ledger.set_cap("tenant:default", 1)
    world.open()
    waits = world.runner.session(SESSION)
    assert waits is not None
    assert waits.paused is not None

    lose_and_recover(world)

    assert {room.promised_nusd for room in world.ledger.rooms(SCOPES).values()} == {0}
    world.clock.advance(2_000)
    world.finish()
    assert world.published[0].outcome == "concluded"


def lose_and_recover(world: World) -> None:
    world.lossy_journal.lose_everything()
    world.lossy_ledger.lose_everything()
    world.fund()
    assert world.recovery.recover(SESSION).status == "restored"


def test_a_dry_run_changes_nothing(workspace: Workspace) -> None:
    world = World(workspace)
    world.open()
    world.lossy_journal.lose_everything()

    assert world.recovery.lost() == (SESSION,)
    assert world.recovery.recover(SESSION, dry_run=True).status == "found"

    assert world.recovery.lost() == (SESSION,)


def test_a_session_of_which_nothing_is_stored_is_refused(workspace: Workspace) -> None:
    world = World(workspace)

    with pytest.raises(RequestInvalid, match="nothing is stored"):
        world.recovery.recover(SESSION)
    assert not world.recovery.reopen(SESSION)


def test_a_lost_session_that_is_asked_for_again_goes_on_and_is_not_begun_again(
    workspace: Workspace, calm: World
) -> None:
    world = World(workspace)
    world.open()
    for _ in range(12):
        world.go_on()
    known = world.journal.load(SESSION).records
    world.lossy_journal.lose_everything()
    world.lossy_ledger.lose_everything()
    world.fund()

    assert not world.open()
    while not world.ended:
        world.go_on()

    assert world.journal.load(SESSION).records[:2] == known[:2]
    assert world.purposes["explore"] == calm.purposes["explore"]


def test_while_the_store_is_away_the_session_goes_on_but_does_not_end(workspace: Workspace) -> None:
    world = World(workspace)
    world.open()
    world.artifacts.away = True
    for _ in range(200):
        world.go_on()

    assert not world.ended
    assert [row.step_id for row in world.journal.steps(SESSION)] == ["conclude"]
    assert world.artifacts.get(keys.manifest(**PLACE)) is None

    world.artifacts.away = False
    for _ in range(200):
        world.go_on()

    assert world.ended
    assert world.recovery.stored(SESSION) is not None


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_a_session_does_not_end_from_an_older_copy_of_redis(workspace: Workspace, lag: int) -> None:
    """`lag`: how many steps are done on the older copy before a turn's end is stored."""
    world = World(workspace)
    world.open()
    older = None
    while world.journal.load(SESSION).length < 9:
        if world.journal.load(SESSION).length == 3 + lag:
            older = older or copy_of(world)
        world.go_on()

    assert older is not None
    go_back(world, older)
    for _ in range(200):
        world.go_on()

    assert not world.ended
    (row,) = world.journal.steps(SESSION)
    assert "holds an older copy" in row.last_error


def copy_of(world: World) -> tuple[Any, Any]:
    """Return what the worker's Redis holds now."""
    journal, ledger = MemoryJournal(world.clock), MemoryLedger(world.clock)
    journal.__dict__.update(_copied(world.lossy_journal.inner))
    ledger.__dict__.update(_copied(world.lossy_ledger.inner))
    return journal, ledger


def _copied(inner: object) -> dict[str, Any]:
    kept = {"lock", "_clock"}
    return {name: deepcopy(value) for name, value in vars(inner).items() if name not in kept}


def go_back(world: World, older: tuple[Any, Any]) -> None:
    world.lossy_journal.inner, world.lossy_ledger.inner = older
    world.hints.clear()
    world.runner = world.new_runner()


def test_the_parts_of_a_journal_are_written_once_each(calm: World) -> None:
    names = calm.artifacts.list(keys.checkpoints(SESSION))
    parts = [decode_checkpoint(calm.artifacts.get(name) or b"") for name in names]

    assert [part.first for part in parts] == [0, *(part.next for part in parts)][:-1]
    assert parts[-1].next == calm.journal.load(SESSION).length
    assert all(part.records for part in parts)


def test_every_reservation_that_was_settled_is_stored_as_settled(calm: World) -> None:
    stored = calm.recovery.stored(SESSION)

    assert stored is not None
    assert stored.posted_nusd == calm.posted_nusd()
    assert stored.unknown_nusd == 0
    assert {entry.state for entry in stored.entries} == {EntryState.SETTLED}


def test_what_may_have_gone_out_is_charged_and_what_was_only_held_is_not(calm: World) -> None:
    stored = calm.recovery.stored(SESSION)
    assert stored is not None
    settled = stored.entries[0]
    hold = _as(settled, closing_hold_id(SESSION), EntryState.HELD)
    held = _as(settled, "held", EntryState.HELD)
    noted = _as(settled, "noted", EntryState.SENT)
    void = _as(settled, "void", EntryState.VOID)

    entries = charged(
        [settled, hold, held, noted, _as(settled, "noted-held", EntryState.HELD), void],
        sent={"noted-held", "void"},
        keep=hold.reservation_id,
    )

    found = {entry.reservation_id: (entry.state, entry.actual_nusd) for entry in entries}
    assert found == {
        settled.reservation_id: (EntryState.SETTLED, settled.actual_nusd),
        hold.reservation_id: (EntryState.HELD, 0),
        "noted": (EntryState.EXPIRED, settled.amount_nusd),
        "noted-held": (EntryState.EXPIRED, settled.amount_nusd),
        "void": (EntryState.VOID, 0),
    }


def test_a_part_tells_the_money_that_no_part_before_it_told_for_good(calm: World) -> None:
    entry = calm.ledger.entries(SESSION)[1]
    before = Record(key="prepare", body="{}", at_ms=entry.created_ms + 1, owner="w", attempt=1)
    record = replace(before, key=entry.step_id)

    assert changed_since(None, [before], [entry]) == (entry,)
    assert changed_since(before, [record], [entry]) == (entry,)
    assert changed_since(before, [before], [entry]) == ()
    assert changed_since(before, [], [_as(entry, "open", EntryState.SENT)]) != ()
    assert changed_since(replace(before, at_ms=entry.created_ms), [], [entry]) == (entry,)


def test_the_first_readers_of_a_part_find_no_field_that_they_do_not_know(calm: World) -> None:
    """They refuse a part with a field that is not among these; what came later stands apart."""
    first = {
        "reservation_id",
        "state",
        "amount_nusd",
        "actual_nusd",
        "scopes",
        "kind",
        "model",
        "step_id",
    }
    first |= {"price_version", "created_ms", "usage", "request_id", "message_id", "why"}

    for name in _parts(calm):
        money = json.loads((calm.artifacts.get(name) or b"").splitlines()[-1])
        for entry in money["entries"]:
            assert entry.keys() <= first
            assert entry.keys() >= first - {"request_id", "message_id", "why"}


def test_what_a_later_version_says_beside_is_passed_over(calm: World) -> None:
    raw = calm.artifacts.get(_parts(calm)[2]) or b""
    head, *records, money = [json.loads(line) for line in raw.splitlines()]
    assert records
    assert money["entries"]
    for said in (*records, *money["entries"], *money["accounts"]):
        said["novelty"] = 1
    later = b"\n".join(json.dumps(line).encode() for line in (head, *records, money))

    assert decode_checkpoint(later) == decode_checkpoint(raw)


def test_a_hold_that_was_told_is_not_told_again(calm: World) -> None:
    entry = calm.ledger.entries(SESSION)[1]
    before = Record(key="prepare", body="{}", at_ms=entry.created_ms + 1, owner="w", attempt=1)
    hold = _as(entry, closing_hold_id(SESSION), EntryState.HELD)

    assert changed_since(before, [], [hold]) == ()
    assert changed_since(replace(before, at_ms=hold.created_ms), [], [hold]) == (hold,)


def test_accounts_are_told_once_and_again_when_a_cap_was_changed(workspace: Workspace) -> None:
    world = World(workspace)
    world.open()
    for _ in range(4):
        world.go_on()
    world.ledger.set_cap("tenant:default", 7_000_000_000)
    world.run()

    told = [decode_checkpoint(world.artifacts.get(name) or b"").accounts for name in _parts(world)]
    stored = world.recovery.stored(SESSION)
    assert stored is not None
    assert [bool(accounts) for accounts in told].count(True) == 2
    assert {a.scope: a.cap_nusd for a in stored.accounts}["tenant:default"] == 7_000_000_000


def test_a_worker_sends_nothing_that_another_has_stored(workspace: Workspace) -> None:
    world = World(workspace)
    first, second = (
        Checkpoints(world.journal, world.ledger, cast("Artifacts", world.artifacts), world.clock)
        for _ in range(2)
    )
    world.open()
    first.save(SESSION)
    second.save(SESSION)
    for _ in range(4):
        world.go_on()
        first.save(SESSION)
    parts = _parts(world)
    world.artifacts.away = True

    second.save(SESSION)

    assert _parts(world) == parts


def _parts(world: World) -> tuple[str, ...]:
    return world.artifacts.list(keys.checkpoints(SESSION))


def _as(entry: Entry, name: str, state: EntryState) -> Entry:
    return replace(entry, reservation_id=name, state=state, actual_nusd=0)


def test_while_all_of_the_store_is_away_a_conclusion_waits_and_then_publishes_once(
    workspace: Workspace, calm: World
) -> None:
    """For ten minutes: no patience is worn out, and what is written is what would have been."""
    world = World(workspace)
    world.open()
    while [row.step_id for row in world.journal.steps(SESSION)] != ["conclude"]:
        world.go_on()
    world.artifacts.all_away = True
    until_ms = world.clock.now_ms() + 600_000
    while world.clock.now_ms() < until_ms:
        world.go_on()
    (row,) = world.journal.steps(SESSION)
    assert (row.step_id, row.retries) == ("conclude", 0)
    assert "away" in row.last_error
    assert world.published == []

    world.artifacts.all_away = False
    while not world.ended:
        world.go_on()

    assert [result.outcome for result in world.published] == ["concluded"]
    assert facts(world.artifact("clusters.json")) == facts(calm.artifact("clusters.json"))
    assert world.posted_nusd() == world.bill.billed_nusd
