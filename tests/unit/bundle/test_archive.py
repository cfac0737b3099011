from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.bundle.archive import agent_of, prompt_member, read_archive, write_archive
from worker.errors import BundleInvalid


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def member(name: str, content: bytes = b"x", **more: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def read(tmp_path: Path, packed: bytes) -> Path:
    source, target = tmp_path / "bundle.tar.gz", tmp_path / "inside" / "bundle"
    source.write_bytes(packed)
    target.mkdir(parents=True)
    read_archive(source, target)
    return target


def names_under(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_packed_comes_out_again(tmp_path: Path) -> None:
    files: dict[str, Path] = {}
    for name, content in {
        "traces.db": b"\x00" * 1_000,
        prompt_member("a/b ü"): b"Be kind.",
    }.items():
        files[name] = tmp_path / str(len(files))
        files[name].write_bytes(content)
    write_archive(tmp_path / "packed", files)

    target = read(tmp_path, (tmp_path / "packed").read_bytes())

    assert (target / "traces.db").read_bytes() == b"\x00" * 1_000
    assert names_under(target) == set(files)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "agents/../../evil/system_prompt.md",
        "agents/../system_prompt.md",
        "agents/./system_prompt.md",
        "agents/a/b/system_prompt.md",
        "agents//system_prompt.md",
        "agents/a\\..\\b/system_prompt.md",
        "agents/a b/system_prompt.md",
        "traces.db/",
        "traces.db/../../evil",
        "./traces.db",
        "Traces.db",
        "other.txt",
        "",
        "benchmark.json\x00.png",
        "tools/descriptions.toml.",
        "traces.index",
        "inventory.json",
    ],
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    info, content = member("placeholder")
    info.name = name
    packed = archive_of((info, content))

    if name == "benchmark.json\x00.png":
        # The tar header ends names at the zero byte, so this one is a member of that name.
        assert names_under(read(tmp_path, packed)) == {"benchmark.json"}
        return
    with pytest.raises(BundleInvalid):
        read(tmp_path, packed)

    assert names_under(tmp_path) == {"bundle.tar.gz"}


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.GNUTYPE_SPARSE,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.GNUTYPE_LONGNAME,
        b"Z",
    ],
)
def test_only_plain_files_are_read(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("config.toml")
    info.type, info.linkname = kind, "/etc/passwd"
    packed = gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)

    with pytest.raises(BundleInvalid):
        read(tmp_path, packed)

    assert names_under(tmp_path) == {"bundle.tar.gz"}


def test_a_member_may_not_be_too_large_nor_come_twice(tmp_path: Path) -> None:
    info = tarfile.TarInfo("config.toml")
    info.size = 5 * 2**40
    packed = gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(BundleInvalid, match="bytes; a bundle takes"):
        read(tmp_path / "large", packed) if (tmp_path / "large").mkdir() is None else None

    (tmp_path / "twice").mkdir()
    with pytest.raises(BundleInvalid, match="twice"):
        read(tmp_path / "twice", archive_of(member("config.toml"), member("config.toml")))


def test_there_may_not_be_too_many_members(tmp_path: Path) -> None:
    many = [member(prompt_member(f"agent-{number}")) for number in range(1_001)]

    with pytest.raises(BundleInvalid, match="more than 1000"):
        read(tmp_path, archive_of(*many))


CONTENTS = {"config.toml": b"a = 1\n" * 200, "benchmark.json": b"[]" * 400}
WHOLE = archive_of(*(member(name, content) for name, content in CONTENTS.items()))


@given(cut=st.integers(0, len(WHOLE) - 1))
def test_a_bundle_that_is_cut_short_is_damaged(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    with pytest.raises(BundleInvalid, match="damaged"):
        read(tmp_path_factory.mktemp("cut"), WHOLE[:cut])


@given(at=st.integers(10, len(WHOLE) - 1), change=st.integers(1, 255))
def test_a_changed_byte_changes_nothing_that_is_read(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int
) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] ^= change
    folder = tmp_path_factory.mktemp("changed")

    try:
        target = read(folder, bytes(damaged))
    except BundleInvalid:
        return
    # The last byte of a deflate stream has bits that mean nothing.
    assert {path.name: path.read_bytes() for path in target.iterdir()} == CONTENTS


@pytest.mark.parametrize("tail", [b"more", b"\0" * 20_000])
def test_nothing_may_follow_the_end(tmp_path: Path, tail: bytes) -> None:
    with pytest.raises(BundleInvalid):
        read(tmp_path, WHOLE + gzip.compress(tail))


@given(st.text(min_size=1, max_size=40))
def test_an_agents_name_makes_one_member_and_back(agent: str) -> None:
    try:
        name = prompt_member(agent)
    except (BundleInvalid, UnicodeEncodeError):
        return

    assert agent_of(name) == agent
    assert name.count("/") == 2
    assert Path(name).parts[1] not in (".", "..")
