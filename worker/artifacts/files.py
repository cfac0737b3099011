"""Files that are whole or not there.

Rule: a reader of `path` sees the old file, the new one, or none; never a part of one.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """Give a file to write that becomes `path` when the block ends well, and is gone otherwise."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
