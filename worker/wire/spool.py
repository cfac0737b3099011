"""A whole reply of a teacher or judge as it lies in the spool, as JSON; and back.

Rule: one line says of which version the next one is and what it hashes to. What is damaged is told
from what another version wrote: the one is of no use to anybody, the other is left for its reader.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from worker.core.teaching import TeacherReply  # noqa: TC001 - a field, read at run time
from worker.errors import DiagnosisError, UnknownVersion

if TYPE_CHECKING:
    from worker.core.teaching import TeacherRequest

__all__ = ["SpoolDamaged", "Spooled", "asked_sha256", "decode_spooled", "encode_spooled"]

VERSION = 1


class SpoolDamaged(DiagnosisError):
    """A spooled reply is not what was written. Cure: none needed; its call stays at its bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """A whole reply, and all that is needed to pay for it and to go on from it."""

    session_id: str
    step_id: str
    #: Under which its request went out.
    reservation_id: str
    #: What was asked (`asked_sha256`): the reply answers nothing else.
    asked_sha256: str
    #: The output limit that was sent.
    max_tokens: int
    #: What it cost, by the prices of `price_version`.
    cost_nusd: int
    price_version: str
    reply: TeacherReply
    #: By this machine's clock; 0 until it is written.
    written_ms: int = 0


def asked_sha256(request: TeacherRequest) -> str:
    """Return the hash of what a request asks: its model, prompt and tools.

    Not of how much it may answer: that depends on the money that was left.
    """
    asked = [request.model, request.system, request.messages, request.tools]
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def encode_spooled(spooled: Spooled) -> bytes:
    """Return the reply as two lines."""
    body = json.dumps(asdict(spooled), separators=(",", ":")).encode()
    head = {"v": VERSION, "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + body + b"\n"


def decode_spooled(raw: bytes) -> Spooled:
    """Return the reply that these lines are.

    Raises:
        UnknownVersion: Another version wrote them.
        SpoolDamaged: They are not what was written.
    """
    first, _, body = raw.partition(b"\n")
    try:
        head: dict[str, Any] = json.loads(first)
        version, sha256 = head["v"], head["sha256"]
    except (ValueError, KeyError, TypeError) as exc:
        raise SpoolDamaged(f"no spooled reply: it begins {first[:80]!r}") from exc
    if version != VERSION:
        raise UnknownVersion(
            f"a spooled reply of version {version!r}, and this worker reads version {VERSION}: it "
            "is left for a worker that reads it, until it is too old",
            version=version,
        )
    body = body.removesuffix(b"\n")
    if hashlib.sha256(body).hexdigest() != sha256:
        raise SpoolDamaged(f"a spooled reply of {len(body)} bytes is not the one that was written")
    try:
        return _SPOOLED.validate_python(json.loads(body))
    except ValueError as exc:
        raise SpoolDamaged(f"a spooled reply lacks something: {exc}") from exc


#: Fields that a later worker adds have defaults, and those that it no longer knows are not read.
_SPOOLED = TypeAdapter(Spooled)
