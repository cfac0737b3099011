"""What commands connect to: the same adapters as a worker's, without a worker."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker import bootstrap
from worker.messages import CeleryHints, CeleryResults
from worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Generator

    from worker.bootstrap import System
    from worker.settings import Settings

__all__ = ["connected"]


@contextmanager
def connected(settings: Settings | None = None) -> Generator[System]:
    """Return the system of this process's settings; it is closed at the end of the block."""
    from worker.app import app

    system = bootstrap.build(
        settings or load_settings(),
        hints=CeleryHints(app),
        publish=CeleryResults(app).publish,
    )
    try:
        yield system
    finally:
        system.close()
