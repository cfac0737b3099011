"""Several objects at once.

Rule: every object is new or was there already, so doing it again does nothing more.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.ports import Artifacts

__all__ = ["Upload", "upload_all"]

#: Enough to hide the round trips of a session's handful of artifacts.
_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One object to write under a key that is not used for anything else."""

    key: str
    body: bytes
    content_type: str


def upload_all(artifacts: Artifacts, items: Sequence[Upload]) -> tuple[bool, ...]:
    """Write all items side by side; return for each whether it was new.

    When one fails, those under way are waited for and the others are not begun.

    Raises:
        Unavailable: The store did not answer; some may be written. Do all of it again.
    """

    def upload(item: Upload) -> bool:
        return artifacts.put_new(item.key, item.body, content_type=item.content_type)

    if not items:
        return ()
    with ThreadPoolExecutor(min(_THREADS, len(items)), thread_name_prefix="upload") as pool:
        return tuple(pool.map(upload, items))
