"""Epochs and marks as they lie in the object store, as JSON; and back.

Rule: an unknown version is refused and kept, never guessed: who cannot read an epoch trusts nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from worker.core.epoch import Mark
from worker.errors import UnknownVersion
from worker.ports import Account

__all__ = [
    "StoredEpoch",
    "StoredMark",
    "decode_epoch",
    "decode_mark",
    "encode_epoch",
    "encode_mark",
]

VERSION = 1


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
    read = _read("an epoch", raw)
    try:
        return StoredEpoch(
            epoch=read["epoch"], fleet=read["fleet"], began_ms=read["began_ms"], why=read["why"]
        )
    except KeyError as exc:
        raise _unknown("an epoch", raw) from exc


def encode_mark(mark: StoredMark) -> bytes:
    """Return the mark as JSON."""
    return json.dumps({"v": VERSION, **asdict(mark)}).encode()


def decode_mark(raw: bytes) -> StoredMark:
    """Return the mark that was stored.

    Raises:
        UnknownVersion: A newer worker wrote it, or it is none.
    """
    read = _read("a mark", raw)
    try:
        return StoredMark(
            epoch=read["epoch"],
            mark=Mark(**read["mark"]),
            at_ms=read["at_ms"],
            killed=read["killed"],
            accounts=tuple(Account(**account) for account in read["accounts"]),
        )
    except (KeyError, TypeError) as exc:
        raise _unknown("a mark", raw) from exc


def _read(kind: str, raw: bytes) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(raw)
        if read["v"] == VERSION:
            return read
    except (ValueError, KeyError, TypeError) as exc:
        raise _unknown(kind, raw) from exc
    raise _unknown(kind, raw)


def _unknown(kind: str, raw: bytes) -> UnknownVersion:
    return UnknownVersion(
        f"this worker (epochs of version {VERSION}) cannot read {raw[:200]!r} as {kind}: upgrade it "
        "to the version that wrote it",
        version=VERSION,
    )
