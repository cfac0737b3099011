"""Which queues keep a message until it is acknowledged."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import worker
from worker.core.commands import Queue

if TYPE_CHECKING:
    from collections.abc import Iterable

    import kombu

_CONFIG = Path(worker.__file__).parent / "celeryconfig.py"
REDIS = ["redis://h:6379/1", "rediss://h:6379/1", "sentinel://h:26379/1"]


def _keeping(broker: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the names of the queues that keep their messages under this broker."""
    monkeypatch.setenv("DIAGNOSIS_BROKER_URL", broker)
    # By its path: the module itself may be imported already, with other settings.
    queues: Iterable[kombu.Queue] = runpy.run_path(str(_CONFIG))["task_queues"]
    return {queue.name for queue in queues if not queue.no_ack}


@pytest.mark.parametrize("broker", REDIS)
def test_on_redis_only_requests_are_kept(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _keeping(broker, monkeypatch) == {"control"}


def test_on_other_brokers_all_messages_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without acknowledgements RabbitMQ would send a whole queue to the first worker.
    assert _keeping("amqp://h:5672//", monkeypatch) == {queue.value for queue in Queue}
