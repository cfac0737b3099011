"""The step that checks the claims, writes the artifacts and ends the session.

Rule: doing it twice leaves the same bytes. All artifacts are there before the manifest, which is one
conditional write; the result is readable before the session is ended. Whatever two workers found, what
the session's end and its result say is what the manifest's own files say.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from worker.artifacts.upload import Upload, upload_all
from worker.core import batches, evidence, keys, report
from worker.core.diagnosis import diagnosis_md
from worker.core.events import SessionEnded
from worker.core.findings import Findings
from worker.core.report import StoredFile
from worker.core.results import call_result
from worker.core.values import Outcome
from worker.errors import BadInput, NotYet, Unavailable
from worker.payloads import PayloadLost
from worker.ports import EntryState
from worker.steps.context import closing_hold_id
from worker.steps.funding import shared
from worker.wire.costs import cost_of
from worker.wire.manifest import read_manifest
from worker.wire.result import ClusterSummary, DiagnoseResult

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from worker.core.machine import Session
    from worker.core.values import Payload
    from worker.ports import Artifacts
    from worker.steps.context import Step

__all__ = ["bodies", "conclude", "findings", "read_result"]

_TYPES = {"md": "text/markdown", "json": "application/json", "jsonl": "application/x-ndjson"}


def conclude(step: Step) -> SessionEnded:
    """Write what is known, once, and return the end of the session.

    Where writing everything was given up because it killed its workers, the least is written.

    Raises:
        NotYet: A paid call of the session is still under way.
        Unavailable: The object store or the ledger did not answer; all of it can be done again.
    """
    _settle_accounts(step)
    written = _write(step, _least(step) if step.given_up else bodies(findings(step)))
    session: dict[str, Any] = json.loads(written.session_json)
    ended = SessionEnded(
        outcome=session["outcome"],
        reason=session["reason"],
        cost_nusd=session["cost"]["total_nusd"],
        manifest_sha256=written.manifest_sha256,
        artifacts_uri=written.uri,
    )
    clusters: list[dict[str, Any]] = json.loads(written.clusters_json)
    step.ports.publish(_result(session, clusters, ended), _runtime_s(step))
    return ended


def read_result(artifacts: Artifacts, session: Session) -> DiagnoseResult | None:
    """Return the result of a session that ended, from its artifacts; None where it has none.

    Raises:
        BadInput: What lies there is not what a session leaves.
        Unavailable: The object store did not answer, or an artifact is gone.
    """
    spec, ended = session.spec, session.ended
    place = {"tenant": spec.tenant, "campaign": spec.campaign, "session_id": spec.session_id}
    body = artifacts.get(keys.manifest(**place))
    if ended is None or body is None:
        return None
    strays = read_manifest(body).strays(keys.session_folder(**place))
    if strays:
        raise BadInput(
            f"the manifest of {spec.session_id!r} names {strays[0]!r}, which is not its own"
        )
    listed = _listed(artifacts, body)
    clusters: list[dict[str, Any]] = json.loads(listed["clusters.json"])
    return _result(json.loads(listed["session.json"]), clusters, ended)


def findings(step: Step) -> Findings:
    """Return all that the artifacts are made from."""
    session = step.session
    task_ids, trace_tasks = _known_ids(step)
    clusters = evidence.check(session.ending, session.runs, task_ids, trace_tasks)
    outcome, reason = evidence.conclude_outcome(session, clusters)
    return replace(
        _without_evidence(step, outcome, reason),
        clusters=clusters,
        times={record.key: _iso(record.at_ms) for record in step.ports.records(step.session_id)},
    )


def _without_evidence(step: Step, outcome: Outcome, reason: str) -> Findings:
    return Findings(
        session=step.session,
        outcome=outcome,
        reason=reason,
        clusters=(),
        costs=tuple(cost_of(entry) for entry in step.ports.ledger.entries(step.session_id)),
        text_of=_what_is_left(step.text_of),
        call_result=call_result,
        versions={
            "worker": importlib.metadata.version("diagnosis-worker"),
            "prices": step.session.spec.price_version,
        },
    )


def bodies(found: Findings) -> dict[str, bytes]:
    """Return the artifacts' contents by name, the manifest aside."""
    texts = {
        "diagnosis.md": diagnosis_md(found),
        "clusters.json": report.clusters_json(found),
        "teacher_traces/diagnose.jsonl": report.teacher_traces_jsonl(found),
        "transcript.jsonl": report.transcript_jsonl(found),
        "runs.jsonl": report.runs_jsonl(found),
        "costs.jsonl": report.costs_jsonl(found),
        "session.json": report.session_json(found),
    }
    return {name: text.encode() for name, text in texts.items()}


def _least(step: Step) -> dict[str, bytes]:
    """Return the few artifacts that no text of the session can make large or hard to write."""
    reason = f"Writing the artifacts was given up: {step.given_up}. The journal has what was found."
    found = _without_evidence(step, Outcome.FAILED, reason)
    texts = {
        "diagnosis.md": f"# No diagnosis\n\n{reason}\n",
        "clusters.json": report.clusters_json(found),
        "costs.jsonl": report.costs_jsonl(found),
        "session.json": report.session_json(found),
    }
    return {name: text.encode() for name, text in texts.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    manifest_sha256: str
    uri: str
    #: As the manifest lists them.
    session_json: bytes
    clusters_json: bytes


def _settle_accounts(step: Step) -> None:
    """Give the closing hold and the promise back, and wait until nothing of the session's money is under way.

    Raises:
        NotYet: A call may still be billed; the sweep ends its reservation at its deadline.
    """
    ledger = step.ports.ledger
    ledger.void(closing_hold_id(step.session_id), "not needed")
    ledger.release(step.session_id, shared(step.session.spec))
    if step.session.spec.batches:
        _close_batches(step)
    account = ledger.account(f"session:{step.session_id}")
    if account is not None and account.held_nusd > 0:
        raise NotYet(
            f"{account.held_nusd} nano-dollars of session {step.session_id!r} are under way",
            held_nusd=account.held_nusd,
        )


def _close_batches(step: Step) -> None:
    """Cancel the batches that nobody waits for any more, and settle them; ten minutes at the most.

    Raises:
        NotYet: One has not ended yet.
        Misconfigured: This worker has not got the provider's key.
    """
    ledger = step.ports.ledger
    entries = ledger.entries(step.session_id)
    known = frozenset(entry.request_id for entry in entries)
    late = _quiet_ms(step) > batches.CLOSE_PATIENCE_MS
    waits: NotYet | None = None
    for entry in entries:
        if not batches.is_batched(entry.kind):
            continue
        if entry.state is EntryState.HELD:
            ledger.void(entry.reservation_id, "not sent")
        elif entry.state is EntryState.SENT and late:
            ledger.charge_unknown(entry.reservation_id, "its session ended, and its batch did not")
        elif entry.state is EntryState.SENT:
            spec = step.session.spec
            account = spec.judge if entry.kind == "judge_batch" else spec.teacher
            try:
                if account in step.ports.batches:
                    step.ports.batches[account].close(entry, known=known)
            except NotYet as exc:
                waits = exc
    if waits is not None:
        raise waits


def _quiet_ms(step: Step) -> int:
    """Return for how long the session has been waiting for nothing but its end."""
    records = step.ports.records(step.session_id)
    return step.ports.clock.now_ms() - records[-1].at_ms if records else 0


def _what_is_left(text_of: Callable[[Payload], str]) -> Callable[[Payload], str]:
    """Return `text_of` that says so where a text is lost: the session ends with all the others."""

    def left(payload: Payload) -> str:
        try:
            return text_of(payload)
        except PayloadLost as exc:
            return f"[lost: {exc}]"

    return left


def _known_ids(step: Step) -> tuple[Collection[str], Mapping[str, str | None]]:
    """Return the bundle's tasks and traces; none where there is no bundle to be had."""
    if step.session.prepared is None:
        return (), {}
    try:
        known = step.workspace
    except BadInput:
        return (), {}
    return known.task_ids, known.trace_tasks


def _write(step: Step, contents: Mapping[str, bytes]) -> _Written:
    """Upload everything, then the manifest; return the manifest that counts."""
    spec = step.session.spec
    place = {"tenant": spec.tenant, "campaign": spec.campaign, "session_id": spec.session_id}
    hashes = {name: hashlib.sha256(body).hexdigest() for name, body in contents.items()}
    edition = keys.edition_of(hashes)
    uploads = {
        name: Upload(
            key=keys.artifact(**place, edition=edition, name=name),
            body=body,
            content_type=_TYPES[name.rpartition(".")[2]],
        )
        for name, body in contents.items()
    }
    artifacts = step.ports.artifacts
    upload_all(artifacts, tuple(uploads.values()))
    files = {
        name: StoredFile(size_bytes=len(upload.body), sha256=hashes[name], key=upload.key)
        for name, upload in uploads.items()
    }
    body = report.manifest_json(files, session_id=spec.session_id).encode()
    key = keys.manifest(**place)
    counts = contents
    if not artifacts.put_new(key, body, content_type=_TYPES["json"]):
        listed = _present(artifacts, key)
        if listed != body:
            body, counts = listed, _listed(artifacts, listed)
    return _Written(
        manifest_sha256=hashlib.sha256(body).hexdigest(),
        uri=artifacts.uri(keys.session_folder(**place)),
        session_json=counts["session.json"],
        clusters_json=counts["clusters.json"],
    )


def _listed(artifacts: Artifacts, manifest: bytes) -> dict[str, bytes]:
    """Return what another worker wrote before its manifest, which was the first, became the one."""
    files = read_manifest(manifest).files
    return {
        name: _present(artifacts, files[name].key) for name in ("session.json", "clusters.json")
    }


def _present(artifacts: Artifacts, key: str) -> bytes:
    """Return an object that was written before.

    Raises:
        Unavailable: The store does not give it back.
    """
    body = artifacts.get(key)
    if body is None:
        raise Unavailable(f"the object {key!r} was written and is gone: restore it", key=key)
    return body


def _result(
    session: Mapping[str, Any], clusters: Sequence[Mapping[str, Any]], ended: SessionEnded
) -> DiagnoseResult:
    """Return what whoever enqueued the session reads, from `session.json` and `clusters.json`."""
    counts = session["counts"]
    return DiagnoseResult(
        session_id=session["session_id"],
        outcome=session["outcome"],
        reason=ended.reason,
        clusters=tuple(
            ClusterSummary(
                cluster_id=cluster["id"],
                description=cluster["description"][:500],
                evidence=cluster["evidence"],
                student_failure_rate=cluster["student_failure_rate"],
                teacher_success_rate=cluster["teacher_success_rate"],
                sample_trace_ids=tuple(cluster["sample_trace_ids"][:50]),
            )
            for cluster in clusters
        ),
        cost_nusd=ended.cost_nusd,
        turns=counts["turns"],
        tool_calls=counts["tool_calls"],
        student_runs=counts["student_runs"]["asked"] - counts["student_runs"]["unfinished"],
        artifacts_uri=ended.artifacts_uri,
        manifest_sha256=ended.manifest_sha256,
    )


def _runtime_s(step: Step) -> float:
    records = step.ports.records(step.session_id)
    started_ms = records[0].at_ms if records else step.ports.clock.now_ms()
    return (step.ports.clock.now_ms() - started_ms) / 1000


def _iso(at_ms: int) -> str:
    return dt.datetime.fromtimestamp(at_ms / 1000, tz=dt.UTC).isoformat(timespec="milliseconds")
