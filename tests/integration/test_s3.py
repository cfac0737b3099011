"""What only a real server, or a broken one, can say about the S3 adapter."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from worker.artifacts.s3 import S3Artifacts
from worker.embedded.process import free_ports
from worker.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from tests.services import Bucket
    from worker.ports import Artifacts

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

TEXT = "text/plain"

#: Everything that a port can ask for, by name.
OPERATIONS: dict[str, Callable[[Artifacts], object]] = {
    "put": lambda store: store.put("k", b"x", content_type=TEXT),
    "put_new": lambda store: store.put_new("k", b"x", content_type=TEXT),
    "get": lambda store: store.get("k"),
    "exists": lambda store: store.exists("k"),
    "list": lambda store: store.list("k"),
    "delete": lambda store: store.delete("k"),
}


@contextlib.contextmanager
def opened(endpoint_url: str, **settings: object) -> Generator[S3Artifacts]:
    chosen: dict[str, object] = {"access_key": "key", "secret_key": "secret", "attempts": 2}
    chosen |= {"bucket": "diagnosis", **settings}
    store = S3Artifacts(endpoint_url=endpoint_url, **chosen)  # type: ignore[arg-type]
    try:
        yield store
    finally:
        store.close()


def in_bucket(bucket: Bucket) -> contextlib.AbstractContextManager[S3Artifacts]:
    return opened(
        bucket.endpoint_url,
        bucket=bucket.name,
        access_key=bucket.access_key,
        secret_key=bucket.secret_key,
    )


# --------------------------------------------------------------------------------- a real store


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_wrong_secret_is_a_wrong_setting(bucket: Bucket, operation: str) -> None:
    with (
        opened(bucket.endpoint_url, access_key=bucket.access_key, secret_key="no") as store,
        pytest.raises(Misconfigured, match="correct the settings") as caught,
    ):
        OPERATIONS[operation](store)

    assert caught.value.facts["status"] == 403
    assert bucket.secret_key not in str(caught.value)


def test_bytes_that_are_not_what_was_meant_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.write_bytes(b"what was meant")
    with in_bucket(bucket) as store:
        spoil = _spoiler(path, b"something else")
        store._s3.meta.events.register("before-parameter-build.s3.PutObject", spoil)

        with pytest.raises(Unavailable, match="BadDigest"):
            store.put_file("k", path, content_type=TEXT)

        assert not store.exists("k")


def _spoiler(path: Path, body: bytes) -> Callable[..., None]:
    """Writes over the file between its hash and its upload, as another process might."""

    def spoil(**_: object) -> None:
        path.write_bytes(body)

    return spoil


def test_the_store_keeps_the_checksum_and_the_content_type(bucket: Bucket) -> None:
    with in_bucket(bucket) as store:
        store.put("k.md", b"body", content_type="text/markdown; charset=utf-8")

        head = store._s3.head_object(Bucket=bucket.name, Key="k.md", ChecksumMode="ENABLED")

    expected = base64.b64encode(hashlib.sha256(b"body").digest()).decode()
    assert head.get("ChecksumSHA256") == expected
    assert head["ContentType"] == "text/markdown; charset=utf-8"


# ---------------------------------------------------------------------------- a store that fails


@dataclass
class Script:
    """What the scripted store answers, one entry a request; the last one is repeated."""

    answers: list[tuple[int, str]]
    seen: Counter[str] = field(default_factory=Counter[str])

    def next(self) -> tuple[int, str]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextlib.contextmanager
def scripted(*answers: tuple[int, str]) -> Generator[tuple[str, Script]]:
    script = Script(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            script.seen[self.command] += 1
            status, code = script.next()
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>" if code else ""
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self.answer
            raise AttributeError(name)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "cure"),
    [
        (404, "NoSuchBucket", "create it"),
        (403, "AccessDenied", "access key"),
        (403, "SignatureDoesNotMatch", "access key"),
        (401, "Unauthorized", "access key"),
        (403, "RequestTimeTooSkewed", "clocks"),
        (301, "", "redirected"),
        (400, "AuthorizationHeaderMalformed", "region"),
        (413, "EntityTooLarge", "limit"),
        (501, "NotImplemented", "conditional writes"),
        (400, "SomethingElse", "endpoint"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, code: str, cure: str) -> None:
    with (
        scripted((status, code)) as (url, _),
        opened(url) as store,
        pytest.raises(Misconfigured, match=cure) as caught,
    ):
        store.put("k", b"x", content_type=TEXT)

    assert code in str(caught.value)
    assert "'diagnosis'" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (502, ""),
        (503, "SlowDown"),
        (503, "ServiceUnavailable"),
        (429, "TooManyRequests"),
        (400, "BadDigest"),
        (400, "RequestTimeout"),
    ],
)
def test_a_busy_or_broken_store_is_waited_for(status: int, code: str) -> None:
    with scripted((status, code)) as (url, _), opened(url, attempts=1) as store:
        for operation in ("put", "put_new", "get", "list"):
            with pytest.raises(Unavailable):
                OPERATIONS[operation](store)


def test_a_fault_that_passes_is_not_even_seen() -> None:
    answers = [(503, "SlowDown"), (500, "InternalError"), (200, "")]
    with scripted(*answers) as (url, script), opened(url, attempts=3) as store:
        assert store.put_new("k", b"x", content_type=TEXT)

    assert script.seen["PUT"] == 3


def test_a_conflict_is_tried_again_until_it_is_decided() -> None:
    conflict = (409, "ConditionalRequestConflict")
    answers = [conflict, conflict, (412, "PreconditionFailed")]
    with scripted(*answers) as (url, script), opened(url) as store:
        assert not store.put_new("k", b"x", content_type=TEXT)

    assert script.seen["PUT"] == 3


def test_a_conflict_that_stays_is_waited_for() -> None:
    with (
        scripted((409, "ConditionalRequestConflict")) as (url, script),
        opened(url) as store,
        pytest.raises(Unavailable, match="ConditionalRequestConflict"),
    ):
        store.put_new("k", b"x", content_type=TEXT)

    assert script.seen["PUT"] == 6


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nobody_there_is_unavailable(operation: str) -> None:
    (port,) = free_ports(1)
    with (
        opened(f"http://127.0.0.1:{port}", attempts=1) as store,
        pytest.raises(Unavailable, match=str(port)),
    ):
        OPERATIONS[operation](store)


def test_a_store_that_never_answers_is_unavailable_in_time(silent: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with opened(silent, attempts=1, read_timeout_ms=200) as store, pytest.raises(Unavailable):
        store.get_file("k", tmp_path / "file")

    assert time.monotonic() - began < 5
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_body_that_is_cut_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with (
        cut_short(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly this") as url,
        opened(url, attempts=1) as store,
        pytest.raises(Unavailable),
    ):
        store.get_file("k", path)

    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("file", b"old")]


def test_a_body_that_was_damaged_is_not_believed() -> None:
    checksum = base64.b64encode(hashlib.sha256(b"good").digest()).decode()
    head = f"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-amz-checksum-sha256: {checksum}\r\n\r\n"
    with (
        cut_short(head.encode() + b"evil") as url,
        opened(url, attempts=1) as store,
        pytest.raises(Unavailable),
    ):
        store.get("k")


@contextlib.contextmanager
def cut_short(answer: bytes) -> Generator[str]:
    """A server that gives each connection these bytes and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("endpoint_url", ["not a url", "http://", "ftp//x"])
def test_a_malformed_endpoint_is_refused_at_once(endpoint_url: str) -> None:
    with pytest.raises(Misconfigured, match="endpoint"):
        S3Artifacts("bucket", endpoint_url=endpoint_url, access_key="a", secret_key="b")
