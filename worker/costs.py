"""Every charge of the fleet: of ended sessions from their artifacts, of open ones from the ledger.

Rule: what is durable is the truth, once: a session that has a manifest is read from it, whatever Redis
still says of it. Two things may correct it later: a refund, noted in the object store for good, and a
truth that came late, which the ledger knows for 30 days. What cannot be read is named, never left out
in silence.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol

from worker.core import keys
from worker.core.costs import Charge, Cost
from worker.errors import BadInput
from worker.ports import EntryState
from worker.wire.costs import cost_of, read_costs, read_refund
from worker.wire.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from worker.ports import Artifacts, Entry

__all__ = ["Collected", "collect", "night_of"]

UNKNOWN_NIGHT = "unknown"
#: Reads of the object store at a time.
_THREADS = 16
#: All of them: a listing that is cut short would be a wrong sum.
_EVERY = 10**9
_NOON_MS = 12 * 3_600_000


class SessionList(Protocol):
    """What is asked of the journal."""

    def sessions(self, *, limit: int) -> tuple[str, ...]:
        """Return the ids of the sessions in Redis."""
        ...

    def labels(self, session_id: str) -> Mapping[str, str]:
        """Return a session's labels, empty where it is unknown."""
        ...


class Entries(Protocol):
    """What is asked of the ledger."""

    def entries(self, session_id: str) -> tuple[Entry, ...]:
        """Return a session's reservations."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """All charges, and where they were read."""

    charges: tuple[Charge, ...]
    #: Sessions read from their artifacts: their cost is final, but for what was unknown.
    ended: tuple[str, ...]
    #: Sessions read from the ledger: their cost may still grow.
    open: tuple[str, ...]
    #: (session, why) of those that could not be read; the sums lack them.
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    tenant: str
    campaign: str
    session: str


def collect(
    journal: SessionList,
    ledger: Entries,
    artifacts: Artifacts,
    *,
    tenant: str | None = None,
    campaign: str | None = None,
    progress: Callable[[int, int], object] = lambda _done, _of: None,
) -> Collected:
    """Return every charge of the sessions of a tenant, a campaign, or of all.

    Args:
        journal: Knows the sessions in Redis.
        ledger: Knows what open ones have spent, and what became known late.
        artifacts: Has what ended ones left.
        tenant: Only its sessions; None for all.
        campaign: Only its sessions; None for all.
        progress: Told (how many sessions were read, of how many).

    Raises:
        Unavailable: Redis or the object store did not answer.
    """
    # Redis first: what ends meanwhile has a manifest by the time that those are listed.
    known = journal.sessions(limit=_EVERY)
    places = _manifests(artifacts, tenant=tenant, campaign=campaign)
    left = set(known) - {place.session for place in places}
    running = list(_running(journal, sorted(left), tenant=tenant, campaign=campaign))
    reader = _Reader(ledger, artifacts)
    charges: list[Charge] = []
    unreadable: list[tuple[str, str]] = []
    of = len(places) + len(running)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="costs") as pool:
        for done, (place, found) in enumerate(
            zip(places, pool.map(reader.ended, places), strict=True), start=1
        ):
            if isinstance(found, str):
                unreadable.append((place.session, found))
            else:
                charges += found
            progress(done, of)
    for done, place in enumerate(running, start=len(places) + 1):
        charges += (_charge(place, cost_of(entry)) for entry in ledger.entries(place.session))
        progress(done, of)
    lost = {session for session, _ in unreadable}
    return Collected(
        charges=tuple(charges),
        ended=tuple(place.session for place in places if place.session not in lost),
        open=tuple(place.session for place in running),
        unreadable=tuple(unreadable),
    )


def night_of(at_ms: int) -> str:
    """Return the night of a time: a day from noon to noon, UTC, named by the date it began on."""
    if at_ms <= 0:
        return UNKNOWN_NIGHT
    return dt.datetime.fromtimestamp((at_ms - _NOON_MS) / 1000, tz=dt.UTC).date().isoformat()


class _Reader:
    def __init__(self, ledger: Entries, artifacts: Artifacts) -> None:
        self._ledger = ledger
        self._artifacts = artifacts
        self._refunds = frozenset(artifacts.list(keys.refunds()))

    def ended(self, place: _Place) -> list[Charge] | str:
        """Return an ended session's charges, or why they cannot be read."""
        try:
            rows = read_costs(self._costs(place))
            return list(self._corrected(place.session, [_charge(place, row) for row in rows]))
        except BadInput as exc:
            return str(exc)

    def _costs(self, place: _Place) -> bytes:
        """Return the bytes of `costs.jsonl` that the manifest lists.

        Raises:
            BadInput: They are missing, or others.
        """
        key = keys.manifest(tenant=place.tenant, campaign=place.campaign, session_id=place.session)
        manifest = read_manifest(self._artifacts.get(key) or b"")
        file = manifest.files.get("costs.jsonl")
        body = None if file is None else self._artifacts.get(file.key)
        if file is None or body is None:
            raise BadInput(f"{key}: its costs.jsonl is missing: restore it", key=key)
        if hashlib.sha256(body).hexdigest() != file.sha256:
            raise BadInput(f"{file.key} holds other bytes than its manifest says", key=key)
        return body

    def _corrected(self, session: str, charges: list[Charge]) -> Iterator[Charge]:
        """Yield the charges as they stand today: an unknown outcome may have become known."""
        later: dict[str, Entry] = {}
        if any(charge.state == "expired" for charge in charges):
            later = {entry.reservation_id: entry for entry in self._ledger.entries(session)}
        for charge in charges:
            yield self._today(charge, later) if charge.state == "expired" else charge

    def _today(self, charge: Charge, later: Mapping[str, Entry]) -> Charge:
        key = keys.refund(charge.session, charge.reservation_id)
        entry = later.get(charge.reservation_id)
        if entry is not None and entry.state is not EntryState.EXPIRED:
            return _charge(_Place(charge.tenant, charge.campaign, charge.session), cost_of(entry))
        if key in self._refunds:
            note = read_refund(self._artifacts.get(key) or b"")
            return replace(charge, state="refunded", actual_nusd=0, why=note.why)
        return charge


def _manifests(
    artifacts: Artifacts, *, tenant: str | None, campaign: str | None
) -> tuple[_Place, ...]:
    listed = artifacts.list(keys.sessions(tenant=tenant, campaign=campaign))
    found = (_Place(*place) for key in listed if (place := keys.concluded(key)) is not None)
    return tuple(place for place in found if campaign in {None, place.campaign})


def _running(
    journal: SessionList, session_ids: Iterable[str], *, tenant: str | None, campaign: str | None
) -> Iterator[_Place]:
    for session_id in session_ids:
        labels = journal.labels(session_id)
        place = _Place(labels.get("tenant", ""), labels.get("campaign", ""), session_id)
        if labels and tenant in {None, place.tenant} and campaign in {None, place.campaign}:
            yield place


def _charge(place: _Place, cost: Cost) -> Charge:
    told = {each.name: getattr(cost, each.name) for each in fields(Cost)}
    return Charge(
        session=place.session,
        tenant=place.tenant,
        campaign=place.campaign,
        night=night_of(cost.created_ms),
        **told,
    )
