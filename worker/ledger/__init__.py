"""The money: accounts and reservations, in Redis and in memory."""

from __future__ import annotations
