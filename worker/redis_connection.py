"""The one door to redis-py: connections, Lua scripts, and the translation of its errors.

Rule: only the Redis adapters and who builds them import this one, and no port lets a redis exception out.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from worker.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

__all__ = ["OtherServer", "Script", "connect", "translated"]

#: A dead peer is noticed after this long; redis-py's default is never.
SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 3.0
#: Together about 1.5 s: a restart of the server is bridged, an outage is reported.
RETRIES = 5
#: Errors of a server that will work again: a failing disk, a failover, a script that runs long.
_PASSING = ("MISCONF", "CLUSTERDOWN", "MASTERDOWN", "BUSY ", "TRYAGAIN", "LOADING")


class OtherServer(redis.RedisError):
    """The server behind the address is not the one that the operation was meant for. Not retried."""


def connect(
    url: str, *, max_connections: int = 64, on_server: Callable[[str], None] | None = None
) -> redis.Redis:
    """Return a client for `url` that retries for about 1.5 s; it connects on first use.

    Every operation of ours is idempotent, so a retry after a lost reply is safe.

    Args:
        url: Of the server.
        max_connections: At most so many at a time.
        on_server: Told at each new connection which run of which server is behind it, empty where it
            does not say. It may raise `OtherServer`: what was to be sent is then not sent.
    """
    return redis.Redis.from_url(
        url,
        redis_connect_func=_introduced(on_server) if on_server else None,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=30,
        max_connections=max_connections,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError],
    )


def _introduced(on_server: Callable[[str], None]) -> Callable[[Any], None]:
    """Return what a new connection does first: log in, and ask who is there."""

    def introduce(connection: Any) -> None:  # noqa: ANN401 - redis-py has no one type for it
        connection.on_connect()
        try:
            connection.send_command("INFO", "server")
            said = connection.read_response()
        except redis.ResponseError:  # hidden by the server's access rules
            said = ""
        on_server(_run_id(said.decode() if isinstance(said, bytes) else str(said)))

    return introduce


def _run_id(info: str) -> str:
    found = re.search(r"^run_id:(\w+)", info, re.MULTILINE)
    return found[1] if found else ""


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
    except OtherServer as exc:
        raise Unavailable(f"{exc}, seen while {doing}", doing=doing) from exc
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
