"""From a home to a bundle.

Rule: what leaves the machine was read inside the home, is complete, and has no credential of the
home's configuration in it. The same home packs to the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from worker.bundle.archive import (
    BENCHMARK,
    CONFIG,
    DESCRIPTION,
    SIZE_LIMITS_BYTES,
    TOOLS,
    TRACES,
    prompt_member,
    write_archive,
)
from worker.bundle.benchmark import Benchmark, read_benchmark, write_benchmark
from worker.bundle.config import redact_config
from worker.bundle.redaction import Redactor
from worker.bundle.snapshot import copy_store, export_store
from worker.bundle.toml import write_toml
from worker.errors import BundleInvalid
from worker.traces.cells import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FORMAT", "PackedBundle", "hash_file", "pack"]

#: Grows when an older worker could not read the bundle any more.
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBundle:
    """A bundle, ready to be uploaded under its hash."""

    path: Path
    sha256: str
    size_bytes: int
    #: Table cells in which a credential was masked.
    masked_cells: int
    #: What is odd about the home, for the one who packs it.
    remarks: tuple[str, ...]


def pack(home: Path, directory: Path, *, benchmark: Path | None = None) -> PackedBundle:
    """Pack the home into `directory`, as a file that is named after its hash.

    Args:
        home: The OpenJarvis home. It is only read, and may be written to meanwhile.
        directory: Where the bundle and, for a while, a copy of the traces go.
        benchmark: The benchmark, where it is not `benchmark.json` in the home.

    Raises:
        BundleInvalid: Something is missing, unreadable or wrong; the message says what to do.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        _check_home(home)
        with tempfile.TemporaryDirectory(prefix="pack-", dir=directory) as scratch:
            packing = _Packing(home, Path(scratch))
            packing.add_all(benchmark)
            return packing.finish(directory)
    except PermissionError as exc:
        raise BundleInvalid(f"{str(exc.filename)!r} may not be read: check its owner") from exc


def hash_file(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_home(home: Path) -> None:
    if not home.is_dir():
        what = "not a directory" if home.exists() else "missing"
        raise BundleInvalid(f"the home {str(home)!r} is {what}: name a folder that holds traces.db")
    if not (home / TRACES).exists():
        raise BundleInvalid(
            f"the home {str(home)!r} holds no traces.db: let OpenJarvis record traces there first"
        )


class _Packing:
    """One home on its way into a bundle."""

    def __init__(self, home: Path, scratch: Path) -> None:
        self._home = home.resolve()
        self._scratch = scratch
        self._files: dict[str, Path] = {}
        self._remarks: list[str] = []
        self._masked_cells = 0
        config = redact_config(self._read_optional(CONFIG))
        if config.remark:
            self._remarks.append(config.remark)
        self._config = config.text
        self._redactor = Redactor(config.secrets)

    def add_all(self, benchmark: Path | None) -> None:
        self._add(CONFIG, self._config)
        self._add(BENCHMARK, self._benchmark(benchmark))
        self._add(TOOLS, self._tools())
        for member, prompt in self._prompts():
            self._add(member, self._redactor.text(prompt))
        self._add_traces()
        described = {"format": FORMAT, "remarks": self._remarks, "masked_cells": self._masked_cells}
        self._add(DESCRIPTION, json.dumps(described, ensure_ascii=False, sort_keys=True))

    def finish(self, directory: Path) -> PackedBundle:
        packed = self._scratch / "bundle.tar.gz"
        write_archive(packed, self._files)
        sha256 = hash_file(packed)
        path = packed.replace(directory / f"{sha256}.tar.gz")
        return PackedBundle(
            path=path,
            sha256=sha256,
            size_bytes=path.stat().st_size,
            masked_cells=self._masked_cells,
            remarks=tuple(self._remarks),
        )

    def _add(self, member: str, text: str) -> None:
        path = self._scratch / str(len(self._files))
        path.write_text(text, encoding="utf-8", newline="\n")
        self._files[member] = path

    def _add_traces(self) -> None:
        store = self._inside(TRACES)
        copy, clean = self._scratch / "copy.db", self._scratch / TRACES
        copy_store(store, copy)
        self._masked_cells = export_store(copy, clean, self._redactor)
        self._files[TRACES] = clean

    def _benchmark(self, given: Path | None) -> str:
        if given is None and not (self._home / BENCHMARK).exists():
            raise BundleInvalid(
                f"the home {str(self._home)!r} holds no benchmark.json: "
                "name one with `benchmark=` (on the command line, --benchmark)"
            )
        path = self._inside(BENCHMARK) if given is None else given
        text = _read(path, SIZE_LIMITS_BYTES[BENCHMARK])
        return write_benchmark(self._without_credentials(read_benchmark(text, path.name)))

    def _without_credentials(self, benchmark: Benchmark) -> Benchmark:
        # Only the home's own: a task about keys must be asked and scored as it was written.
        known = self._redactor.known
        samples = (
            replace(
                sample,
                query=known(sample.query),
                reference_answer=known(sample.reference_answer),
                metadata={
                    key: self._redactor.known_value(value) for key, value in sample.metadata.items()
                },
            )
            for sample in benchmark.samples
        )
        return Benchmark(workflow_id=benchmark.workflow_id, samples=tuple(samples))

    def _tools(self) -> str:
        try:
            tree = tomllib.loads(self._read_optional(TOOLS))
        except ValueError as exc:
            self._remarks.append(f"{TOOLS} is not valid TOML ({exc}): no tool is described")
            tree = {}
        return write_toml(tree, self._redactor)

    def _prompts(self) -> Iterator[tuple[str, str]]:
        folder = self._home / "agents"
        for agent in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []:
            member = f"agents/{agent}/system_prompt.md"
            if not (self._home / member).is_file():
                continue
            try:
                yield prompt_member(agent), self._read_optional(member)
            except BundleInvalid as exc:
                self._remarks.append(f"left out {member!r}: {exc.message}")

    def _read_optional(self, member: str) -> str:
        if not (self._home / member).exists():
            self._remarks.append(f"the home holds no {member}")
            return ""
        return _read(self._inside(member), SIZE_LIMITS_BYTES.get(member, SIZE_LIMITS_BYTES[CONFIG]))

    def _inside(self, member: str) -> Path:
        """Return the file of the home, which no link may lead out of."""
        path = (self._home / member).resolve()
        if not path.is_file():
            raise BundleInvalid(f"the home {str(self._home)!r} holds no file {member!r}")
        if not path.is_relative_to(self._home):
            raise BundleInvalid(
                f"{member!r} is a link out of the home, to {str(path)!r}: put the file itself there"
            )
        return path


def _read(path: Path, limit_bytes: int) -> str:
    try:
        size_bytes = path.stat().st_size
        if size_bytes <= limit_bytes:
            return decode(path.read_bytes())
    except OSError as exc:
        raise BundleInvalid(f"{str(path)!r} cannot be read: {exc.strerror or exc}") from exc
    raise BundleInvalid(f"{str(path)!r} has {size_bytes:,} bytes; a bundle takes {limit_bytes:,}")
