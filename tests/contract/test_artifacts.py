"""What every store of artifacts does, in memory, in moto and in SeaweedFS."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from worker.artifacts.memory import MemoryArtifacts
from worker.artifacts.s3 import S3Artifacts
from worker.artifacts.upload import Upload, upload_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services import Bucket
    from worker.ports import Artifacts

TEXT = "text/plain; charset=utf-8"


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Artifacts]:
    """Moto answers inside this process: no socket is opened, and it knows no other address."""
    import boto3  # noqa: PLC0415  # 40 MB that only these tests want
    from moto import mock_aws  # noqa: PLC0415

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with mock_aws():
        store = S3Artifacts("bucket", access_key="any", secret_key="any")
        maker = boto3.client(
            "s3", region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any"
        )
        maker.create_bucket(Bucket="bucket")
        maker.close()
        yield store
        store.close()


@pytest.fixture(
    params=[
        "memory",
        "moto",
        pytest.param("seaweed", marks=[pytest.mark.integration, pytest.mark.enable_socket]),
    ]
)
def store(request: pytest.FixtureRequest) -> Iterator[Artifacts]:
    match request.param:
        case "memory":
            yield MemoryArtifacts()
        case "moto":
            yield request.getfixturevalue("moto")
        case _:
            bucket: Bucket = request.getfixturevalue("bucket")
            real = S3Artifacts(
                bucket.name,
                endpoint_url=bucket.endpoint_url,
                access_key=bucket.access_key,
                secret_key=bucket.secret_key,
            )
            yield real
            real.close()


def test_what_was_put_comes_back(store: Artifacts) -> None:
    body = "größer\0".encode() * 100_000

    store.put("a/b", body, content_type=TEXT)

    assert store.get("a/b") == body
    assert store.exists("a/b")


def test_an_empty_object_is_an_object(store: Artifacts) -> None:
    store.put("empty", b"", content_type=TEXT)

    assert store.get("empty") == b""
    assert store.exists("empty")


def test_what_was_never_put_is_not_there(store: Artifacts, tmp_path: Path) -> None:
    path = tmp_path / "file"

    assert store.get("none") is None
    assert not store.exists("none")
    assert not store.get_file("none", path)
    assert list(tmp_path.iterdir()) == []


def test_put_overwrites(store: Artifacts) -> None:
    store.put("k", b"first", content_type=TEXT)
    store.put("k", b"second", content_type=TEXT)

    assert store.get("k") == b"second"


def test_put_new_never_overwrites(store: Artifacts) -> None:
    assert store.put_new("k", b"first", content_type=TEXT)
    assert not store.put_new("k", b"second", content_type=TEXT)

    assert store.get("k") == b"first"


def test_put_new_writes_again_after_a_delete(store: Artifacts) -> None:
    store.put_new("k", b"first", content_type=TEXT)
    store.delete("k")

    assert store.put_new("k", b"second", content_type=TEXT)
    assert store.get("k") == b"second"


def test_a_file_goes_there_and_back(store: Artifacts, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3_000_000))

    assert store.put_file("bundles/x", source, content_type="application/gzip")
    assert store.get_file("bundles/x", target)

    assert target.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_put_file_never_overwrites(store: Artifacts, tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(b"first")
    second.write_bytes(b"second")

    assert store.put_file("k", first, content_type=TEXT)
    assert not store.put_file("k", second, content_type=TEXT)

    assert store.get("k") == b"first"


def test_get_file_replaces_a_whole_file(store: Artifacts, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    store.put("k", b"new", content_type=TEXT)

    assert store.get_file("k", path)

    assert path.read_bytes() == b"new"


def test_list_gives_the_keys_under_a_prefix_in_order(store: Artifacts) -> None:
    for key in ("b/2", "b/10", "b/1/x", "a/1", "bb"):
        store.put(key, b"x", content_type=TEXT)

    assert store.list("b/") == ("b/1/x", "b/10", "b/2")
    assert store.list("none/") == ()
    assert store.list("") == ("a/1", "b/1/x", "b/10", "b/2", "bb")


def test_delete_removes_and_does_not_mind_if_there_is_nothing(store: Artifacts) -> None:
    store.put("k", b"x", content_type=TEXT)

    store.delete("k")
    store.delete("k")

    assert not store.exists("k")
    assert store.list("") == ()


def test_a_uri_ends_with_the_key(store: Artifacts) -> None:
    scheme, _, rest = store.uri("sessions/a/b").partition("://")

    assert scheme in {"s3", "memory"}
    assert rest.partition("/")[2] == "sessions/a/b"


def test_of_sixteen_writers_of_one_key_exactly_one_wins(store: Artifacts) -> None:
    writers = 16
    line_up = threading.Barrier(writers)

    def write(number: int) -> bool:
        line_up.wait(10)
        return store.put_new("manifest.json", b"%d" % number, content_type=TEXT)

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(write, range(writers)))

    assert won.count(True) == 1
    assert store.get("manifest.json") == b"%d" % won.index(True)


def test_upload_all_writes_everything_and_says_what_was_new(store: Artifacts) -> None:
    items = [Upload(key=f"k/{n}", body=b"%d" % n, content_type=TEXT) for n in range(20)]
    store.put("k/3", b"3", content_type=TEXT)

    assert upload_all(store, items) == tuple(n != 3 for n in range(20))
    assert upload_all(store, items) == (False,) * 20
    assert upload_all(store, []) == ()

    assert [store.get(item.key) for item in items] == [item.body for item in items]
