"""Connections that are watched: a call ends when its time is up or its caller wants it to.

Rule: whatever a server does (says nothing, sends a byte a second, sends without end), control comes
back to the caller within `TICK_S` of the moment it should. No thread is needed for that: every wait
on the network is cut into short ones, and between them the call's `Watch` is asked.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from worker.core.teacher_faults import What

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

__all__ = ["Answer", "Ended", "Watch", "WatchedBackend", "Watches"]

#: How long a call may go on after its caller wanted it to end.
TICK_S = 0.25
#: A reply of 128,000 tokens, one an event of 150 bytes, takes 20 MB.
_MAX_REPLY_BYTES = 64 << 20
#: Large requests are written in pieces, so that a server that does not read is noticed too.
_WRITE_BYTES = 64 << 10


class Ended(Exception):
    """The watch ended the call."""

    def __init__(self, what: What, detail: str) -> None:
        super().__init__(detail)
        self.what = what
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of a response."""

    status: int
    headers: Mapping[str, str]


class Watch:
    """One call: what it may take, and what is known of it."""

    def __init__(self, *, timeout_ms: int, stopped: Callable[[], bool]) -> None:
        self._timeout_ms = timeout_ms
        self._began_s = time.monotonic()
        self._deadline_s = self._began_s + timeout_ms / 1000
        self._stopped = stopped
        self._received_bytes = 0
        #: Whether a byte of the request may have left this machine.
        self.sent = False
        #: The head of the response, once it is there.
        self.answer: Answer | None = None

    @property
    def elapsed_ms(self) -> int:
        """How long the call has taken so far."""
        return round((time.monotonic() - self._began_s) * 1000)

    def check(self) -> None:
        """Return if the call may go on.

        Raises:
            Ended: It may not.
        """
        if self._stopped():
            raise Ended(What.STOPPED, "the session did not want it any more")
        if time.monotonic() >= self._deadline_s:
            raise Ended(What.TIMEOUT, f"it took longer than {self._timeout_ms} ms")

    def within(self, timeout_s: float | None) -> float:
        """Return how long to wait: `timeout_s`, or less where the call's time ends before."""
        left_s = max(self._deadline_s - time.monotonic(), 0.001)
        return left_s if timeout_s is None else min(timeout_s, left_s)

    def received(self, count: int) -> None:
        """Count received bytes.

        Raises:
            Ended: They are more than any reply has.
        """
        self._received_bytes += count
        if self._received_bytes > _MAX_REPLY_BYTES:
            raise Ended(What.TOO_LARGE, f"more than {_MAX_REPLY_BYTES} bytes")

    def end_within(self, seconds: float) -> None:
        """Bring the end of the call nearer."""
        self._deadline_s = min(self._deadline_s, time.monotonic() + seconds)


class Watches(threading.local):
    """The watch of the call that this thread is making: a connection is used by one at a time."""

    current: Watch | None = None

    @contextlib.contextmanager
    def using(self, watch: Watch) -> Generator[Watch]:
        """Have `watch` watch this thread's connections."""
        self.current = watch
        try:
            yield watch
        finally:
            self.current = None


class _Connection(Protocol):
    """What `httpcore2` calls a network stream."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes: ...
    def write(self, buffer: bytes, timeout: float | None = None) -> None: ...
    def close(self) -> None: ...
    def start_tls(
        self,
        ssl_context: Any,  # noqa: ANN401 - passed on
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> _Connection: ...
    def get_extra_info(self, info: str) -> Any: ...  # noqa: ANN401 - passed on


class WatchedBackend:
    """Opens watched connections; a network backend of `httpcore2`."""

    def __init__(self, inner: Any, watches: Watches, *, timeout_error: type[Exception]) -> None:  # noqa: ANN401
        """Wrap a backend.

        Args:
            inner: The backend that really connects.
            watches: Where the watch of a call is found.
            timeout_error: What a connection raises where nothing came in time.
        """
        self._inner = inner
        self._watches = watches
        self._timeout_error = timeout_error

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Connection:
        """Connect, within the time that the call has left."""
        watch = self._watches.current
        inner = self._inner.connect_tcp(
            host,
            port,
            timeout=watch.within(timeout) if watch else timeout,
            local_address=local_address,
            socket_options=socket_options,
        )
        return _Watched(cast("_Connection", inner), self._watches, self._timeout_error)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class _Watched:
    """A connection that asks the call's watch before and while it waits."""

    def __init__(
        self, inner: _Connection, watches: Watches, timeout_error: type[Exception]
    ) -> None:
        self._inner = inner
        self._watches = watches
        self._timeout_error = timeout_error

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        watch = self._watches.current
        if watch is None:
            return self._inner.read(max_bytes, timeout)
        data = self._read_by_ticks(watch, max_bytes, timeout)
        watch.received(len(data))
        return data

    def _read_by_ticks(self, watch: Watch, max_bytes: int, timeout: float | None) -> bytes:
        quiet_until_s = time.monotonic() + (TICK_S if timeout is None else timeout)
        while True:
            watch.check()
            try:
                return self._inner.read(max_bytes, watch.within(TICK_S))
            except self._timeout_error:
                if timeout is not None and time.monotonic() >= quiet_until_s:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        watch = self._watches.current
        if watch is None:
            self._inner.write(buffer, timeout)
            return
        for begin in range(0, len(buffer), _WRITE_BYTES):
            watch.check()
            watch.sent = True
            self._inner.write(buffer[begin : begin + _WRITE_BYTES], watch.within(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: Any,  # noqa: ANN401 - passed on
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> _Connection:
        watch = self._watches.current
        within = watch.within(timeout) if watch else timeout
        inner = self._inner.start_tls(ssl_context, server_hostname, within)
        return _Watched(inner, self._watches, self._timeout_error)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - passed on
        return self._inner.get_extra_info(info)
