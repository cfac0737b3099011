from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from tests.services import Bucket
from worker.embedded.seaweed import SeaweedServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from types_boto3_s3 import S3Client

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SeaweedServer]:
    server = SeaweedServer(tmp_path, bucket="made-at-start")
    yield server
    server.kill()


def client_of(server: SeaweedServer, secret_key: str = "") -> S3Client:
    return Bucket(
        endpoint_url=server.endpoint_url,
        access_key=server.access_key,
        secret_key=secret_key or server.secret_key,
        name=server.bucket,
    ).client()


def test_the_bucket_is_there_when_it_says_ready_and_objects_survive_a_sigkill(
    server: SeaweedServer,
) -> None:
    server.start()
    client = client_of(server)
    client.put_object(Bucket="made-at-start", Key="a/b", Body=b"kept", IfNoneMatch="*")

    server.kill()
    server.start()

    assert client.get_object(Bucket="made-at-start", Key="a/b")["Body"].read() == b"kept"
    client.close()


def test_it_takes_other_ports_when_somebody_was_faster_and_leaves_no_socket_in_tmp(
    server: SeaweedServer,
) -> None:
    with socket.create_server(("127.0.0.1", server.port)) as squatter:
        taken = squatter.getsockname()[1]
        left_behind = set(server.stray_sockets)
        server.start()
        assert server.port != taken
    used = set(server.stray_sockets)
    assert any(path.exists() for path in used)

    server.stop()

    assert not [path for path in left_behind | used if path.exists()]


def test_a_wrong_secret_and_a_second_conditional_write_are_refused(bucket: Bucket) -> None:
    client = bucket.client()
    client.put_object(Bucket=bucket.name, Key="once", Body=b"1", IfNoneMatch="*")

    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=bucket.name, Key="once", Body=b"2", IfNoneMatch="*")
    assert client.get_object(Bucket=bucket.name, Key="once")["Body"].read() == b"1"
    client.close()

    stranger = Bucket(
        endpoint_url=bucket.endpoint_url,
        access_key=bucket.access_key,
        secret_key="wrong",
        name=bucket.name,
    ).client()
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stranger.get_object(Bucket=bucket.name, Key="once")
    stranger.close()


def test_its_telemetry_is_off_and_its_key_is_in_no_argument(server: SeaweedServer) -> None:
    launch = server.launch()

    assert "-master.telemetry=false" in launch.argv
    assert server.secret_key not in " ".join(launch.argv)
    assert launch.env is not None
    assert "ANTHROPIC_API_KEY" not in launch.env
