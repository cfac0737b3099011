"""When an ended session may leave Redis, and how: verified in the object store first, byte by byte.

Rule: nothing is forgotten that was not read back. Whatever is missing or differs keeps the session
where it is, with the reason; the journal itself is put beside the artifacts before it goes. The
journal's script refuses every session that has not ended, whatever is decided here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.core import keys
from worker.core.machine import fold
from worker.errors import BadInput, DiagnosisError, IllegalEvent, UnknownVersion
from worker.wire.archive import archive, archived_notes, archived_records
from worker.wire.journal import decode_all
from worker.wire.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from worker.core.events import SessionEnded
    from worker.core.machine import Session
    from worker.core.values import SessionSpec
    from worker.ports import Artifacts, Journal, Note, Record
    from worker.wire.manifest import Manifest

__all__ = [
    "DAY_MS",
    "History",
    "Retained",
    "Unverified",
    "manifest_of",
    "prune",
    "stored_history",
    "verify",
]

DAY_MS = 24 * 3_600_000


class Unverified(DiagnosisError):
    """An artifact is missing or differs. Cure: restore it from the bucket's versions; then prune."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """What became of one ended session."""

    session_id: str
    #: It left Redis, or would have.
    pruned: bool
    #: Why it stays; empty where it went.
    why: str = ""
    artifacts_uri: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is kept of a session's past."""

    records: tuple[Record, ...]
    notes: tuple[Note, ...]
    labels: Mapping[str, str]


def prune(
    journal: Journal, artifacts: Artifacts, *, ended_before_ms: int, dry_run: bool = False
) -> Iterator[Retained]:
    """Let the sessions go that ended before a time and whose artifacts are whole, oldest first.

    Doing it twice, or in several processes at once, does nothing more. It works as it is iterated.

    Args:
        journal: Where the sessions are.
        artifacts: Where their artifacts must be.
        ended_before_ms: Younger ones are not looked at.
        dry_run: Verify, and change nothing.

    Raises:
        Unavailable: Redis or the object store did not answer; what went is gone, the rest stays.
    """
    for session_id in journal.ended(before_ms=ended_before_ms):
        try:
            yield _prune_one(journal, artifacts, session_id, dry_run=dry_run)
        except (Unverified, BadInput, UnknownVersion, IllegalEvent) as exc:
            yield Retained(session_id=session_id, pruned=False, why=str(exc))


def verify(artifacts: Artifacts, spec: SessionSpec, ended: SessionEnded) -> Manifest:
    """Return a session's manifest after every file that it lists was read and found right.

    Raises:
        Unverified: Something is missing or differs; the message names it.
        BadInput: What lies under the manifest's key is no manifest.
        Unavailable: The object store did not answer.
    """
    place = {"tenant": spec.tenant, "campaign": spec.campaign, "session_id": spec.session_id}
    key = keys.manifest(**place)
    body = artifacts.get(key)
    if body is None:
        raise Unverified(f"{key} is missing: its artifacts cannot be found", key=key)
    if hashlib.sha256(body).hexdigest() != ended.manifest_sha256:
        raise Unverified(f"{key} is not the manifest that the session ended with", key=key)
    manifest = read_manifest(body)
    strays = manifest.strays(keys.session_folder(**place))
    if strays:
        raise Unverified(f"{key} names {strays[0]!r}, which is not the session's", key=key)
    for file in manifest.files.values():
        _verify_file(artifacts, file.key, sha256=file.sha256, size_bytes=file.size_bytes)
    return manifest


def manifest_of(artifacts: Artifacts, spec: SessionSpec) -> Manifest | None:
    """Return a session's manifest as it lies there, unverified; None where there is none.

    Raises:
        BadInput: What lies there is no manifest.
        Unavailable: The object store did not answer.
    """
    body = artifacts.get(
        keys.manifest(tenant=spec.tenant, campaign=spec.campaign, session_id=spec.session_id)
    )
    return None if body is None else read_manifest(body)


def stored_history(journal: Journal, artifacts: Artifacts, session_id: str) -> History | None:
    """Return a session's past from Redis, or from beside its artifacts once it was pruned.

    None where there is no such session, or neither place has its journal.

    Raises:
        UnknownVersion: A newer version put the journal away.
        Unavailable: Redis or the object store did not answer.
    """
    labels = journal.labels(session_id)
    if "pruned_ms" not in labels:
        records = journal.load(session_id).records
        if not records:
            return None
        return History(records=records, notes=journal.notes(session_id), labels=labels)
    key = keys.journal_copy(
        tenant=labels["tenant"], campaign=labels["campaign"], session_id=session_id
    )
    body = artifacts.get(key)
    if body is None:
        return None
    return History(records=archived_records(body), notes=archived_notes(body), labels=labels)


def _verify_file(artifacts: Artifacts, key: str, *, sha256: str, size_bytes: int) -> None:
    body = artifacts.get(key)
    if body is None:
        raise Unverified(f"{key} is missing, which the manifest lists", key=key)
    if len(body) != size_bytes:
        raise Unverified(f"{key} has {len(body)} bytes and not {size_bytes}", key=key)
    if hashlib.sha256(body).hexdigest() != sha256:
        raise Unverified(f"{key} holds other bytes than the manifest says", key=key)


def _prune_one(
    journal: Journal, artifacts: Artifacts, session_id: str, *, dry_run: bool
) -> Retained:
    records = journal.load(session_id).records
    if not records:
        return Retained(session_id=session_id, pruned=False, why="somebody else pruned it")
    session = fold(decode_all(records))
    ended = _end_of(session)
    verify(artifacts, session.spec, ended)
    if not dry_run:
        _put_away(artifacts, session.spec, archive(records, journal.notes(session_id)))
        journal.prune(session_id, outcome=ended.outcome, artifacts_uri=ended.artifacts_uri)
    return Retained(session_id=session_id, pruned=True, artifacts_uri=ended.artifacts_uri)


def _end_of(session: Session) -> SessionEnded:
    if session.ended is None:
        raise Unverified("its journal has no end, although it is marked as ended: `replay` it")
    return session.ended


def _put_away(artifacts: Artifacts, spec: SessionSpec, body: bytes) -> None:
    """Put the journal beside the artifacts; it is there already where a pruner died after this."""
    key = keys.journal_copy(tenant=spec.tenant, campaign=spec.campaign, session_id=spec.session_id)
    if artifacts.put_new(key, body, content_type="application/x-ndjson"):
        return
    if artifacts.get(key) != body:
        raise Unverified(f"{key} holds another journal: move it away", key=key)
