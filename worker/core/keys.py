"""Where everything lies in the object store, and which names may become part of a key.

Rule: a key is made here and nowhere else, from names and hashes that were checked here. No name
from a request, a file or a teacher becomes a key, a path or a URL in any other way.

    bundles/<sha256>.tar.gz                                     a session's inputs, frozen
    blobs/<session>/<sha256>                                    long texts of its journal
    checkpoints/<session>/<life>/<first position>.jsonl         parts of its journal, and its money
    sent/<session>/<sha256>.json                                a paid request that may have gone out
    refunds/<session>/<sha256>.json                             a charge that was proven unbilled
    ledger/<first id>_<last id>.jsonl                           the ledger's transitions, in order
    epochs/<number>.json                                        between two losses of Redis
    marks/<epoch's number>/<number>.json                        what Redis has passed, and the accounts
    sessions/<tenant>/<campaign>/<session>/manifest.json        written last, once
    sessions/<tenant>/<campaign>/<session>/<edition>/<name>     what the manifest lists
    sessions/<tenant>/<campaign>/<session>/journal.jsonl        its journal, when it left Redis

An edition is a set of artifacts, named after the hashes of all of them. Two workers that conclude
the same session write the same edition, or one each; the manifest, one conditional write, says
which one counts. Inside an edition the files have the names and folders of a local session.
Bundles, blobs and checkpoints are apart, so that a lifecycle rule can expire them by prefix.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from worker.errors import BadInput, RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "artifact",
    "blob",
    "blobs",
    "bundle",
    "bundle_sha256",
    "checkpoint",
    "checkpointed",
    "checkpoints",
    "concluded",
    "edition_of",
    "epoch",
    "epochs",
    "journal_copy",
    "manifest",
    "refund",
    "refunds",
    "mark",
    "marks",
    "number_of",
    "sent",
    "sent_all",
    "session_folder",
    "sessions",
    "transitions",
    "valid_artifact_name",
    "valid_life",
    "valid_name",
    "valid_sha256",
]

#: Lower case only, so that two names never differ on one file system and agree on another.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EDITION = re.compile(r"[0-9a-f]{16}")
#: When a life of a session began, and at which position of its journal.
_LIFE = re.compile(r"[0-9]{13}-[0-9]{8}")
_MANIFEST = re.compile(r"sessions/([^/]+)/([^/]+)/([^/]+)/manifest\.json")
_TRANSITION = re.compile(r"([0-9]{1,13})-([0-9]{1,12})")
_CHECKPOINT = re.compile(r"checkpoints/([^/]+)/([^/]+)/([0-9]{8})\.jsonl")
_NUMBERED = re.compile(r"(?:epochs|marks/[0-9]{8})/([0-9]{8,12})\.json")
#: One part of an artifact's name; `teacher_traces/diagnose.jsonl` has two.
_PART = re.compile(r"[a-z0-9_][a-z0-9._-]{0,63}")
_MAX_PARTS = 4
_BUNDLE_URI = re.compile(r"[a-z0-9]+://[a-z0-9][a-z0-9.-]{0,254}/bundles/([0-9a-f]{64})\.tar\.gz")
#: How much of a refused value an error quotes.
_QUOTED_CHARS = 80


# ----------------------------------------------------------------------------------------- checks


def valid_name(kind: str, value: str) -> str:
    """Return `value` if it may be a session id, tenant, campaign or other name.

    Args:
        kind: The field it came from, for the message: `session_id`, `tenant`, …
        value: 1 to 128 of a-z, 0-9, `.`, `_`, `-`; begins with a letter or digit, no `..`.

    Raises:
        RequestInvalid: It is not such a name; the message says which field.
    """
    if _NAME.fullmatch(value) is None or ".." in value:
        raise RequestInvalid(
            f"{kind} {_quoted(value)} cannot be used. Take 1 to 128 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit, without '..'.",
            field=kind,
        )
    return value


def valid_sha256(value: str) -> str:
    """Return `value` if it is a SHA-256 in lower-case hex.

    Raises:
        BadInput: It is not.
    """
    if _SHA256.fullmatch(value) is None:
        raise BadInput(f"{_quoted(value)} is not a SHA-256: 64 lower-case hex digits are wanted.")
    return value


def valid_life(value: str) -> str:
    """Return `value` if it names a life of a session.

    Raises:
        BadInput: It does not.
    """
    if _LIFE.fullmatch(value) is None:
        raise BadInput(f"{_quoted(value)} names no life: 13 digits, a dash, 8 digits are wanted.")
    return value


def valid_artifact_name(value: str) -> str:
    """Return `value` if it may name an artifact: `clusters.json`, `teacher_traces/x.jsonl`.

    Raises:
        BadInput: It is not a relative path of up to four plain parts.
    """
    parts = value.split("/")
    plain = all(_PART.fullmatch(part) is not None and ".." not in part for part in parts)
    if not plain or len(parts) > _MAX_PARTS:
        raise BadInput(
            f"{_quoted(value)} cannot name an artifact. Take up to {_MAX_PARTS} parts of a-z, 0-9, "
            "'.', '_', '-', separated by '/', without '..'.",
        )
    return value


def bundle_sha256(uri: str) -> str:
    """Return the content hash that a bundle's URI names.

    The bucket is for the caller to check: `artifacts.uri(keys.bundle(sha256)) == uri`.

    Raises:
        RequestInvalid: It is not the address of a bundle.
    """
    found = _BUNDLE_URI.fullmatch(uri)
    if found is None:
        raise RequestInvalid(
            f"bundle_uri {_quoted(uri)} is not the address of a bundle. It reads "
            "'s3://<bucket>/bundles/<sha256>.tar.gz'; `diagnosis enqueue --home DIR` makes one.",
            field="bundle_uri",
        )
    return found[1]


def _quoted(value: str) -> str:
    """Return `value` as it may stand in a message, cut where it is long."""
    return repr(value if len(value) <= _QUOTED_CHARS else value[:_QUOTED_CHARS] + "…")


# ------------------------------------------------------------------------------------------- keys


def bundle(sha256: str) -> str:
    """Return the key of a bundle with this content hash."""
    return f"bundles/{valid_sha256(sha256)}.tar.gz"


def blobs(session_id: str) -> str:
    """Return the prefix of all long texts of a session's journal."""
    return f"blobs/{valid_name('session_id', session_id)}/"


def blob(session_id: str, sha256: str) -> str:
    """Return the key of a long text of a session's journal, under its content hash."""
    return f"{blobs(session_id)}{valid_sha256(sha256)}"


def checkpoints(session_id: str | None = None, life: str | None = None) -> str:
    """Return the prefix of the stored parts of all journals, of a session's, or of one life's."""
    if session_id is None:
        return "checkpoints/"
    folder = f"checkpoints/{valid_name('session_id', session_id)}/"
    return folder if life is None else f"{folder}{valid_life(life)}/"


def checkpoint(session_id: str, life: str, first: int) -> str:
    """Return the key of the part of a journal that begins at position `first`."""
    return f"{checkpoints(session_id, life)}{first:08d}.jsonl"


def checkpointed(key: str) -> tuple[str, str, int]:
    """Return (session id, life, first position) of a stored part of a journal.

    Raises:
        BadInput: The key is none that `checkpoint` returns.
    """
    found = _CHECKPOINT.fullmatch(key)
    if found is None:
        raise BadInput(f"{_quoted(key)} is no part of a journal: move it out of 'checkpoints/'.")
    session_id, life, first = found.groups()
    return valid_name("session_id", session_id), valid_life(life), int(first)


def sent_all(session_id: str) -> str:
    """Return the prefix of a session's paid requests that may have gone out."""
    return f"sent/{valid_name('session_id', session_id)}/"


def sent(session_id: str, reservation_id: str) -> str:
    """Return the key under which it is said that a reservation's request may have gone out."""
    name = hashlib.sha256(reservation_id.encode()).hexdigest()
    return f"{sent_all(session_id)}{name}.json"


def refunds(session_id: str | None = None) -> str:
    """Return the prefix of all charges that were proven unbilled, or of a session's."""
    return "refunds/" if session_id is None else f"refunds/{valid_name('session_id', session_id)}/"


def refund(session_id: str, reservation_id: str) -> str:
    """Return the key under which it is said that a reservation's charge was given back."""
    name = hashlib.sha256(reservation_id.encode()).hexdigest()
    return f"{refunds(session_id)}{name}.json"


def transitions(first: str, last: str) -> str:
    """Return the key of a part of the ledger's transitions, from the first id to the last.

    Keys sort as their first transitions do.

    Raises:
        BadInput: An id is not milliseconds, a dash and a number.
    """
    return f"ledger/{_padded(first)}_{_padded(last)}.jsonl"


def _padded(transition_id: str) -> str:
    found = _TRANSITION.fullmatch(transition_id)
    if found is None:
        raise BadInput(f"{_quoted(transition_id)} names no transition: '1763856000000-0' does.")
    return f"{int(found[1]):013d}-{int(found[2]):06d}"


def epochs() -> str:
    """Return the prefix of all epochs."""
    return "epochs/"


def epoch(number: int) -> str:
    """Return the key of an epoch, by its number."""
    return f"{epochs()}{number:08d}.json"


def marks(epoch_number: int) -> str:
    """Return the prefix of an epoch's marks."""
    return f"marks/{epoch_number:08d}/"


def mark(epoch_number: int, number: int) -> str:
    """Return the key of a mark; marks sort as they were made."""
    return f"{marks(epoch_number)}{number:012d}.json"


def number_of(key: str) -> int:
    """Return the number at the end of an epoch's or a mark's key.

    Raises:
        BadInput: There is none.
    """
    found = _NUMBERED.fullmatch(key)
    if found is None:
        raise BadInput(f"{_quoted(key)} is no epoch and no mark: move it away from there.")
    return int(found[1])


def session_folder(*, tenant: str, campaign: str, session_id: str) -> str:
    """Return the prefix of everything that a session leaves for its readers."""
    names = {"tenant": tenant, "campaign": campaign, "session_id": session_id}
    checked = (valid_name(kind, value) for kind, value in names.items())
    return f"sessions/{'/'.join(checked)}/"


def sessions(*, tenant: str | None = None, campaign: str | None = None) -> str:
    """Return the prefix of what all sessions left, of a tenant's, or of a tenant's campaign's."""
    if tenant is None:
        return "sessions/"
    folder = f"sessions/{valid_name('tenant', tenant)}/"
    return folder if campaign is None else f"{folder}{valid_name('campaign', campaign)}/"


def concluded(key: str) -> tuple[str, str, str] | None:
    """Return (tenant, campaign, session id) where a key is a session's manifest, None otherwise."""
    found = _MANIFEST.fullmatch(key)
    return None if found is None else (found[1], found[2], found[3])


def manifest(*, tenant: str, campaign: str, session_id: str) -> str:
    """Return the key of a session's manifest."""
    folder = session_folder(tenant=tenant, campaign=campaign, session_id=session_id)
    return f"{folder}manifest.json"


def journal_copy(*, tenant: str, campaign: str, session_id: str) -> str:
    """Return the key of a session's whole journal; it is no artifact: no manifest lists it."""
    folder = session_folder(tenant=tenant, campaign=campaign, session_id=session_id)
    return f"{folder}journal.jsonl"


def artifact(*, tenant: str, campaign: str, session_id: str, edition: str, name: str) -> str:
    """Return the key of an artifact.

    Args:
        tenant: The session's tenant.
        campaign: The session's campaign.
        session_id: The session.
        edition: What `edition_of` gave for the whole set.
        name: A relative path, such as `teacher_traces/diagnose.jsonl`.

    Raises:
        BadInput: A name, or the edition, is not well formed.
    """
    if _EDITION.fullmatch(edition) is None:
        raise BadInput(f"{_quoted(edition)} is not an edition: take what `edition_of` returns.")
    folder = session_folder(tenant=tenant, campaign=campaign, session_id=session_id)
    return f"{folder}{edition}/{valid_artifact_name(name)}"


def edition_of(sha256_by_name: Mapping[str, str]) -> str:
    """Return the name of a set of artifacts: 16 hex digits that depend on every byte of it."""
    lines = (
        f"{valid_sha256(sha256)}  {valid_artifact_name(name)}\n"
        for name, sha256 in sorted(sha256_by_name.items())
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
