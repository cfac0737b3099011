"""Sessions' journals, the leases on their steps, and the due set: in Redis and in memory."""

from __future__ import annotations
