"""Whole replies on this machine's disk, from the moment they are heard until their step is committed.

Rule: what was heard is not bought again on this machine. A spool that does not work costs money at
worst, never a session: it is warned of, and the worker goes on without.
"""

from __future__ import annotations

from worker.spool.spool import Folder, Spool, SpoolEvent

__all__ = ["Folder", "Spool", "SpoolEvent"]
