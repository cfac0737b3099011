"""Real servers for the integration tests: started once, handed out empty.

Rule: a test never sees what another one left. Valkey is emptied before each test that asks for it;
each test that asks for S3 gets a bucket of its own.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
import pytest
import redis
from botocore.config import Config

from worker.embedded.llama import LlamaServer
from worker.embedded.seaweed import SeaweedServer
from worker.embedded.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from types_boto3_s3 import S3Client

__all__ = [
    "Bucket",
    "bucket",
    "llama_server",
    "redis_client",
    "redis_url",
    "seaweed_server",
    "valkey_server",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """An empty bucket on the real S3 server, and how to reach it."""

    endpoint_url: str
    access_key: str
    secret_key: str
    name: str
    region: str = "us-east-1"

    def client(self) -> S3Client:
        """Return a new client; close it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """The session's Valkey. Do not stop it: a test that stops servers makes its own."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def seaweed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """The session's S3 server. Do not stop it: a test that stops servers makes its own."""
    server = SeaweedServer(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    """The session's student: SmolLM2-135M on one thread, eight slots."""
    server = LlamaServer(tmp_path_factory.mktemp("llama"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_client(valkey_server: ValkeyServer) -> Iterator[redis.Redis]:
    """A client of the session's Valkey, which is empty in all databases."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
        client.script_flush()
        yield client


@pytest.fixture
def redis_url(valkey_server: ValkeyServer, redis_client: redis.Redis) -> str:
    """The address of the session's Valkey, which is empty in all databases."""
    assert redis_client.dbsize() == 0
    return valkey_server.url


@pytest.fixture
def bucket(seaweed_server: SeaweedServer) -> Bucket:
    """A new, empty bucket on the session's S3 server."""
    new = Bucket(
        endpoint_url=seaweed_server.endpoint_url,
        access_key=seaweed_server.access_key,
        secret_key=seaweed_server.secret_key,
        name=f"test-{uuid.uuid4().hex}",
    )
    client = new.client()
    client.create_bucket(Bucket=new.name)
    client.close()
    return new
