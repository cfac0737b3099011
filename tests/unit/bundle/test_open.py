from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from tests.unit.bundle.homes import make_home, pack_and_open, tau_home
from worker.bundle import open_bundle, pack
from worker.bundle.archive import read_archive, write_archive
from worker.bundle.open import is_intact
from worker.errors import BundleInvalid, UnknownVersion

if TYPE_CHECKING:
    from pathlib import Path


def test_a_bundle_holds_what_the_home_held(tmp_path: Path) -> None:
    home = tau_home()
    with pack_and_open(home, tmp_path) as bundle:
        report = bundle.report

        assert (report.traces.traces, report.traces.outcomes) == (
            200,
            {"failure": 116, "success": 84},
        )
        assert (report.tasks, report.workflow_id, report.prompts) == (
            50,
            "tau-airline",
            ("airline",),
        )
        assert bundle.agent_prompt("airline") == (
            home / "agents" / "airline" / "system_prompt.md"
        ).read_text(encoding="utf-8")
        assert bundle.tool_descriptions["think"].description.startswith("Airline back-office")
        assert sum(report.traces.tool_calls["think"].values()) == 92
        assert json.dumps(report.as_json())


def test_a_name_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("SWORDFISH")
    home = make_home(tmp_path / "home", prompts={"good": "inside", "we ird/é": "odd"})
    with pack_and_open(home, tmp_path / "b") as bundle:
        for name in ("../secret", "good/../../..", "../../agents/good", "/etc/passwd", "", "."):
            assert bundle.agent_prompt(name) is None
        assert bundle.agents == ("good",)


def test_odd_agents_are_found_by_their_own_name(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", prompts={"über agent %2F": "hello"})
    with pack_and_open(home, tmp_path / "b") as bundle:
        assert bundle.agent_prompt("über agent %2F") == "hello"


def test_tools_are_described_in_whatever_form(tmp_path: Path) -> None:
    tools = """
        plain = "just a text"
        [full]
        description = "all of it"
        category = "maths"
        agents = ["a", "b"]
        [empty]
    """
    with pack_and_open(make_home(tmp_path / "home", tools=tools), tmp_path / "b") as bundle:
        found = bundle.tool_descriptions

        assert found["plain"].description == "just a text"
        assert (found["full"].category, found["full"].agents) == ("maths", ("a", "b"))
        assert found["empty"].description == ""


def test_another_hash_is_another_bundle(tmp_path: Path) -> None:
    packed = pack(make_home(tmp_path / "home"), tmp_path / "out")

    with pytest.raises(BundleInvalid, match="hashes to"):
        open_bundle(packed.path, tmp_path / "bundle", sha256="0" * 64)

    assert not (tmp_path / "bundle").exists()
    open_bundle(packed.path, tmp_path / "bundle", sha256=packed.sha256).close()


def test_a_bundle_wants_a_new_folder(tmp_path: Path) -> None:
    packed = pack(make_home(tmp_path / "home"), tmp_path / "out")
    (tmp_path / "bundle").mkdir()

    with pytest.raises(BundleInvalid, match="exists already"):
        open_bundle(packed.path, tmp_path / "bundle")


def test_a_bundle_that_lacks_a_part_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("a = 1")
    write_archive(tmp_path / "packed", {"config.toml": tmp_path / "config.toml"})

    with pytest.raises(BundleInvalid, match=r"lacks benchmark\.json, bundle\.json, traces\.db"):
        open_bundle(tmp_path / "packed", tmp_path / "bundle")

    assert not (tmp_path / "bundle").exists()


def test_a_bundle_of_a_newer_version_asks_for_a_newer_worker(tmp_path: Path) -> None:
    packed = pack(make_home(tmp_path / "home"), tmp_path / "out")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    read_archive(packed.path, unpacked)
    (unpacked / "bundle.json").write_text('{"format": 99}')
    files = {path.relative_to(unpacked).as_posix(): path for path in unpacked.rglob("*.*")}
    write_archive(tmp_path / "newer", files)

    with pytest.raises(UnknownVersion, match="format 99"):
        open_bundle(tmp_path / "newer", tmp_path / "bundle")


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", gzip.compress(b""), gzip.compress(b"junk")],
    ids=["nothing", "junk", "nothing packed", "junk packed"],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "packed").write_bytes(content)

    with pytest.raises(BundleInvalid):
        open_bundle(tmp_path / "packed", tmp_path / "bundle")


def test_a_bundle_is_intact_until_a_byte_changes(tmp_path: Path) -> None:
    pack_and_open(make_home(tmp_path / "home"), tmp_path).close()
    folder = tmp_path / "bundle"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert is_intact(folder)

    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if content else b"x")
        assert not is_intact(folder), path
        path.write_bytes(content)
    assert is_intact(folder)
    assert not is_intact(tmp_path / "nowhere")


def test_a_closed_bundle_cannot_be_read_and_closing_twice_is_harmless(tmp_path: Path) -> None:
    bundle = pack_and_open(make_home(tmp_path / "home"), tmp_path)
    bundle.close()
    bundle.close()

    with pytest.raises(RuntimeError, match="closed"):
        bundle.traces.list()
