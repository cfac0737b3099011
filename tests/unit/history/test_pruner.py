"""The pruner runs in workers that serve the control queue, and ends with them."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from worker.app import Pruner


def parent(*queues: str) -> SimpleNamespace:
    """Return what the pruner sees of its worker."""
    consume_from = dict.fromkeys(queues)
    return SimpleNamespace(
        app=SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=consume_from)))
    )


def pruners() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prune"]


@pytest.mark.parametrize(
    ("queues", "threads"),
    [
        (("control", "tools"), 1),
        (("student",), 0),
    ],
)
def test_it_runs_where_the_control_queue_is_served_until_the_worker_stops(
    queues: tuple[str, ...], threads: int
) -> None:
    worker = parent(*queues)
    pruner = Pruner(worker)

    pruner.start(worker)
    assert len(pruners()) == threads

    pruner.stop(worker)
    assert pruners() == []
