"""What a worker does about the loss of Redis: it rebuilds all that the object store has, and goes on.

Rule: money first, and all of it: nothing is reserved in the new epoch before every account holds at
least what any stored copy of it said, and every session's requests are charged. Where that cannot be
proven Redis stays untrusted, sessions wait, and somebody is told. Doing it twice, or in two workers
at once, does nothing more.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import structlog

from worker.core import keys
from worker.core.checkpoints import CheckpointsDamaged
from worker.core.epoch import Verdict, epoch_number
from worker.core.prices import PRICE_VERSION
from worker.epoch import RESCUE, TURN_MS
from worker.errors import BadInput, DiagnosisError, IllegalEvent, Misconfigured, Unavailable
from worker.ledger.keys import is_session
from worker.ports import Entry, EntryState
from worker.recovery import Recovered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from worker.epoch import Epoch
    from worker.ports import Artifacts, Clock, Ledger, Register
    from worker.recovery import Recovery
    from worker.wire.epoch import StoredMark

__all__ = ["Rescue", "Tended"]

#: Sessions that are rebuilt side by side: each is a few requests to the object store.
SIDE_BY_SIDE = 8
#: How many epochs back a mark is looked for: one may have ended before its first.
MARKS_BACK = 3

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tended:
    """How a worker stands: whether it can work, and if not why."""

    ready: bool
    why: str = ""
    #: What was rebuilt just now; None where nothing had to be.
    rescued: tuple[Recovered, ...] | None = None


class _TakenOver(Exception):
    """Another worker rebuilds now. Cure: none needed."""


class Rescue:
    """Looks after the epoch. One a process; `tend` is called by one thread."""

    def __init__(
        self,
        *,
        epoch: Epoch,
        register: Register,
        recovery: Recovery,
        ledger: Ledger,
        kill: Callable[[], None],
        artifacts: Artifacts,
        clock: Clock,
        owner: str,
        by_itself: bool = True,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what is looked after.

        Args:
            epoch: Says what Redis is.
            register: Where the epoch is kept in Redis.
            recovery: Rebuilds a session.
            ledger: Has the accounts.
            kill: Turns the kill switch on.
            artifacts: Have all that was stored.
            clock: For reports.
            owner: This process.
            by_itself: Whether `tend` rebuilds; where not, somebody says `diagnosis recover --all`.
            now_s: This process's clock.
        """
        self._now_s = now_s
        #: What could not be done a moment ago cannot be done now.
        self._not_before_s = -1e9
        self._epoch = epoch
        self._register = register
        self._recovery = recovery
        self._ledger = ledger
        self._kill = kill
        self._artifacts = artifacts
        self._clock = clock
        self._owner = owner
        self._by_itself = by_itself

    def tend(self) -> Tended:
        """Look at Redis, rebuild what it lost, mark its progress; say how this worker stands."""
        try:
            look = self._epoch.refresh()
            rescued = None
            if look.verdict in {Verdict.EMPTY, Verdict.OLDER} and self._may_rescue():
                rescued = self.rescue()
                look = self._epoch.look()
            if look.verdict is not Verdict.WHOLE:
                return Tended(ready=False, why=look.why, rescued=rescued)
            self._epoch.mark()
        except DiagnosisError as exc:
            return Tended(ready=False, why=str(exc))
        return Tended(ready=True, rescued=rescued)

    def _may_rescue(self) -> bool:
        return self._by_itself and self._now_s() >= self._not_before_s

    def rescue(self) -> tuple[Recovered, ...] | None:
        """Rebuild what Redis lost and begin a new epoch; None where another worker does.

        Sessions that could not be rebuilt are among what is returned, as `charged` or `failed`; with
        one that failed no epoch begins.

        Raises:
            Unavailable: Redis or the object store did not answer; it can be said again.
        """
        if not self._register.take_turn(RESCUE, self._owner, for_ms=TURN_MS):
            return None
        # Another one may have done it since.
        look = self._epoch.look(deep=True)
        if look.verdict not in {Verdict.EMPTY, Verdict.OLDER}:
            self._epoch.release()
            return None
        _log.warning("rescue begins", verdict=look.verdict.value, why=look.why)
        if look.epoch:
            self._register.doubt(look.epoch, look.why or "it is an older copy")
        newest = self._newest_epoch()
        mark = self._mark(newest)
        self._restore_accounts(mark)
        try:
            rows = self._restore_sessions(is_older=look.verdict is Verdict.OLDER)
        except _TakenOver:
            return None
        self._carry_over(newest, mark, rows)
        if any(row.status == "failed" for row in rows):
            _log.error(
                "rescue cannot prove that all money is there", cure=_CURE, failed=_named(rows)
            )
            self._not_before_s = self._now_s() + TURN_MS / 1000
            return rows
        begun = self._epoch.begin(after=newest, expected=look.epoch, why=look.verdict.value)
        self._epoch.release()
        _log.warning("rescue ends", epoch=begun, sessions=len(rows), not_rebuilt=_named(rows))
        return rows

    def accept(self) -> str:
        """Begin a new epoch on this Redis as it is, whatever it is; return the epoch's name.

        Raises:
            Unavailable: Redis or the object store did not answer.
            Misconfigured: Another process began one at the same moment.
        """
        standing = self._register.standing()
        after = max(self._newest_epoch(), epoch_number(standing.epoch))
        begun = self._epoch.begin(after=after, expected=standing.epoch, why="accepted")
        if not begun:
            raise Misconfigured("another process began an epoch at this moment: see `doctor`")
        return begun

    # --------------------------------------------------------------------------------- money

    def _newest_epoch(self) -> int:
        names = self._artifacts.list(keys.epochs())
        return keys.number_of(names[-1]) if names else 0

    def _mark(self, newest: int) -> StoredMark | None:
        """Return the newest mark that is stored, of the newest epoch that has one."""
        for number in range(newest, max(newest - MARKS_BACK, 0), -1):
            mark = self._epoch.newest_mark(f"{number:08d}-")
            if mark is not None:
                return mark
        return None

    def _restore_accounts(self, mark: StoredMark | None) -> None:
        """Give the accounts that outlast sessions the caps and locks that they had."""
        if mark is None:
            return
        for account in mark.accounts:
            self._ledger.open_account(account.scope, account.cap_nusd)
            self._ledger.set_cap(account.scope, account.cap_nusd)
            if account.frozen:
                self._ledger.freeze(account.scope)
        if mark.killed:
            self._kill()

    def _carry_over(self, newest: int, mark: StoredMark | None, rows: Iterable[Recovered]) -> None:
        """Charge each account what a stored copy of it had spent and no session accounts for.

        That is the money of sessions whose parts have left the object store.
        """
        spent: defaultdict[str, int] = defaultdict(int)
        told = [account for row in rows if row.stored for account in row.stored.accounts]
        for account in (*(mark.accounts if mark else ()), *told):
            if not is_session(account.scope):
                spent[account.scope] = max(spent[account.scope], account.posted_nusd)
        for scope, posted_nusd in spent.items():
            account = self._ledger.account(scope)
            missing_nusd = posted_nusd - (account.posted_nusd if account else 0)
            if missing_nusd > 0:
                _log.warning("money carried over", scope=scope, nusd=missing_nusd)
                self._ledger.restore(self._carried(newest, scope, missing_nusd), deadline_ms=0)

    def _carried(self, newest: int, scope: str, nusd: int) -> Entry:
        return Entry(
            reservation_id=f"carried/{newest}/{scope}",
            state=EntryState.SETTLED,
            amount_nusd=nusd,
            actual_nusd=nusd,
            scopes=(scope,),
            kind="close",
            model="",
            step_id="carried",
            price_version=PRICE_VERSION,
            created_ms=self._clock.now_ms(),
        )

    # ------------------------------------------------------------------------------ sessions

    def _restore_sessions(self, *, is_older: bool) -> tuple[Recovered, ...]:
        """Rebuild all sessions that are stored, some at a time.

        Raises:
            _TakenOver: This worker was thought to be dead.
        """
        names = self._artifacts.list(keys.checkpoints())
        session_ids = [one for one, _ in groupby(names, _session_of)]
        #: One has failed: the others need not begin.
        lost = threading.Event()

        def one(session_id: str) -> Recovered:
            try:
                self._keep_turn(lost)
                return self._restore_one(session_id, is_older=is_older)
            except BaseException:
                lost.set()
                raise

        with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="rescue") as pool:
            return tuple(pool.map(one, session_ids))

    def _keep_turn(self, lost: threading.Event) -> None:
        """Go on being the one that rebuilds.

        Raises:
            _TakenOver: Another worker is, or another thread of this one found that or worse.
        """
        if lost.is_set() or not self._register.take_turn(RESCUE, self._owner, for_ms=TURN_MS):
            raise _TakenOver

    def _restore_one(self, session_id: str, *, is_older: bool) -> Recovered:
        try:
            if is_older:
                return self._recovery.bring_forward(session_id)
            return self._recovery.recover(session_id)
        except Unavailable:
            raise
        except (CheckpointsDamaged, IllegalEvent, BadInput) as exc:
            return self._charge(session_id, exc)

    def _charge(self, session_id: str, why: DiagnosisError) -> Recovered:
        """Charge a session that cannot be rebuilt with all that may have been paid for it."""
        try:
            notes = self._recovery.charge_notes(session_id)
        except BadInput as exc:
            _log.error("session not rebuilt, nor charged", session_id=session_id, error=str(exc))
            return Recovered(session_id=session_id, status="failed", why=str(exc))
        _log.error("session not rebuilt", session_id=session_id, charged=notes, error=str(why))
        return Recovered(session_id=session_id, status="charged", why=str(why))


_CURE = "upgrade the workers, or mend what the log names; or, to go on without, `diagnosis recover --accept`"


def _named(rows: Iterable[Recovered]) -> list[str]:
    return [row.session_id for row in rows if row.status in {"charged", "failed"}][:20]


def _session_of(name: str) -> str:
    return keys.checkpointed(name)[0]
