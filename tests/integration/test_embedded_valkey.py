from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from worker.embedded.process import free_ports
from worker.embedded.valkey import ValkeyServer
from worker.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path)
    server.start()
    yield server
    server.stop()


def client_of(server: ValkeyServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_it_keeps_every_answered_write_and_evicts_nothing(server: ValkeyServer) -> None:
    with client_of(server) as client:
        settings = {
            name: value
            for pattern in ("append*", "save", "maxmemory-policy", "bind")
            for name, value in client.config_get(pattern).items()
        }

    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "always"
    assert settings["save"] == ""
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["bind"] == "127.0.0.1"


def test_what_was_written_before_a_sigkill_is_there_on_the_same_port_after_it(
    server: ValkeyServer,
) -> None:
    port = server.port
    with client_of(server) as client:
        client.set("answered", "yes")

        server.kill()
        assert not server.running
        server.start()

        assert client.get("answered") == "yes"
    assert server.port == port


def test_nobody_gets_in_without_the_password(server: ValkeyServer) -> None:
    with (
        redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(AuthenticationError),
    ):
        client.ping()


def test_the_password_is_neither_in_the_arguments_nor_in_a_file_that_others_can_read(
    server: ValkeyServer, tmp_path: Path
) -> None:
    configuration = (tmp_path / "valkey.conf").stat()

    assert server.password not in " ".join(server.launch().argv)
    assert configuration.st_mode & 0o077 == 0


def test_without_a_password_it_asks_for_none(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, password="")
    server.start()
    try:
        with redis.Redis(port=server.port) as client:
            assert client.ping()
    finally:
        server.stop()


def test_a_password_that_needs_quoting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="letters, digits"):
        ValkeyServer(tmp_path, password='a"b')


def test_it_takes_another_port_when_somebody_was_faster(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    with socket.create_server(("127.0.0.1", server.port)) as squatter:
        taken = squatter.getsockname()[1]

        server.start()
    try:
        assert server.port != taken
        assert server.running
    finally:
        server.stop()


def test_a_port_that_was_asked_for_is_not_changed_but_reported(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = ValkeyServer(tmp_path, port=port)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(Misconfigured, match="in use") as raised,
    ):
        server.start()

    assert str(tmp_path / "valkey.log") in raised.value.message
    assert not server.running


def test_a_directive_it_does_not_know_is_reported_with_its_own_words(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, config={"no-such-directive": "1"})

    with pytest.raises(Misconfigured, match="no-such-directive"):
        server.start()
