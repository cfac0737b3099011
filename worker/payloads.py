"""Texts of any size: small ones stand in the journal, large ones once in the object store.

Rule: a blob's name is its content hash, so writing it twice changes nothing, and a reader can check
what it got.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from worker.core import keys
from worker.core.values import Blob, Payload, Text
from worker.errors import DiagnosisError

if TYPE_CHECKING:
    from worker.ports import Artifacts

__all__ = ["PayloadLost", "Payloads"]


class PayloadLost(DiagnosisError):
    """A blob is missing or not what it was. Cure: restore the bucket; nothing else holds it."""


class Payloads:
    """Stores and loads payloads, with a small cache shared by the process's threads."""

    def __init__(
        self, artifacts: Artifacts, *, inline_bytes: int, cache_bytes: int = 16_000_000
    ) -> None:
        self._artifacts = artifacts
        self._inline_bytes = inline_bytes
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[str, str] = OrderedDict()
        self._cached_size = 0
        self._lock = threading.Lock()

    def store(self, session_id: str, text: str) -> Payload:
        """Return a payload that holds `text`; a large one is in the store when this returns.

        Raises:
            Unavailable: The store did not answer.
        """
        raw = text.encode()
        if len(raw) <= self._inline_bytes:
            return Text(text=text)
        sha256 = hashlib.sha256(raw).hexdigest()
        self._artifacts.put_new(keys.blob(session_id, sha256), raw, content_type="text/plain")
        self._remember(sha256, text)
        return Blob(sha256=sha256, size_bytes=len(raw))

    def load(self, session_id: str, payload: Payload) -> str:
        """Return a payload's text.

        Raises:
            PayloadLost: The store has no such blob, or other bytes under its name.
            Unavailable: The store did not answer.
        """
        if isinstance(payload, Text):
            return payload.text
        with self._lock:
            cached = self._cached.get(payload.sha256)
            if cached is not None:
                self._cached.move_to_end(payload.sha256)
                return cached
        return self._fetch(session_id, payload)

    def _fetch(self, session_id: str, blob: Blob) -> str:
        raw = self._artifacts.get(keys.blob(session_id, blob.sha256))
        if raw is None or hashlib.sha256(raw).hexdigest() != blob.sha256:
            raise PayloadLost(
                f"session {session_id!r}: blob {blob.sha256} is missing from the object store or "
                "damaged: restore it from a backup of the bucket",
                session_id=session_id,
                sha256=blob.sha256,
            )
        text = raw.decode()
        self._remember(blob.sha256, text)
        return text

    def _remember(self, sha256: str, text: str) -> None:
        with self._lock:
            if sha256 in self._cached:
                return
            self._cached[sha256] = text
            self._cached_size += len(text)
            while self._cached_size > self._cache_bytes and len(self._cached) > 1:
                _, dropped = self._cached.popitem(last=False)
                self._cached_size -= len(dropped)
