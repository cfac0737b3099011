"""Random schedules of everything a ledger can be told, and the invariants of the money.

Rule: after every step the accounts are computed again from the reservations. With a second ledger
the two are told the same, and must say the same.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.unit.money.transitions import Retold
from worker.core.values import Usage
from worker.errors import DiagnosisError
from worker.ledger.memory import MemoryLedger
from worker.ports import Account, Entry, EntryState
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.values import CallKind
    from worker.ledger.redis import RedisLedger
    from worker.ports import Transition

__all__ = ["LedgerMachine"]

SESSIONS = ("s1", "s2", "s3")
CAPS = {
    "fleet": 250,
    "tenant:a": 200,
    "tenant:b": 100,
    "campaign:x": 180,
    "campaign:y": 120,
    "session:s1": 100,
    "session:s2": 90,
    "session:s3": 60,
}
KINDS: tuple[CallKind, ...] = ("explore", "close", "judge", "self_run")
#: Overdue at the next `expire_overdue`, or never.
SHORT_MS, LONG_MS = 1, 1_000_000_000

DEADLINES = st.sampled_from((SHORT_MS, LONG_MS, LONG_MS))
PARTS = st.sampled_from((0.0, 0.3, 1.0))
#: What an operator may do; what stops the money is undone more often than done.
WORDS = ("cap", "cap", "freeze", "unfreeze", "unfreeze", "close", "kill", "revive", "revive")
AMOUNTS = st.integers(1, 60)
SCOPES = st.tuples(
    st.just("fleet"),
    st.sampled_from(("tenant:a", "tenant:b")),
    st.sampled_from(("campaign:x", "campaign:y")),
    st.sampled_from([f"session:{session}" for session in SESSIONS]),
)
ACCOUNTS = st.sampled_from(sorted(CAPS))


@dataclass(frozen=True)
class Books:
    """All that a ledger shows."""

    accounts: dict[str, Account]
    entries: dict[str, Entry]
    #: The sessions' entries, in order.
    order: tuple[str, ...]


class LedgerMachine(RuleBasedStateMachine):
    """Drives the ledger in memory, and a second one where `second` is set."""

    second: RedisLedger | None = None
    #: The second ledger once more, to look at it through another connection.
    view: RedisLedger | None = None

    made = Bundle("made")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.memory = MemoryLedger(self.clock)
        self.books = Books({}, {}, ())
        #: What the provider billed, which no ledger knows before it is told.
        self.billed: dict[str, int] = {}
        #: How often somebody was told to go ahead and send.
        self.sends: Counter[str] = Counter()
        self.administered = 0
        #: What was put back since the last look, which is charged whatever the caps say.
        self.restored: Counter[str] = Counter()
        #: What left the stream of transitions.
        self.archived: list[Transition] = []

    # ---------------------------------------------------------------------------------- doing

    def tell(self, operation: Callable[[MemoryLedger | RedisLedger], Any]) -> bool:
        """Carry out an operation; whether it was not refused."""
        said = outcome(operation, self.memory)
        if self.second is not None:
            assert outcome(operation, self.second) == said
        return said[0] == "did"

    @initialize()
    def open_accounts(self) -> None:
        for ledger in (self.memory, *([self.second] if self.second else [])):
            for scope, cap in CAPS.items():
                ledger.open_account(scope, cap)
        self.books = self.look()

    @rule(
        target=made,
        number=st.integers(0, 99),
        amount=AMOUNTS,
        scopes=SCOPES,
        kind=st.sampled_from(KINDS),
        deadline_ms=DEADLINES,
        replaces=st.none() | made,
    )
    def reserve(
        self,
        *,
        number: int,
        amount: int,
        scopes: tuple[str, ...],
        kind: CallKind,
        deadline_ms: int,
        replaces: str | None,
    ) -> str:
        rid = f"r{number}"
        self.hold(rid, amount, scopes, kind=kind, deadline_ms=deadline_ms, replaces=replaces)
        return rid

    @rule(target=made, number=st.integers(0, 99), amount=AMOUNTS, scopes=SCOPES, part=PARTS)
    def reserve_and_send(
        self, number: int, amount: int, scopes: tuple[str, ...], part: float
    ) -> str:
        rid = f"r{number}"
        if self.hold(rid, amount, scopes):
            self.books = self.look()
            self.send_and_be_billed(rid, part)
        return rid

    def hold(
        self,
        rid: str,
        amount: int,
        scopes: tuple[str, ...],
        *,
        kind: CallKind = "explore",
        deadline_ms: int = LONG_MS,
        replaces: str | None = None,
    ) -> bool:
        return self.tell(
            lambda ledger: ledger.reserve(
                rid,
                amount,
                scopes,
                kind=kind,
                model="claude-opus-4-6",
                step_id="turn/1",
                price_version="v",
                deadline_ms=deadline_ms,
                replaces=replaces,
            )
        )

    @rule(rid=made)
    def reserve_again(self, rid: str) -> None:
        entry = self.books.entries.get(rid)
        if entry is not None:
            self.hold(rid, entry.amount_nusd, entry.scopes, kind=entry.kind)

    @rule(rid=made, part=PARTS)
    def send_and_be_billed(self, rid: str, part: float) -> None:
        if self.tell(lambda ledger: ledger.sent(rid)):
            self.sends[rid] += 1
            self.billed[rid] = int(self.books.entries[rid].amount_nusd * part)

    @rule(rid=made, amount=AMOUNTS, request_id=st.sampled_from(("", "req_1", "req_2")))
    def narrow(self, rid: str, amount: int, request_id: str) -> None:
        bound = max(amount, self.billed.get(rid, 0))
        self.tell(lambda ledger: ledger.narrow(rid, bound, request_id))

    @rule(rid=made, deadline_ms=DEADLINES)
    def extend(self, rid: str, deadline_ms: int) -> None:
        self.tell(lambda ledger: ledger.extend(rid, deadline_ms))

    @rule(rid=made)
    def settle(self, rid: str) -> None:
        self.settle_at(rid, self.billed.get(rid, 0))

    @rule(rid=made, extra=st.integers(1, 30))
    def be_billed_above_the_bound(self, rid: str, extra: int) -> None:
        entry = self.books.entries.get(rid)
        if entry is not None and entry.state is not EntryState.SETTLED:
            self.billed[rid] = entry.amount_nusd + extra
            self.settle_at(rid, self.billed[rid])

    def settle_at(self, rid: str, actual: int) -> None:
        usage = Usage(output_tokens=actual)
        self.tell(
            lambda ledger: ledger.settle(
                rid, actual, usage=usage, request_id=f"req_{rid}", message_id=f"msg_{rid}"
            )
        )

    @rule(rid=made)
    def void_what_was_not_billed(self, rid: str) -> None:
        if self.billed.get(rid, 0) == 0:
            self.tell(lambda ledger: ledger.void(rid, "429"))

    @rule(rid=made, request_id=st.sampled_from(("", "req")))
    def charge_unknown(self, rid: str, request_id: str) -> None:
        self.tell(lambda ledger: ledger.charge_unknown(rid, "time-out", request_id))

    @rule(rid=made)
    def refund_what_was_not_billed(self, rid: str) -> None:
        if self.billed.get(rid, 0) == 0:
            self.tell(lambda ledger: ledger.refund(rid, "not in the export"))

    @rule(
        target=made,
        number=st.integers(0, 119),
        state=st.sampled_from([state for state in EntryState if state is not EntryState.SENT]),
        amount=AMOUNTS,
        scopes=SCOPES,
    )
    def restore(self, number: int, state: EntryState, amount: int, scopes: tuple[str, ...]) -> str:
        """Put back what a lost ledger knew; what is known here already stays as it is."""
        rid = f"r{number}"
        charged = {EntryState.SETTLED: amount // 2, EntryState.EXPIRED: amount}.get(state, 0)
        entry = Entry(
            reservation_id=rid,
            state=state,
            amount_nusd=amount,
            actual_nusd=charged,
            scopes=scopes,
            kind="explore",
            model="claude-opus-4-6",
            step_id="turn/1",
            price_version="v",
            created_ms=0,
            usage=Usage(output_tokens=charged) if state is EntryState.SETTLED else None,
        )
        if rid not in self.books.entries:
            self.billed[rid] = charged if state is EntryState.SETTLED else 0
            self.restored.update(dict.fromkeys(scopes, charged))
        self.tell(lambda ledger: restored(ledger, entry))
        return rid

    @precondition(lambda self: self.second is not None)
    @rule(most=st.integers(1, 20))
    def archive_a_part(self, most: int) -> None:
        """Take the oldest transitions out of the stream, as whoever archives them does."""
        assert self.second is not None
        part = self.second.next_part(most=most, age_ms=0)
        if part is not None:
            assert self.second.next_part(most=most + 7, age_ms=0) == part
            self.archived.extend(self.second.transitions(*part))
            self.second.forget_part(part[1])

    @precondition(lambda self: self.books.entries)
    @rule()
    def expire(self) -> None:
        self.clock.advance(SHORT_MS)
        if self.second is not None:
            time.sleep(2 * SHORT_MS / 1000)  # the server has a clock of its own
        self.tell(expire_all)

    @precondition(lambda self: self.administered < len(self.books.entries))
    @rule(scope=ACCOUNTS, cap=st.integers(0, 300), word=st.sampled_from(WORDS))
    def administer(self, scope: str, cap: int, word: str) -> None:
        self.administered += 1
        match word:
            case "cap":
                self.tell(lambda ledger: ledger.set_cap(scope, cap))
            case "freeze":
                self.tell(lambda ledger: ledger.freeze(scope))
            case "unfreeze":
                for name in CAPS:
                    self.tell(lambda ledger, name=name: ledger.unfreeze(name))
            case "close":
                self.tell(lambda ledger: ledger.close_account("session:s3"))
            case _:
                self.tell(lambda ledger: ledger.kill(on=word == "kill"))

    @rule(session=st.sampled_from(SESSIONS), amount=st.integers(1, 120), scopes=SCOPES)
    def promise(self, session: str, amount: int, scopes: tuple[str, ...]) -> None:
        """No more is promised than the caps carry beside what is spent; a refusal changes nothing."""
        before = {scope: self.memory.rooms([scope])[scope] for scope in scopes[:-1]}
        taken = self.tell(lambda ledger: ledger.promise(session, amount, scopes[:-1]))
        for scope, was in before.items():
            now = self.memory.rooms([scope])[scope]
            assert now.free_nusd == was.free_nusd, "a promise spends nothing"
            assert taken or now == was
            grew = now.promised_nusd > was.promised_nusd
            assert not grew or now.promised_nusd <= now.free_nusd + self.used_by(session)

    @rule(session=st.sampled_from(SESSIONS), amount=st.integers(1, 120), scopes=SCOPES)
    def restore_promise(self, session: str, amount: int, scopes: tuple[str, ...]) -> None:
        """What was lost is promised again, whatever is left; it spends nothing."""
        before = self.memory.rooms(scopes[:-1])
        assert self.tell(lambda ledger: ledger.restore_promise(session, amount, scopes[:-1]))
        for scope, now in self.memory.rooms(scopes[:-1]).items():
            assert now.free_nusd == before[scope].free_nusd

    def used_by(self, session: str) -> int:
        account = self.memory.account(f"session:{session}")
        return account.posted_nusd + account.held_nusd if account else 0

    @rule(session=st.sampled_from(SESSIONS), scopes=SCOPES)
    def release(self, session: str, scopes: tuple[str, ...]) -> None:
        self.tell(lambda ledger: ledger.release(session, scopes[:-1]))

    # --------------------------------------------------------------------------------- looking

    def look(self) -> Books:
        books = seen(self.memory)
        if self.view is not None:
            assert seen(self.view) == books
            assert self.view.rooms(sorted(CAPS)) == self.memory.rooms(sorted(CAPS))
        return books

    @invariant()
    def the_money_adds_up(self) -> None:
        before, self.books = self.books, self.look()
        for scope, account in self.books.accounts.items():
            self.check_cap(account, before.accounts.get(scope))
            self.check_account(account)
        self.check_sums()
        self.restored.clear()
        assert all(count == 1 for count in self.sends.values())  # I6

    @invariant()
    def the_transitions_tell_the_same(self) -> None:
        """Archived or not, each once, and nothing but they is needed to know the accounts."""
        if self.view is None or not self.books.accounts:
            return
        transitions = [*self.archived, *self.view.transitions("-", "+")]
        retold = Retold()
        retold.hear(transitions)
        assert len({one.transition_id for one in transitions}) == len(transitions)
        assert all(retold.shows(account) for account in self.books.accounts.values())
        assert retold.killed == self.view.killed()

    def check_cap(self, account: Account, before: Account | None) -> None:
        """I1, where neither a lowered cap nor a breach left the account above its cap."""
        total = account.posted_nusd + account.held_nusd
        was = before.posted_nusd + before.held_nusd if before else 0
        breached = account.breach_nusd - (before.breach_nusd if before else 0)
        assert account.posted_nusd >= 0
        assert account.held_nusd >= 0
        assert total <= max(account.cap_nusd, was + breached + self.restored[account.scope])

    def check_account(self, account: Account) -> None:
        """I2, I3, I5."""
        entries = [entry for entry in self.books.entries.values() if account.scope in entry.scopes]
        open_, expired = {EntryState.HELD, EntryState.SENT}, {EntryState.EXPIRED}
        held = sum(entry.amount_nusd for entry in entries if entry.state in open_)
        unknown = sum(entry.amount_nusd for entry in entries if entry.state in expired)
        billed = sum(self.billed.get(entry.reservation_id, 0) for entry in entries)

        assert account.held_nusd == held
        assert account.posted_nusd == sum(entry.actual_nusd for entry in entries)
        assert account.unknown_nusd == unknown
        assert billed <= account.posted_nusd + account.held_nusd

    def check_sums(self) -> None:
        """I4: the fleet's money is the tenants', the campaigns', the sessions' and the kinds'."""
        for money in (posted, held):
            by_level: Counter[str] = Counter()
            for scope, account in self.books.accounts.items():
                by_level[scope.partition(":")[0]] += money(account)
            assert len(set(by_level.values())) <= 1
        by_kind: Counter[str] = Counter()
        for entry in self.books.entries.values():
            by_kind[entry.kind] += entry.actual_nusd
        assert by_kind.total() == sum(
            posted(account) for scope, account in self.books.accounts.items() if scope == "fleet"
        )


def expire_all(ledger: MemoryLedger | RedisLedger) -> None:
    """End all that is overdue. How many is not compared: a repeat after a lost reply finds none."""
    ledger.expire_overdue(limit=1_000)


def restored(ledger: MemoryLedger | RedisLedger, entry: Entry) -> None:
    """Put an entry back. Whether it was new is not compared: a repeat after a lost reply finds it."""
    ledger.restore(entry, deadline_ms=LONG_MS)


def posted(account: Account) -> int:
    return account.posted_nusd


def held(account: Account) -> int:
    return account.held_nusd


def outcome(
    operation: Callable[[MemoryLedger | RedisLedger], Any], ledger: MemoryLedger | RedisLedger
) -> tuple[Any, ...]:
    """Return what an operation says, refusals included."""
    try:
        return ("did", operation(ledger))
    except DiagnosisError as refusal:
        return (type(refusal), refusal.message, refusal.facts)


def seen(ledger: MemoryLedger | RedisLedger) -> Books:
    """Return all that a ledger shows, without its clock."""
    sessions = [ledger.account(f"session:{session}") for session in SESSIONS]
    accounts = [*ledger.accounts(), *(account for account in sessions if account is not None)]
    entries = [entry for session in SESSIONS for entry in ledger.entries(session)]
    return Books(
        accounts={account.scope: account for account in accounts},
        entries={entry.reservation_id: replace(entry, created_ms=0) for entry in entries},
        order=tuple(entry.reservation_id for entry in entries),
    )
