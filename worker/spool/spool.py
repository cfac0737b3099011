"""Which spooled reply is adopted, when one is paid for by somebody else, and when it goes.

Rule: no decision of a session stands here, and nothing here fails a step: where the folder does not
work it is as if there were none. A reply is adopted by a call of the same step with the same words,
and by nothing else; it is removed once it is settled and its step wants it no more.

| what lies there                              | leads to                                               |
|----------------------------------------------|--------------------------------------------------------|
| a reply to what a step asks now              | the step goes on from it; the oldest, where are several |
| a reply whose worker says no more            | settled by the sweep of any worker on this machine     |
| settled, its step done or not wanted         | removed                                                |
| settled, its session unknown (Redis lost)    | kept until it is too old: it may be recovered          |
| not known to the ledger                      | kept likewise; removed when its step is bought again   |
| to other words of the same step              | not adopted; settled, and removed with its step        |
| damaged                                      | removed: its call stays charged at its bound           |
| written by another version, or another fleet | left to those, until it is too old                     |
"""

from __future__ import annotations

import errno
import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import structlog

from worker.errors import BadInput, UnknownVersion
from worker.wire.spool import SpoolDamaged, Spooled, decode_spooled, encode_spooled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from worker.ports import Clock, Ledger

__all__ = ["Folder", "Spool", "SpoolEvent"]

SpoolEvent: TypeAlias = Literal["written", "failed", "adopted", "settled", "damaged", "too_old"]

#: A reply this young has a worker that is about to settle and commit it.
FRESH_MS = 2_000
#: One that has to wait (for its step, its session, its version) is looked at again this often.
LOOK_AGAIN_MS = 10_000
#: A file that was begun so long ago has lost its writer.
BEGUN_MS = 60_000

_HASH_CHARS = 20
_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{20})-[0-9a-f]{20}-(\d{1,15})\.reply(\.partial)?")
#: `Step` makes them: session/step/attempt.number, and the life of the session where it is a later one.
_RESERVATION = re.compile(r"/\d+\.(\d+)(?:@\d+)?$")

_log = structlog.get_logger(__name__)


class Folder(Protocol):
    """Files by name, on disk or in memory. Every method raises `OSError` where it cannot be done."""

    def list(self) -> Mapping[str, int]:
        """Return all names with their sizes in bytes."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file, None where there is none."""
        ...

    def write(self, name: str, body: bytes) -> None:
        """Write a file durably, whole or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...


@dataclass(frozen=True, slots=True)
class _Name:
    """What a file's name tells, so that most are never read."""

    text: str
    fleet: str
    #: Of session and step.
    place: str
    written_ms: int
    is_partial: bool


class Spool:
    """The replies of one machine. One a process; every method may be called from many threads."""

    def __init__(
        self,
        folder: Folder,
        ledger: Ledger,
        clock: Clock,
        *,
        fleet: str,
        max_bytes: int,
        max_age_ms: int,
        count: Callable[[SpoolEvent], object] = lambda _: None,
    ) -> None:
        """Take a folder that other processes of this machine use too.

        Args:
            folder: Where the replies lie.
            ledger: Settles what nobody else did.
            clock: This machine's.
            fleet: Which journal and ledger the replies belong to; other fleets' are left alone.
            max_bytes: No reply is written that would make the folder larger.
            max_age_ms: After so long a reply goes, whatever became of it.
            count: Counts what happens, for the metrics.
        """
        self._folder = folder
        self._ledger = ledger
        self._clock = clock
        self._fleet = _hash(fleet)[:8]
        self._max_bytes = max_bytes
        self._max_age_ms = max_age_ms
        self._count = count
        #: Names of replies that this process knows to be settled.
        self._settled: set[str] = set()
        #: name -> when a sweep looks at it again.
        self._look_ms: dict[str, int] = {}
        self._sweeps_fail = False

    # -------------------------------------------------------------------------------- a paid call

    def keep(self, spooled: Spooled) -> Spooled:
        """Write a reply that has just been heard, and return it as written.

        Where it cannot be written the worker goes on without.
        """
        spooled = replace(spooled, written_ms=self._clock.now_ms())
        body = encode_spooled(spooled)
        try:
            self._write(self._name_of(spooled), body)
        except OSError as exc:
            self._count("failed")
            _log.warning(
                "a reply was not spooled: if this worker dies now, its call is bought again",
                reservation_id=spooled.reservation_id,
                error=str(exc),
            )
        else:
            self._count("written")
        return spooled

    def _write(self, name: str, body: bytes) -> None:
        """Write a file where there is room for it.

        Raises:
            OSError: There is none, or it could not be written.
        """
        left = self._max_bytes - sum(self._folder.list().values())
        if len(body) > left:
            raise OSError(
                errno.ENOSPC, f"{len(body)} bytes, and {left} of {self._max_bytes} are left"
            )
        self._folder.write(name, body)

    def find(
        self, session_id: str, step_id: str, *, reservation_id: str, asked_sha256: str
    ) -> Spooled | None:
        """Return the reply that a call of a step would be made for; the oldest, if there are several.

        Args:
            session_id: Of the step.
            step_id: The step that is about to make a call.
            reservation_id: That of the call: which of the step's calls it is stands in there.
            asked_sha256: What it asks.
        """
        place, number = _place(session_id, step_id), _number(reservation_id)
        found: list[Spooled] = []
        for name in self._named(place):
            spooled = self._read(name)
            if spooled is None or self._is_too_old(name) or _number_of(spooled) != number:
                continue
            if spooled.asked_sha256 == asked_sha256:
                found.append(spooled)
            else:
                _log.warning(
                    "a spooled reply answers other words than are asked now: it is not adopted",
                    reservation_id=spooled.reservation_id,
                )
        return min(found, key=lambda one: (one.written_ms, one.reservation_id), default=None)

    def adopted(self, spooled: Spooled) -> None:
        """Note that a step goes on from a reply, which is settled now."""
        self.settled(spooled)
        self._count("adopted")
        _log.info(
            "a spooled reply was adopted, and not bought again",
            reservation_id=spooled.reservation_id,
            request_id=spooled.reply.request_id,
        )

    def settled(self, spooled: Spooled) -> None:
        """Note that a reply is paid for: it goes when its step is committed."""
        self._settled.add(self._name_of(spooled))

    def discard(self, spooled: Spooled, why: str) -> None:
        """Remove a reply that cannot be paid for: its call is made again."""
        _log.warning("a spooled reply is dropped", reservation_id=spooled.reservation_id, why=why)
        self._remove(self._name_of(spooled))

    def forget(self, session_id: str, step_id: str) -> None:
        """Remove what is settled of a step that was committed; the sweep removes the rest."""
        start = f"{self._fleet}-{_place(session_id, step_id)}-"
        for name in [name for name in tuple(self._settled) if name.startswith(start)]:
            self._remove(name)

    # ------------------------------------------------------------------------------- the sweep

    def sweep(self, is_wanted: Callable[[str, str], bool | None]) -> None:
        """Settle what its worker did not, and remove what nobody needs.

        Args:
            is_wanted: Whether a session (the first argument) still wants a step (the second); None
                where nothing is known of the session.

        Raises:
            Unavailable: The ledger or the journal did not answer.
        """
        try:
            names = [_parsed(name) for name in self._folder.list()]
        except OSError as exc:
            if not self._sweeps_fail:
                _log.warning("the spool cannot be read", error=str(exc))
            self._sweeps_fail = True
            return
        self._sweeps_fail = False
        here = [name for name in names if name is not None]
        self._remember_only({name.text for name in here})
        for name in here:
            if self._is_due(name):
                self._look_at(name, is_wanted)
                self._look_ms[name.text] = self._clock.now_ms() + LOOK_AGAIN_MS

    def _remember_only(self, names: set[str]) -> None:
        for gone in [name for name in tuple(self._settled) if name not in names]:
            self._settled.discard(gone)
        for gone in [name for name in tuple(self._look_ms) if name not in names]:
            self._look_ms.pop(gone, None)

    def _is_due(self, name: _Name) -> bool:
        now_ms = self._clock.now_ms()
        is_fresh = 0 <= now_ms - name.written_ms < FRESH_MS
        return not is_fresh and now_ms >= self._look_ms.get(name.text, 0)

    def _look_at(self, name: _Name, is_wanted: Callable[[str, str], bool | None]) -> None:
        if name.is_partial or name.fleet != self._fleet:
            if self._is_too_old(name, BEGUN_MS if name.is_partial else None):
                self._remove(name.text)
            return
        spooled = self._read(name)
        is_settled = spooled is not None and self._settle(name.text, spooled)
        if self._is_too_old(name):
            self._count("too_old")
            _log.warning("a spooled reply is too old", file=name.text, settled=is_settled)
            self._remove(name.text)
        elif is_settled and spooled and is_wanted(spooled.session_id, spooled.step_id) is False:
            self._remove(name.text)

    def _settle(self, name: str, spooled: Spooled) -> bool:
        """Charge what a reply cost; False where the ledger knows nothing of its call.

        Raises:
            Unavailable: The ledger did not answer.
        """
        if name in self._settled:
            return True
        reply = spooled.reply
        try:
            within = self._ledger.settle(
                spooled.reservation_id,
                spooled.cost_nusd,
                usage=reply.usage,
                request_id=reply.request_id,
                message_id=reply.message_id,
            )
        except BadInput as exc:
            _log.warning("a spooled reply waits for its session to be recovered", error=str(exc))
            return False
        self._settled.add(name)
        self._count("settled")
        facts = {"reservation_id": spooled.reservation_id, "request_id": reply.request_id}
        if not within:
            _log.error("teacher call above its bound", cost_nusd=spooled.cost_nusd, **facts)
        _log.info("a spooled reply was settled", **facts)
        return True

    # ------------------------------------------------------------------------------- the files

    def _named(self, place: str) -> Iterator[_Name]:
        """Yield the names of a step's replies."""
        try:
            names = [_parsed(text) for text in self._folder.list()]
        except OSError as exc:
            _log.warning("the spool cannot be read", error=str(exc))
            return
        for name in names:
            if name is None or name.is_partial:
                continue
            if (name.fleet, name.place) == (self._fleet, place):
                yield name

    def _read(self, name: _Name) -> Spooled | None:
        """Return a reply, None where it cannot be read; what is damaged is removed."""
        try:
            raw = self._folder.read(name.text)
            return None if raw is None else decode_spooled(raw)
        except OSError as exc:
            _log.warning("a spooled reply cannot be read", file=name.text, error=str(exc))
        except UnknownVersion as exc:
            _log.warning("a spooled reply is left alone", file=name.text, error=str(exc))
        except SpoolDamaged as exc:
            self._count("damaged")
            _log.warning("a spooled reply is removed", file=name.text, error=str(exc))
            self._remove(name.text)
        return None

    def _remove(self, name: str) -> None:
        """Remove a file; one that cannot be is looked at by a later sweep."""
        try:
            self._folder.remove(name)
        except OSError as exc:
            _log.warning("a spooled reply cannot be removed", file=name, error=str(exc))
        else:
            self._settled.discard(name)

    def _is_too_old(self, name: _Name, max_age_ms: int | None = None) -> bool:
        most = self._max_age_ms if max_age_ms is None else max_age_ms
        return abs(self._clock.now_ms() - name.written_ms) > most

    def _name_of(self, spooled: Spooled) -> str:
        place = _place(spooled.session_id, spooled.step_id)
        call = _hash(spooled.reservation_id)[:_HASH_CHARS]
        return f"{self._fleet}-{place}-{call}-{spooled.written_ms}.reply"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _place(session_id: str, step_id: str) -> str:
    return _hash(f"{session_id}\n{step_id}")[:_HASH_CHARS]


def _parsed(text: str) -> _Name | None:
    """Return what a name tells, None where it is none of ours."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    fleet, place, written_ms, partial = match.groups()
    return _Name(text, fleet, place, int(written_ms), partial is not None)


def _number_of(spooled: Spooled) -> str:
    return _number(spooled.reservation_id)


def _number(reservation_id: str) -> str:
    """Return which paid call of its attempt a reservation is for; the whole id where it tells none."""
    match = _RESERVATION.search(reservation_id)
    return match[1] if match else reservation_id
