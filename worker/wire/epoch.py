"""Epochs and marks as they lie in the object store, as JSON; and back.

Rule: an unknown version is refused and kept, never guessed: who cannot read an epoch trusts nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

from worker.core.epoch import Mark  # noqa: TC001 - read at run time, by pydantic
from worker.errors import UnknownVersion
from worker.ports import Account  # noqa: TC001 - likewise

__all__ = [
    "StoredEpoch",
    "StoredMark",
    "decode_epoch",
    "decode_mark",
    "encode_epoch",
    "encode_mark",
]

VERSION = 1

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEpoch:
    """An epoch: which fleet's, since when and why."""

    epoch: str
    #: The key prefix of the fleet's Redis keys: two fleets cannot share a bucket.
    fleet: str
    began_ms: int
    #: `provisioned`, `empty`, `older` or `accepted`.
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMark:
    """A point that Redis has passed, and the accounts that outlast sessions as they stood there."""

    epoch: str
    mark: Mark
    at_ms: int
    killed: bool
    accounts: tuple[Account, ...]


def encode_epoch(epoch: StoredEpoch) -> bytes:
    """Return the epoch as JSON."""
    return json.dumps({"v": VERSION, **asdict(epoch)}).encode()


def decode_epoch(raw: bytes) -> StoredEpoch:
    """Return the epoch that was stored.

    Raises:
        UnknownVersion: A newer worker wrote it, or it is none.
    """
    return _decode(_EPOCH, "an epoch", raw)


def encode_mark(mark: StoredMark) -> bytes:
    """Return the mark as JSON."""
    return json.dumps({"v": VERSION, **asdict(mark)}).encode()


def decode_mark(raw: bytes) -> StoredMark:
    """Return the mark that was stored.

    Raises:
        UnknownVersion: A newer worker wrote it, or it is none.
    """
    return _decode(_MARK, "a mark", raw)


_EPOCH, _MARK = TypeAdapter(StoredEpoch), TypeAdapter(StoredMark)


def _decode(adapter: TypeAdapter[_T], kind: str, raw: bytes) -> _T:
    try:
        read: dict[str, Any] = json.loads(raw)
        if read["v"] == VERSION:
            return adapter.validate_python(read)
    except (ValueError, KeyError, TypeError) as exc:
        raise _unknown(kind, raw) from exc
    raise _unknown(kind, raw)


def _unknown(kind: str, raw: bytes) -> UnknownVersion:
    return UnknownVersion(
        f"this worker (epochs of version {VERSION}) cannot read {raw[:200]!r} as {kind}: upgrade it "
        "to the version that wrote it",
        version=VERSION,
    )
