from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from worker.artifacts.files import replacing
from worker.artifacts.memory import MemoryArtifacts
from worker.artifacts.s3 import S3Artifacts
from worker.artifacts.upload import Upload, upload_all
from worker.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from pathlib import Path


def test_importing_the_adapter_does_not_load_boto3() -> None:
    program = "import sys, worker.artifacts.s3; print({'boto3', 'botocore'} & set(sys.modules))"

    seen = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert seen.stdout.decode().strip() == "set()"


def test_a_bucket_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from moto import mock_aws  # noqa: PLC0415  # 40 MB that few tests want

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with mock_aws():
        store = S3Artifacts("nowhere", access_key="any", secret_key="any")

        with pytest.raises(Misconfigured, match=r"'nowhere'.*create it") as caught:
            store.get("k")
        store.close()

    assert pickle.loads(pickle.dumps(caught.value)).facts["code"] == "NoSuchBucket"  # noqa: S301


class Failing(MemoryArtifacts):
    """Refuses one key."""

    def __init__(self, refused: str) -> None:
        super().__init__()
        self._refused = refused

    def heal(self) -> None:
        self._refused = ""

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        if key == self._refused:
            raise Unavailable("no answer")
        return super().put_new(key, body, content_type=content_type)


def test_upload_all_says_what_failed_and_can_be_done_again() -> None:
    store = Failing("k/3")
    items = [Upload(key=f"k/{n}", body=b"x", content_type="text/plain") for n in range(5)]

    with pytest.raises(Unavailable):
        upload_all(store, items)
    store.heal()
    upload_all(store, items)

    assert store.list("k/") == ("k/0", "k/1", "k/2", "k/3", "k/4")


def test_upload_all_leaves_no_thread_behind() -> None:
    before = threading.active_count()

    upload_all(Failing(""), [Upload(key="k", body=b"x", content_type="text/plain")])

    assert threading.active_count() == before


def test_a_file_that_failed_while_it_was_written_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    with contextlib.suppress(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError

    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_the_memory_store_knows_what_an_object_was_declared_as() -> None:
    store = MemoryArtifacts()

    store.put("k", b"x", content_type="text/plain")

    assert store.content_type("k") == "text/plain"
    assert store.content_type("none") is None
