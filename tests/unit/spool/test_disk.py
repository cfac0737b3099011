"""What lies on the disk: whole, for this user alone, and durable when `write` returns."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from worker.spool.disk import DiskFolder

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_nobody_else_can_read_it(place: Path) -> None:
    previous = os.umask(0)
    try:
        DiskFolder(place).write("a", b"123")
    finally:
        os.umask(previous)

    assert (mode(place), mode(place / "a")) == (0o700, 0o600)


def test_a_folder_of_ours_that_was_open_to_others_is_closed_to_them(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)

    DiskFolder(place).list()

    assert mode(place) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_what_belongs_to_somebody_else_is_refused(place: Path) -> None:
    folder = DiskFolder(place)
    folder.write("a", b"123")

    os.chown(place / "a", 12_345, 12_345)
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        folder.read("a")
    os.chown(place, 12_345, 12_345)
    with pytest.raises(PermissionError, match="DIAGNOSIS_SPOOL_DIR"):
        folder.write("b", b"123")


def test_a_link_is_followed_nowhere(place: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "planted").write_bytes(b"as if it had been said")
    folder = DiskFolder(place)
    folder.list()

    (place / "a").symlink_to(elsewhere / "planted")
    with pytest.raises(OSError, match="symbolic links"):
        folder.read("a")
    linked = tmp_path / "linked"
    linked.symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"irectory|symbolic links"):
        DiskFolder(linked).list()


def test_a_folder_that_was_swept_away_is_made_again(place: Path) -> None:
    folder = DiskFolder(place)
    folder.list()
    place.rmdir()

    folder.write("a", b"123")

    assert folder.read("a") == b"123"


def test_a_write_that_fails_leaves_nothing(place: Path) -> None:
    folder = DiskFolder(place)
    folder.list()
    (place / "a").mkdir()  # a file cannot be renamed onto it

    with pytest.raises(OSError, match="directory"):
        folder.write("a", b"123")

    assert [path.name for path in place.iterdir()] == ["a"]
