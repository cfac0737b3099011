"""The bundle's outer form: a tar of a few known files, gzipped, the same bytes for the same files.

Rule: what is read is named in advance. A member with another name, kind or size ends the reading
before a byte of it is written.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from worker.errors import BundleInvalid

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path
    from typing import BinaryIO

__all__ = [
    "BENCHMARK",
    "CONFIG",
    "DESCRIPTION",
    "TOOLS",
    "TRACES",
    "agent_of",
    "prompt_member",
    "read_archive",
    "write_archive",
]

TRACES = "traces.db"
BENCHMARK = "benchmark.json"
CONFIG = "config.toml"
TOOLS = "tools/descriptions.toml"
DESCRIPTION = "bundle.json"

_MIB = 1024 * 1024
#: Known members and the most bytes that each may have.
SIZE_LIMITS_BYTES: Mapping[str, int] = {
    TRACES: 4096 * _MIB,
    BENCHMARK: 64 * _MIB,
    CONFIG: _MIB,
    TOOLS: 4 * _MIB,
    DESCRIPTION: _MIB,
}
PROMPT_BYTES_MAX = _MIB
MEMBERS_MAX = 1_000

#: An agent's folder, percent-encoded: no slash and no second meaning, and short enough for the
#: plain tar header (USTAR, 155 bytes of folders).
_PROMPT = re.compile(r"agents/(?!\.{1,2}/)([A-Za-z0-9_.~%-]{1,140})/system_prompt\.md")

#: Level 6 packs traces 8 to 1 at some 30 MB/s; level 9 takes three times as long for 3 % less.
_COMPRESSION = 6

_BLOCK_BYTES = 512
_COPY_BYTES = _MIB


def prompt_member(agent: str) -> str:
    """Return the member that holds an agent's prompt.

    Raises:
        BundleInvalid: The agent's name is too long or no name of a folder.
    """
    name = f"agents/{quote(agent, safe='')}/system_prompt.md"
    if _PROMPT.fullmatch(name) is None:
        raise BundleInvalid(f"the agent's folder {agent[:80]!r} has no usable name: shorten it")
    return name


def agent_of(member: str) -> str | None:
    """Return the agent whose prompt the member holds; None for any other member."""
    match = _PROMPT.fullmatch(member)
    return unquote(match[1]) if match else None


def write_archive(target: Path, files: Mapping[str, Path]) -> None:
    """Write the files as one archive: their names and bytes decide every byte of it.

    Raises:
        BundleInvalid: There are too many files, or one is too large.
    """
    if len(files) > MEMBERS_MAX:
        raise BundleInvalid(f"a bundle takes {MEMBERS_MAX} files, the home has {len(files)}")
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", _COMPRESSION, raw, mtime=0) as packed,
        # USTAR has no place for anything but name, size and these fixed values.
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, path in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = path.stat().st_size, 0o600
            _check_size(name, info.size)
            with path.open("rb") as content:
                archive.addfile(info, content)


def read_archive(source: Path, directory: Path) -> None:
    """Write the members of the archive into the directory, which must be empty.

    Raises:
        BundleInvalid: The archive is damaged, or holds something that a bundle does not.
    """
    with source.open("rb") as raw, gzip.GzipFile(fileobj=raw) as packed, _damage():
        seen: set[str] = set()
        while (info := _next_header(packed)) is not None:
            _check_member(info, seen)
            seen.add(info.name)
            target = directory / info.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                _copy(packed, file, info.size)


def _check_member(info: tarfile.TarInfo, seen: set[str]) -> None:
    if info.name not in SIZE_LIMITS_BYTES and _PROMPT.fullmatch(info.name) is None:
        raise BundleInvalid(f"the bundle holds {info.name[:200]!r}, which no bundle has")
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise BundleInvalid(f"the bundle's {info.name!r} is no plain file (type {info.type!r})")
    if info.name in seen or len(seen) >= MEMBERS_MAX:
        raise BundleInvalid(
            f"the bundle holds {info.name!r} twice, or more than {MEMBERS_MAX} files"
        )
    _check_size(info.name, info.size)


def _check_size(name: str, size_bytes: int) -> None:
    limit = SIZE_LIMITS_BYTES.get(name, PROMPT_BYTES_MAX)
    if not 0 <= size_bytes <= limit:
        raise BundleInvalid(
            f"{name!r} has {size_bytes:,} bytes; a bundle takes {limit:,}",
            member=name,
            size_bytes=size_bytes,
            limit_bytes=limit,
        )


def _next_header(packed: gzip.GzipFile) -> tarfile.TarInfo | None:
    # `tarfile` itself reads headers of any length that an archive promises, links and all.
    block = _read(packed, _BLOCK_BYTES)
    if not any(block):
        _check_end(packed)
        return None
    return tarfile.TarInfo.frombuf(block, "ascii", "strict")


def _check_end(packed: gzip.GzipFile) -> None:
    rest = packed.read(tarfile.RECORDSIZE + 1)
    if len(rest) > tarfile.RECORDSIZE or any(rest):
        raise BundleInvalid("the bundle goes on after its end")


def _copy(packed: gzip.GzipFile, file: BinaryIO, size_bytes: int) -> None:
    left = size_bytes
    while left:
        chunk = _read(packed, min(left, _COPY_BYTES))
        file.write(chunk)
        left -= len(chunk)
    _read(packed, -size_bytes % _BLOCK_BYTES)


def _read(packed: gzip.GzipFile, size_bytes: int) -> bytes:
    data = packed.read(size_bytes)
    if len(data) != size_bytes:
        raise EOFError(f"{size_bytes - len(data)} bytes are missing")
    return data


@contextmanager
def _damage() -> Generator[None]:
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError, tarfile.TarError, UnicodeError) as exc:
        raise BundleInvalid(f"the bundle is damaged: {exc}. Fetch or pack it again") from exc
