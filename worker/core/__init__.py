"""The pure core: what a session is and what it does next.

Rule: standard library only; no clock, chance, I/O or vendor.
"""

from __future__ import annotations
