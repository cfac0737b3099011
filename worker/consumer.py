"""What we change in Celery's consumer: two guards and one ticker.

Rule: each is a workaround with its reason and the test that says when it can go.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import structlog
from celery import bootsteps
from celery.worker.consumer import Consumer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RefillTicker", "SafeConsumer"]

_log = structlog.get_logger(__name__)

#: How often the event loop of a threads pool looks for a free slot. At 50 ms idle CPU is 0.8 %.
TICK_S = 0.05
#: What reading something that is no message can raise; anything else is not ours to forgive.
_UNREADABLE = (TypeError, ValueError, LookupError, AttributeError, RecursionError)


class SafeConsumer(Consumer):
    """Survives the loss of the broker, and whatever else than messages stands in a queue.

    *The broker is lost while a message is unacknowledged.* Expected: the worker reconnects. Actual:
    Celery 5.7.0 closes the lost connection twice (celery/celery#10242); the second close raises
    AttributeError and the worker exits with 1. Remove when `tests/chaos/test_consumer_canary.py`
    passes without it.

    *Something in a queue is no message, or has headers of the wrong types.* Expected: it is logged
    and dropped. Actual: kombu 5.7 and Celery 5.7.0 let the TypeError or ValueError of reading it
    end the worker ("Unrecoverable error"), and give what they could read back to the queue, where
    the next worker finds it. Remove when `tests/integration/test_bad_input.py` passes without it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loop = self._reading_on(self.loop)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return what takes each message; one that cannot be taken is logged and dropped."""
        take: Callable[[Any], None] = super().create_task_handler(*args, **kwargs)

        def taken(message: Any) -> None:  # noqa: ANN401 - kombu is untyped
            try:
                take(message)
            except _UNREADABLE as exc:
                _log.error("message dropped", error=repr(exc), headers=repr(message.headers)[:500])
                if not message.acknowledged:
                    message.ack()

        return taken

    def _reading_on(self, loop: Callable[..., None]) -> Callable[..., None]:
        """Return the event loop; what is not even a message costs it a new connection.

        It has left the queue by then, so it is met once.

        Raises:
            ConnectionError: From the loop, so that Celery reconnects.
        """

        @functools.wraps(loop)
        def read(*args: Any, **kwargs: Any) -> None:
            try:
                loop(*args, **kwargs)
            except _UNREADABLE as exc:
                _log.exception("no message dropped")
                raise ConnectionResetError(f"a queue held what is no message: {exc!r}") from exc

        return read

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Reconnect; the connection, already collected, is not closed again."""
        if self.connection is not None:
            self.connection.close = lambda: None
        super().on_connection_error_after_connected(exc)


class RefillTicker(bootsteps.StartStopStep):
    """Wakes the event loop often enough to refill a threads pool.

    Expected: a freed slot takes the next message at once. Actual: with early acks and no prefetch
    the loop notices when it wakes, up to a second later: 20 % of the possible throughput at 0.2 s a
    task. Measured; remove when Celery wakes its hub on a thread's end.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's signature
        super().__init__(parent, **kwargs)
        self._timer: Any = None

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Tick from now on, where there is an event loop."""
        if parent.hub is not None:
            self._timer = parent.hub.call_repeatedly(TICK_S, lambda: None)

    def stop(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Stop ticking."""
        del parent
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop
