"""The manifest of a session's artifacts, as it is read back.

Rule: what lies in the object store came from outside: its shape is checked, and a key that it names
is used only where it lies in the folder of the session (`strays`).
"""

from __future__ import annotations

import pydantic
from pydantic import BaseModel, ConfigDict

from worker.errors import BadInput

__all__ = ["Manifest", "ManifestFile", "read_manifest"]


class ManifestFile(BaseModel):
    """One artifact: where it lies and what its bytes are."""

    model_config = ConfigDict(frozen=True)

    key: str
    sha256: str
    size_bytes: int


class Manifest(BaseModel):
    """Which artifacts of a session count, by name."""

    model_config = ConfigDict(frozen=True)

    version: int
    session_id: str
    files: dict[str, ManifestFile]

    def strays(self, folder: str) -> tuple[str, ...]:
        """Return the keys that are not under the session's `folder`."""
        return tuple(file.key for file in self.files.values() if not file.key.startswith(folder))


def read_manifest(body: bytes) -> Manifest:
    """Return the manifest that `core.report.manifest_json` wrote.

    Raises:
        BadInput: It is none.
    """
    try:
        return Manifest.model_validate_json(body)
    except pydantic.ValidationError as exc:
        raise BadInput(
            f"{body[:80]!r} is no manifest: restore manifest.json from the bucket's versions"
        ) from exc
