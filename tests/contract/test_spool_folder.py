"""The spool's folder, on disk and in memory: the same promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker.spool.disk import DiskFolder
from worker.spool.memory import MemoryFolder

if TYPE_CHECKING:
    from pathlib import Path

    from worker.spool import Folder


@pytest.fixture(params=["memory", "disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return MemoryFolder() if request.param == "memory" else DiskFolder(tmp_path / "a" / "spool")


def test_a_folder_that_nobody_made_is_empty(folder: Folder) -> None:
    assert dict(folder.list()) == {}
    assert folder.read("a") is None


def test_what_was_written_is_read_and_listed_with_its_size(folder: Folder) -> None:
    folder.write("a", b"123")
    folder.write("b", b"")

    assert (folder.read("a"), folder.read("b")) == (b"123", b"")
    assert dict(folder.list()) == {"a": 3, "b": 0}


def test_what_is_written_again_is_replaced_as_a_whole(folder: Folder) -> None:
    folder.write("a", b"a long one")
    folder.write("a", b"short")

    assert folder.read("a") == b"short"


def test_what_was_removed_is_gone_and_may_be_removed_again(folder: Folder) -> None:
    folder.write("a", b"123")

    folder.remove("a")
    folder.remove("a")

    assert folder.read("a") is None
    assert dict(folder.list()) == {}
