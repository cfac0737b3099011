"""What we change in Celery's consumer: one guard and one ticker.

Rule: each is a workaround with its reason and the test that says when it can go.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer

__all__ = ["RefillTicker", "SafeConsumer"]

#: How often the event loop of a threads pool looks for a free slot. At 50 ms idle CPU is 0.8 %.
TICK_S = 0.05


class SafeConsumer(Consumer):
    """Survives the loss of the broker while a message is unacknowledged.

    Expected: the worker reconnects. Actual: Celery 5.7.0 closes the lost connection twice
    (celery/celery#10242); the second close raises AttributeError and the worker exits with 1. Remove
    when `tests/chaos/test_consumer_canary.py` passes without it.
    """

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
