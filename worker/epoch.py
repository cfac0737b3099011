"""Notices that Redis has lost something, before anybody spends on the strength of it.

Rule: no money is held on a server that this process has not found whole. It looks when it starts, when
a connection meets another run of a server, when something contradicts Redis, and now and then; in
between it remembers. Looking is cheap (one script), and asks the object store only where it must.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from worker.core import keys
from worker.core.epoch import NO_MARK, Mark, Position, Stored, Verdict, epoch_number, judge
from worker.errors import Unavailable
from worker.redis_connection import OtherServer
from worker.wire.epoch import (
    StoredEpoch,
    StoredMark,
    decode_epoch,
    decode_mark,
    encode_epoch,
    encode_mark,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from worker.ports import Account, Artifacts, Clock, Register

__all__ = ["MARK_MS", "RESCUE", "TURN_MS", "Epoch", "Look", "examine"]

#: How often Redis' progress is marked in the object store: what is lost and older than this is noticed
#: even if every process that knew of it is gone. Each mark is two requests.
MARK_MS = 10_000
#: Marks that stay in the store; the newest one decides, a few more show what happened.
KEPT_MARKS = 8
#: Whose turn it is to set up or rebuild. A worker that says nothing for this long has died, and another
#: one begins anew. It is also how long one that could not finish waits before anybody tries again.
RESCUE = "rescue"
TURN_MS = 15_000
#: How often Redis is looked at again where it moved on meanwhile.
TRIES = 5
#: Threads that wait for the same look take its answer.
FRESH_S = 0.5
_JSON = "application/json"

_log = structlog.get_logger(__name__)

_WHY = {
    Verdict.WHOLE: "",
    Verdict.NEW: "it was never set up",
    Verdict.EMPTY: "it has lost all its data: it is a new server, or was flushed",
    Verdict.OLDER: "it is an older copy: a backup, or a replica that had fallen behind",
    Verdict.FOREIGN: "it and the bucket belong to different fleets: correct DIAGNOSIS_REDIS_URL, "
    "DIAGNOSIS_S3_BUCKET or DIAGNOSIS_KEY_PREFIX; or, if you are sure that this Redis has all there "
    "is, say `diagnosis recover --accept`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at Redis found."""

    verdict: Verdict
    #: The epoch that Redis names; empty where it names none.
    epoch: str = ""
    #: For people; empty where all is well.
    why: str = ""


class Epoch:
    """What this process knows of the epoch. One a process; methods may be called from any thread."""

    def __init__(
        self,
        register: Register,
        artifacts: Artifacts,
        clock: Clock,
        *,
        fleet: str,
        owner: str,
        new_nonce: Callable[[], str],
        accounts: Callable[[], Sequence[Account]],
        mark_ms: int = MARK_MS,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take where to look.

        Args:
            register: In Redis.
            artifacts: Have epochs and marks too.
            clock: For reports.
            fleet: The prefix of all keys in Redis.
            owner: This process.
            new_nonce: Makes a word that nobody guesses.
            accounts: Returns those that outlast sessions, to be stored with each mark.
            mark_ms: How often progress is marked.
            now_s: This process's clock.
        """
        self._register = register
        self._artifacts = artifacts
        self._clock = clock
        self._fleet = fleet
        self._owner = owner
        self._new_nonce = new_nonce
        self._accounts = accounts
        self._mark_ms = mark_ms
        self._now_s = now_s
        self._lock = threading.Lock()
        self._looking = threading.RLock()
        self._under = threading.local()
        #: Which run of which server the connections lead to; None before the first.
        self._run_id: str | None = None
        #: Grows whenever that changes.
        self._generation = 0
        #: The epoch that was found whole; empty where it has to be looked at again.
        self._verified = ""
        #: An epoch, and what proves that something of it is lost.
        self._evidence = ("", "")
        #: An epoch, and the newest transition that was seen in it.
        self._seen = ("", "")
        #: The newest mark that was seen there.
        self._passed = NO_MARK
        self._last = Look(verdict=Verdict.NEW, why="nobody has looked yet")
        self._looked_s = -1e9
        self._asked_store_s = -1e9

    # ------------------------------------------------------------------------ what others ask

    @contextmanager
    def trusted(self) -> Generator[str]:
        """Give the epoch in which money may be held, for as long as the block takes.

        Raises:
            Unavailable: Redis was not found whole, or the object store could not be asked.
        """
        epoch, generation = self._verified_now()
        self._under.generation = generation
        try:
            yield epoch
        except Unavailable:
            self._distrust()
            raise
        finally:
            self._under.generation = None

    def check(self) -> None:
        """Return if Redis is whole at this moment.

        Raises:
            Unavailable: It is not, or it or the object store did not answer.
        """
        look = self.look()
        if look.verdict is not Verdict.WHOLE:
            raise _not_trusted(look)

    def doubt(self, evidence: str) -> None:
        """Say what proves that Redis has lost something."""
        epoch = self._last.epoch
        _log.error("redis contradicted", epoch=epoch, evidence=evidence)
        with self._lock:
            self._evidence = (epoch, evidence)
            self._verified = ""
            self._looked_s = -1e9
        # For all others too; where that fails, this process goes on saying it.
        with suppress(Unavailable):
            self._register.doubt(epoch, evidence)

    def connected(self, run_id: str) -> None:
        """Hear that a new connection leads to this run of a server.

        Raises:
            OtherServer: What is about to be sent was meant for another one, which was trusted.
        """
        with self._lock:
            if run_id != self._run_id or not run_id:
                self._run_id = run_id
                self._generation += 1
                self._verified = ""
                self._looked_s = -1e9
            generation = self._generation
        under: int | None = getattr(self._under, "generation", None)
        if run_id and under is not None and under != generation:
            raise OtherServer("another server, or another run of it, is at Redis' address")

    @property
    def generation(self) -> int:
        """Which run of which server this is, counted by this process: it grows at each other one."""
        return self._generation

    # ------------------------------------------------------------------------------- looking

    def look(self, *, deep: bool = False) -> Look:
        """Look at Redis, and at the object store where needed or `deep`; return what was found.

        Where there is no epoch at all, the first one begins.

        Raises:
            Unavailable: One of them did not answer; what was trusted stays so.
        """
        with self._looking:
            generation, standing = self._standing()
            if not deep and self._is_as_before(standing):
                self._see(standing)
                return self._last
            return self._look_deeply(standing, generation)

    def refresh(self) -> Look:
        """Look, and from time to time see that the store answers and knows of no newer epoch.

        Raises:
            Unavailable: As `look` says.
        """
        look = self.look()
        if look.verdict is not Verdict.WHOLE or not self._is_time_for_store():
            return look
        newer = self._artifacts.exists(keys.epoch(epoch_number(look.epoch) + 1))
        self._asked_store_s = self._now_s()
        return self.look(deep=True) if newer else look

    def _is_time_for_store(self) -> bool:
        return self._now_s() - self._asked_store_s > self._mark_ms / 1000

    def _standing(self) -> tuple[int, Position]:
        """Return how the server stands, and which generation of it that is."""
        while True:
            generation = self._generation
            of, seen = self._seen
            standing = self._register.standing(seen)
            if of != standing.epoch:
                # A new epoch began from what was stored: what was seen in the old one proves nothing.
                standing = replace(standing, has_seen=True)
            if generation == self._generation:
                return generation, standing

    def _is_as_before(self, standing: Position) -> bool:
        with self._lock:
            verified = self._verified
        passed = self._passed
        return (
            verified != ""
            and verified == standing.epoch
            and not standing.doubt
            and standing.has_seen
            and (standing.mark.number > passed.number or standing.mark == passed)
        )

    def _look_deeply(self, standing: Position, generation: int) -> Look:
        stored, standing, generation = self._compare(standing, generation)
        verdict = judge(standing, stored, evidence=self._evidence_in(standing.epoch))
        if verdict is Verdict.NEW and self._set_up():
            generation, standing = self._standing()
            stored, standing, generation = self._compare(standing, generation)
            verdict = judge(standing, stored)
        why = _WHY[verdict]
        if verdict is Verdict.OLDER:
            why = standing.doubt or self._evidence_in(standing.epoch) or why
        return self._keep(
            Look(verdict=verdict, epoch=standing.epoch, why=why), standing, generation
        )

    def _compare(self, standing: Position, generation: int) -> tuple[Stored, Position, int]:
        """Ask the object store while Redis stands still: what moves meanwhile would look like a loss.

        Raises:
            Unavailable: One of them did not answer, or Redis never stood still.
        """
        for _ in range(TRIES):
            stored = examine(self._artifacts, standing, fleet=self._fleet)
            generation, after = self._standing()
            if _same_place(standing, after):
                return stored, after, generation
            standing = after
        raise Unavailable("Redis went on while it was looked at, again and again")

    def _evidence_in(self, epoch: str) -> str:
        with self._lock:
            of, evidence = self._evidence
        return evidence if of == epoch else ""

    def _set_up(self) -> bool:
        """Begin the first epoch; False where another worker does."""
        if not self._register.take_turn(RESCUE, self._owner, for_ms=TURN_MS):
            return False
        self.begin(after=0, expected="", why="provisioned")
        self.release()
        return True

    def release(self) -> None:
        """Let another worker rebuild, or set up, from now on."""
        self._register.take_turn(RESCUE, self._owner, for_ms=1)

    def _keep(self, look: Look, standing: Position, generation: int) -> Look:
        with self._lock:
            is_whole = look.verdict is Verdict.WHOLE and generation == self._generation
            changed = (look.verdict, look.epoch) != (self._last.verdict, self._last.epoch)
            self._verified = look.epoch if is_whole else ""
            if is_whole:
                self._see(standing)
            self._looked_s = self._now_s()
            self._asked_store_s = self._looked_s
            self._last = look
        if changed:
            level = _log.info if look.verdict is Verdict.WHOLE else _log.error
            level("redis looked at", verdict=look.verdict.value, epoch=look.epoch, why=look.why)
        return look

    def _see(self, standing: Position) -> None:
        self._seen = (standing.epoch, standing.newest)
        self._passed = standing.mark

    def _verified_now(self) -> tuple[str, int]:
        with self._lock:
            if self._verified:
                return self._verified, self._generation
        with self._looking:
            with self._lock:
                is_fresh = self._now_s() - self._looked_s < FRESH_S
            look = self._last if is_fresh else self.look(deep=True)
            with self._lock:
                if self._verified:
                    return self._verified, self._generation
        raise _not_trusted(look)

    def _distrust(self) -> None:
        with self._lock:
            self._verified = ""

    # ---------------------------------------------------------------------- epochs and marks

    def begin(self, *, after: int, expected: str, why: str) -> str:
        """Begin the epoch that comes after number `after`; return its name, empty if another began.

        Args:
            after: Number of the newest epoch that is stored.
            expected: The epoch that Redis names until now.
            why: For people.
        """
        number = after + 1
        epoch = f"{number:08d}-{self._new_nonce()}"
        body = StoredEpoch(epoch=epoch, fleet=self._fleet, began_ms=self._clock.now_ms(), why=why)
        key = keys.epoch(number)
        raw = encode_epoch(body)
        is_new = self._artifacts.put_new(key, raw, content_type=_JSON)
        # What is there may be ours: a write whose answer was lost is sent again.
        if not is_new and self._artifacts.get(key) != raw:
            return ""
        if not self._register.begin(epoch, expected=expected):
            return ""
        _log.warning("epoch began", epoch=epoch, why=why)
        self._advance(self._register.standing())
        return epoch

    def mark(self, *, at_once: bool = False) -> bool:
        """Pass to the next mark if it is time and nobody else does; return whether it was passed.

        Raises:
            Unavailable: Redis or the store did not answer.
        """
        standing = self._register.standing()
        if not at_once and standing.mark_age_ms < self._mark_ms:
            return False
        if not at_once and not self._register.take_turn(
            "mark", self._owner, for_ms=self._mark_ms // 2
        ):
            return False
        with self._looking:
            generation, standing = self._standing()
            stored, standing, _ = self._compare(standing, generation)
            evidence = self._evidence_in(standing.epoch)
        if judge(standing, stored, evidence=evidence) is not Verdict.WHOLE:
            self._distrust()
            return False
        if stored.mark.number < standing.mark.number:
            # Left undone by one that died in between, or a store that was away.
            self._store_mark(standing, standing.mark)
        return self._advance(standing)

    def newest_mark(self, epoch: str) -> StoredMark | None:
        """Return the newest mark of an epoch, None where none is stored."""
        return _newest_mark(self._artifacts, epoch_number(epoch))

    def _advance(self, standing: Position) -> bool:
        nonce = self._new_nonce()
        number = standing.mark.number
        if not self._register.advance(standing.epoch, number, nonce):
            return False
        self._passed = Mark(number + 1, nonce)
        self._store_mark(standing, self._passed)
        self._forget_marks(epoch_number(standing.epoch), number + 1)
        return True

    def _store_mark(self, standing: Position, mark: Mark) -> None:
        body = StoredMark(
            epoch=standing.epoch,
            mark=mark,
            at_ms=self._clock.now_ms(),
            killed=standing.killed,
            accounts=tuple(self._accounts()),
        )
        key = keys.mark(epoch_number(standing.epoch), mark.number)
        if self._artifacts.put_new(key, encode_mark(body), content_type=_JSON):
            return
        there = self._artifacts.get(key)
        if there is not None and decode_mark(there).mark != mark:
            self.doubt(f"mark {mark.number} was passed by another Redis as well")

    def _forget_marks(self, number: int, newest: int) -> None:
        names = self._artifacts.list(keys.marks(number))
        for name in names:
            if keys.number_of(name) <= newest - KEPT_MARKS:
                self._artifacts.delete(name)


def examine(artifacts: Artifacts, standing: Position, *, fleet: str) -> Stored:
    """Return what the object store says of the epoch that Redis names.

    Raises:
        Unavailable: It did not answer.
        UnknownVersion: A newer worker wrote what lies there.
    """
    names = artifacts.list(keys.epochs())
    if not names:
        return Stored(knows=False)
    newest = _epoch(artifacts, names[-1])
    knows = standing.epoch == newest.epoch or _is_known(artifacts, names, standing.epoch)
    mark = _newest_mark(artifacts, epoch_number(newest.epoch))
    is_mark = mark is not None and mark.epoch == newest.epoch
    return Stored(
        newest=newest.epoch,
        mark=mark.mark if mark is not None and is_mark else NO_MARK,
        knows=knows,
        ours=newest.fleet == fleet,
    )


def _same_place(a: Position, b: Position) -> bool:
    return (a.epoch, a.mark, a.doubt) == (b.epoch, b.mark, b.doubt)


def _is_known(artifacts: Artifacts, names: Sequence[str], epoch: str) -> bool:
    key = keys.epoch(epoch_number(epoch))
    return bool(epoch) and key in names and _epoch(artifacts, key).epoch == epoch


def _epoch(artifacts: Artifacts, key: str) -> StoredEpoch:
    return decode_epoch(artifacts.get(key) or b"")


def _newest_mark(artifacts: Artifacts, number: int) -> StoredMark | None:
    names = artifacts.list(keys.marks(number))
    raw = artifacts.get(names[-1]) if names else None
    return None if raw is None else decode_mark(raw)


def _not_trusted(look: Look) -> Unavailable:
    return Unavailable(
        f"Redis is not trusted: {look.why or _WHY[look.verdict] or 'it is being looked at'}",
        verdict=look.verdict.value,
    )
