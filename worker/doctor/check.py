"""What a check found: the one shape in which every part of the doctor reports.

Rule: what is not `ok` says what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import redis
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from worker.settings import Settings

__all__ = ["PROBE_TIMEOUT_S", "Check", "State", "client_of"]

State = Literal["ok", "warn", "fail"]

#: Who looks does not wait long for a server that is away: that is what it says then.
PROBE_TIMEOUT_S = 5.0


class Check(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: State
    found: str
    #: What to do; empty for `ok`.
    cure: str = ""


def client_of(settings: Settings) -> redis.Redis:
    """Return a client that gives up soon; close it."""
    return redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=PROBE_TIMEOUT_S,
        socket_connect_timeout=PROBE_TIMEOUT_S,
        decode_responses=True,
    )
