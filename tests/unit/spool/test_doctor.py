"""What the doctor and the settings say of a machine's spool."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from worker.bootstrap import _spool as built
from worker.doctor.stored import spool as looked_at
from worker.ledger.memory import MemoryLedger
from worker.settings import Settings
from worker.testing import ManualClock

if TYPE_CHECKING:
    from worker.doctor import Check


def settings(**fields: Any) -> Settings:
    return Settings.model_validate(fields)


def check(**fields: Any) -> Check:
    (check,) = looked_at(settings(**fields))
    return check


def test_a_spool_that_works_is_fine_and_nothing_is_left_of_looking(tmp_path: Path) -> None:
    found = check(spool_dir=tmp_path / "spool")

    assert (found.state, found.cure) == ("ok", "")
    assert "0 replies wait" in found.found
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_spool_that_cannot_be_written_is_told_of_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")

    found = check(spool_dir=tmp_path / "spool")

    assert found.state == "warn"
    assert "bought again" in found.found
    assert "DIAGNOSIS_SPOOL_DIR" in found.cure


def test_a_spool_that_is_nearly_full_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "a").write_bytes(b"x" * 95)

    assert check(spool_dir=tmp_path / "spool", spool_max_bytes=100).state == "warn"
    assert check(spool_dir=tmp_path / "spool", spool_max_bytes=1_000).state == "ok"


def test_a_spool_can_be_switched_off_and_the_doctor_says_what_that_means(tmp_path: Path) -> None:
    off = settings(spool_dir=tmp_path, spool_max_bytes=0)

    assert built(off, MemoryLedger(ManualClock()), lambda _: None) is None
    assert check(spool_dir=tmp_path, spool_max_bytes=0).state == "warn"


def test_it_lies_in_the_cache_unless_it_is_told_otherwise() -> None:
    assert settings(cache_dir="/c").spool_path == Path("/c/spool")
    assert settings(cache_dir="/c", spool_dir="/s").spool_path == Path("/s")


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("redis://h:6379/1", "diagnosis"),
        ("redis://h:6380/0", "diagnosis"),
        ("redis://other:6379/0", "diagnosis"),
        ("redis://h:6379/0", "other"),
    ],
)
def test_fleets_are_told_apart_by_their_redis_and_prefix_and_not_by_its_password(
    url: str, prefix: str
) -> None:
    mine = settings(redis_url="redis://:old@h:6379/0")

    assert settings(redis_url="redis://:new@H:6379/0").fleet == mine.fleet
    assert settings(redis_url=url, key_prefix=prefix).fleet != mine.fleet
    assert "old" not in mine.fleet
