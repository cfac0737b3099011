"""The one door to redis-py: connections, Lua scripts, and the translation of its errors.

Rule: no other module but the two Redis adapters imports this one, and none sees a redis exception.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from worker.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

__all__ = ["Script", "connect", "translated"]

#: A dead peer is noticed after this long; redis-py's default is never.
SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 3.0
#: Together about 1.5 s: a restart of the server is bridged, an outage is reported.
RETRIES = 5
#: Errors of a server that will work again: a failing disk, a failover, a script that runs long.
_PASSING = ("MISCONF", "CLUSTERDOWN", "MASTERDOWN", "BUSY ", "TRYAGAIN", "LOADING")


def connect(url: str, *, max_connections: int = 64) -> redis.Redis:
    """Return a client for `url` that retries for about 1.5 s; it connects on first use.

    Every operation of ours is idempotent, so a retry after a lost reply is safe.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=30,
        max_connections=max_connections,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError],
    )


@contextmanager
def translated(doing: str) -> Generator[None]:
    """Turn redis-py's errors into `Unavailable`, which says what could not be done.

    Raises:
        Unavailable: The server did not answer, is loading, full or read-only.
    """
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError) as exc:
        raise Unavailable(f"Redis did not answer while {doing}: {exc}", doing=doing) from exc
    except (redis.OutOfMemoryError, redis.ReadOnlyError) as exc:
        raise Unavailable(f"Redis refused to write while {doing}: {exc}", doing=doing) from exc
    except redis.ResponseError as exc:
        if not str(exc).startswith(_PASSING):
            raise
        raise Unavailable(f"Redis cannot work now, while {doing}: {exc}", doing=doing) from exc


class Script:
    """One Lua file as a callable; the server keeps it by its hash."""

    def __init__(self, client: redis.Redis, path: Path, *, prelude: str = "") -> None:
        self._name = path.stem
        self._script = client.register_script(prelude + path.read_text(encoding="utf-8"))

    def __call__(self, keys: Sequence[str], args: Sequence[str | int]) -> Any:  # noqa: ANN401 - a script answers what it likes; its caller knows the shape
        """Run the script and return its reply.

        Raises:
            Unavailable: The server did not answer.
        """
        with translated(f"running {self._name}"):
            return self._script(keys=keys, args=args)
