"""Sessions that have ended, with artifacts, for the tests of what becomes of them.

Rule: made through the ports alone, as a worker would.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from worker.core import keys, report
from worker.core.events import CancelRequested, SessionEnded, SessionOpened
from worker.core.report import StoredFile
from worker.core.values import SessionSpec
from worker.ports import Announcement, Commit
from worker.wire.journal import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.ports import Artifacts, Journal

__all__ = [
    "FILES",
    "artifact_key",
    "end_session",
    "open_session",
    "place",
    "spec_of",
    "write_artifacts",
]

FILES = {"diagnosis.md": b"# Nothing\n", "clusters.json": b"[]\n"}


def spec_of(session_id: str) -> SessionSpec:
    """Return what a session was asked to do."""
    return SessionSpec(
        session_id=session_id,
        bundle_uri="s3://b/bundles/x.tar.gz",
        student="default",
        teacher="default",
        judge="default",
        teacher_model="claude-opus-4-6",
        judge_model="claude-opus-4-6",
        tenant="acme",
        campaign="night",
        trigger="manual",
    )


def place(session_id: str) -> dict[str, str]:
    """Return where a session's artifacts lie, as `worker.core.keys` wants it."""
    return {"tenant": "acme", "campaign": "night", "session_id": session_id}


def artifact_key(session_id: str, name: str) -> str:
    """Return the key of one of `FILES`."""
    hashes = {file: hashlib.sha256(body).hexdigest() for file, body in FILES.items()}
    return keys.artifact(**place(session_id), edition=keys.edition_of(hashes), name=name)


def write_artifacts(artifacts: Artifacts, session_id: str) -> str:
    """Write `FILES` and their manifest; return the manifest's hash."""
    stored: dict[str, StoredFile] = {}
    for name, body in FILES.items():
        key = artifact_key(session_id, name)
        artifacts.put_new(key, body, content_type="text/plain")
        sha256 = hashlib.sha256(body).hexdigest()
        stored[name] = StoredFile(size_bytes=len(body), sha256=sha256, key=key)
    manifest = report.manifest_json(stored, session_id=session_id).encode()
    artifacts.put_new(keys.manifest(**place(session_id)), manifest, content_type="text/plain")
    return hashlib.sha256(manifest).hexdigest()


def open_session(
    journal: Journal, session_id: str, *, labels: Mapping[str, str] | None = None
) -> None:
    """Create a session, with its preparation due."""
    opened = SessionOpened(spec=spec_of(session_id))
    step = Announcement(session_id=session_id, step_id="prepare", queue="tools")
    journal.create(session_id, [encode(opened)], [step], deadline_ms=3_600_000, labels=labels or {})


def end_session(journal: Journal, artifacts: Artifacts, session_id: str) -> None:
    """Cancel an open session, and conclude it."""
    journal.append(session_id, *encode(CancelRequested(reason="enough")))
    step = Announcement(session_id=session_id, step_id="conclude", queue="artifacts")
    journal.drive(session_id, expected_length=2, follow=[step])
    claim = journal.claim(session_id, "conclude", owner="w-1", token=session_id, since=0)
    assert claim.lease is not None
    ended = SessionEnded(
        outcome="cancelled",
        reason="enough",
        cost_nusd=0,
        manifest_sha256=write_artifacts(artifacts, session_id),
        artifacts_uri=artifacts.uri(keys.session_folder(**place(session_id))),
    )
    commit = Commit(lease=claim.lease, events=(encode(ended),), expected_length=2, ends=True)
    assert journal.commit(commit).status == "ok"
