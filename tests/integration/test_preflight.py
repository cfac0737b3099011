"""What keeps a worker from starting, on a real server whose settings would break a promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tasks import preflight as at_start
from worker.doctor import preflight, worker_checks
from worker.doctor.fleet import LONGEST_STEP_S, delivery
from worker.doctor.redis_server import CLOCKS_APART_MS, clocks
from worker.embedded.valkey import ValkeyServer
from worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.doctor import Check
    from worker.settings import Settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.enable_socket,
    # Celery's own word on an option of tasks, said when they are first loaded.
    pytest.mark.filterwarnings("ignore:[\\s\\S]*'queue' task attribute"),
]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server of our own, whose settings we may break."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def broken(valkey: ValkeyServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """Set one of the server's settings as `param` says; return the setting's name."""
    import redis  # noqa: PLC0415

    name, value = request.param
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        before: Any = client.config_get(name)
        client.config_set(name, value)
        yield name
        client.config_set(name, before[name])


def failing(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found if check.state == "fail"}


def test_a_server_that_keeps_every_promise_lets_a_worker_start(valkey: ValkeyServer) -> None:
    found = preflight(load_settings(redis_url=valkey.url))

    assert failing(found) == {}
    names = {"appendonly", "appendfsync", "maxmemory-policy", "clocks", "prefetch"}
    assert {check.name for check in found} == {*names, "visibility timeout"}


@pytest.mark.parametrize(
    "broken",
    [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("appendfsync", "no"),
        ("maxmemory-policy", "allkeys-lru"),
        ("maxmemory-policy", "volatile-ttl"),
    ],
    indirect=True,
)
def test_one_that_could_lose_a_commit_does_not_but_where_that_is_allowed(
    valkey: ValkeyServer, broken: str
) -> None:
    (check,) = failing(preflight(load_settings(redis_url=valkey.url))).values()

    assert check.name == broken
    assert f"CONFIG SET {broken}" in check.cure
    allowed = load_settings(redis_url=valkey.url, allow_unsafe_redis=True)
    assert failing(preflight(allowed)) == {}


@pytest.mark.parametrize(
    "command",
    [
        ["worker.cli", "worker", "--queues", "control"],
        ["celery", "--app", "worker.app", "worker", "--queues", "control", "--pool", "threads"],
    ],
    ids=["diagnosis", "celery"],
)
@pytest.mark.parametrize("broken", [("appendfsync", "everysec")], indirect=True)
def test_the_worker_itself_refuses_and_says_the_cure(
    valkey: ValkeyServer, broken: str, command: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "DIAGNOSIS_REDIS_URL": valkey.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 7
    assert f"{broken}: everysec" in done.stderr
    assert "CONFIG SET appendfsync always" in done.stderr


def test_a_worker_that_cannot_be_looked_at_does_not_start_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Celery would swallow the error, and start it unseen."""

    def broken(settings: Settings) -> list[Check]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(at_start, "preflight", broken)

    with pytest.raises(SystemExit) as left:
        at_start.refuse()

    assert left.value.code == 1
    assert "does not start: RuntimeError('a bug')" in capsys.readouterr().err


def test_doctor_says_so_too(valkey: ValkeyServer, tmp_path: Path) -> None:
    path = tmp_path / "ready"
    settings = load_settings(
        redis_url=valkey.url, ready_file=path, s3_endpoint="http://127.0.0.1:1"
    )

    assert set(failing(worker_checks(settings))) == {"ready", "epoch"}
    path.touch()
    assert failing(worker_checks(settings)) == {}
    assert set(failing(worker_checks(load_settings()))) == {"ready"}


def test_the_command_for_probes_says_whether_this_worker_can_work(tmp_path: Path) -> None:
    path = tmp_path / "ready"
    path.touch()
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "doctor", "--ready", "--json"],
        env={**os.environ, "DIAGNOSIS_READY_FILE": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0
    assert json.loads(done.stdout)["state"] == "ok"


def test_clocks_that_are_apart_stop_a_worker() -> None:
    assert clocks(CLOCKS_APART_MS - 1, unsafe_allowed=False).state == "ok"
    assert clocks(CLOCKS_APART_MS, unsafe_allowed=False).state == "fail"
    assert "NTP" in clocks(CLOCKS_APART_MS, unsafe_allowed=False).cure
    assert clocks(CLOCKS_APART_MS, unsafe_allowed=True).state == "warn"


def conf(**changed: Any) -> SimpleNamespace:
    """Return our Celery settings, as far as they are looked at, with some changed."""
    ours = {
        "broker_url": "redis://127.0.0.1:6379/1",
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        "broker_transport_options": {"visibility_timeout": 120},
    }
    return SimpleNamespace(**{**ours, **changed})


@pytest.mark.parametrize(
    ("changed", "late", "failed"),
    [
        ({}, [], set[str]()),
        ({"worker_prefetch_multiplier": 4}, [], set[str]()),
        ({"worker_prefetch_multiplier": 4, "worker_disable_prefetch": False}, [], {"prefetch"}),
        # Celery heeds `worker_disable_prefetch` on Redis alone.
        ({"worker_prefetch_multiplier": 4, "broker_url": "amqp://x"}, [], {"prefetch"}),
        ({}, ["own.task"], {"visibility timeout"}),
        (
            {"broker_transport_options": {"visibility_timeout": LONGEST_STEP_S}},
            ["own.task"],
            set[str](),
        ),
        # What kombu takes by itself is an hour.
        ({"broker_transport_options": {}}, ["own.task"], set[str]()),
    ],
)
def test_what_would_deliver_a_message_twice_or_keep_it_from_others_stops_a_worker(
    changed: dict[str, Any], late: list[str], failed: set[str]
) -> None:
    found = failing(list(delivery(conf(**changed), late, unsafe_allowed=False)))

    assert set(found) == failed
    assert all(check.cure for check in found.values())
    assert failing(list(delivery(conf(**changed), late, unsafe_allowed=True))) == {}
