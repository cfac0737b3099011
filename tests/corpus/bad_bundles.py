"""Bundles that were uploaded behind our back: damaged, hostile, or of something else.

Rule: a bundle is bytes, named after its hash unless the case is about that. `says` stands in the
reason of a session that must fail with it; empty where the session must survive it.
"""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BadBundle", "bad_bundles"]

_TRACES = (
    "CREATE TABLE traces(trace_id, query, agent, model, engine, result, outcome, feedback, "
    "started_at, ended_at, total_tokens, total_latency_seconds, metadata, messages)"
)
_STEPS = (
    "CREATE TABLE trace_steps(trace_id, step_index, step_type, timestamp, duration_seconds, input, "
    "output, metadata)"
)
_GARBAGE_ROWS = (
    (
        "INSERT INTO traces(trace_id, query, metadata, feedback, started_at) VALUES "
        "(x'ff00', x'fffe', '{bad', 'lots', 'never'), (NULL, NULL, NULL, NULL, NULL), "
        "('a', 1e999, '[]', 1, 2), ('a', 'again', NULL, NULL, NULL), ('../../x', 'q', '5', -1, 1e300)"
    ),
    (
        "INSERT INTO trace_steps(trace_id, step_index, input) VALUES "
        "('a', 'x', '{'), (NULL, NULL, NULL), ('a', -1, x'00ff'), ('nobody', 0, '[[[[')"
    ),
)
_FILES = {
    "benchmark.json": json.dumps(
        {"workflow_id": "w", "samples": [{"trace_id": "t-1", "query": "What is 1 + 1?"}]}
    ).encode(),
    "bundle.json": b'{"format": 1, "remarks": [], "masked_cells": 0}',
    "config.toml": b"",
    "tools/descriptions.toml": b"",
}
_ANY_HASH = "1" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BadBundle:
    """One bundle."""

    name: str
    body: bytes
    #: Found in the reason of the session's failure; empty for one that it survives.
    says: str
    #: The hash under which it is stored; None for its own.
    sha256: str | None = None


def bad_bundles() -> tuple[BadBundle, ...]:
    """Return all of them."""
    store = _store(_TRACES, _STEPS)
    good = {**_FILES, "traces.db": store}
    return (
        *_archives(_packed(good)),
        *_members(good),
        *_stores(good),
        *_contents(good),
        BadBundle(name="odd, and usable", body=_packed({**good, **_odd_files()}), says=""),
    )


def _archives(packed: bytes) -> tuple[BadBundle, ...]:
    return (
        BadBundle(name="nothing", body=b"", says="the bundle is damaged"),
        BadBundle(name="words", body=b"garbage", says="Not a gzipped file"),
        BadBundle(name="an empty archive", body=gzip.compress(b""), says="bytes are missing"),
        BadBundle(name="half an archive", body=packed[: len(packed) // 2], says="is damaged"),
        BadBundle(name="zeros", body=gzip.compress(bytes(10**7)), says="the bundle"),
        BadBundle(
            name="another bundle",
            body=packed,
            sha256=_ANY_HASH,
            says="the stored object is damaged",
        ),
    )


def _members(good: Mapping[str, bytes]) -> tuple[BadBundle, ...]:
    no_config = {name: body for name, body in good.items() if name != "config.toml"}

    def more(name: str) -> bytes:
        return _packed({**good, name: b"x"})

    def link(kind: bytes, target: str) -> bytes:
        return _packed(no_config, _member("config.toml", kind, target))

    return (
        BadBundle(name="a path out", body=more("../../x"), says="which no bundle has"),
        BadBundle(name="an absolute path", body=more("/etc/x"), says="which no bundle has"),
        BadBundle(
            name="a prompt outside", body=more("agents/../system_prompt.md"), says="no bundle has"
        ),
        BadBundle(name="a link", body=link(tarfile.SYMTYPE, "/etc/passwd"), says="no plain file"),
        BadBundle(
            name="a hard link", body=link(tarfile.LNKTYPE, "traces.db"), says="no plain file"
        ),
        BadBundle(name="a device", body=link(tarfile.CHRTYPE, ""), says="is no plain file"),
        BadBundle(name="a pipe", body=link(tarfile.FIFOTYPE, ""), says="is no plain file"),
        BadBundle(
            name="8 GB of traces", body=_promising("traces.db", 8**11 - 1), says="a bundle takes"
        ),
        BadBundle(
            name="a large config", body=_promising("config.toml", 2**24), says="a bundle takes"
        ),
        BadBundle(
            name="no traces", body=_packed(_without(good, "traces.db")), says="lacks traces.db"
        ),
        BadBundle(
            name="no tasks",
            body=_packed(_without(good, "benchmark.json")),
            says="lacks benchmark.json",
        ),
        BadBundle(
            name="no description",
            body=_packed(_without(good, "bundle.json")),
            says="lacks bundle.json",
        ),
    )


def _stores(good: Mapping[str, bytes]) -> tuple[BadBundle, ...]:
    whole = _store(_TRACES, _STEPS)
    view = _store("CREATE TABLE z(a)", "CREATE VIEW traces AS SELECT a AS trace_id FROM z")
    stores = {
        "a text as store": (b"not SQLite at all " * 99, "cannot be read"),
        "an encrypted store": (bytes(range(256)) * 64, "cannot be read"),
        "an empty store": (b"", "no table `traces`"),
        "a store of something else": (_store("CREATE TABLE orders(id)"), "no table `traces`"),
        "a view as table": (view, "no table `traces`"),
        "the head of a store": (whole[:100], "cannot be read"),
        "half a store": (whole[:5_000], "cannot be read"),
        "rows of garbage": (_store(_TRACES, _STEPS, *_GARBAGE_ROWS), ""),
        "no steps at all": (_store(_TRACES.replace(", messages", "")), ""),
    }
    return tuple(
        BadBundle(name=name, body=_packed({**good, "traces.db": store}), says=says)
        for name, (store, says) in stores.items()
    )


def _contents(good: Mapping[str, bytes]) -> tuple[BadBundle, ...]:
    def samples(*rows: dict[str, Any]) -> bytes:
        return json.dumps({"samples": rows}).encode()

    task = {"trace_id": "t-1", "query": "q"}
    scorer = samples({**task, "metadata": {"scorer": "magic"}})
    contents = {
        "a newer format": ("bundle.json", b'{"format": 2}', "is of format 2"),
        "NaN as format": ("bundle.json", b'{"format": NaN}', "is of format"),
        "no format": ("bundle.json", b"x", "is of format None"),
        "tasks that are no JSON": ("benchmark.json", b"{", "is not valid JSON"),
        "tasks without end": ("benchmark.json", b"[" * 200_000, "is not valid JSON"),
        "no tasks in it": ("benchmark.json", b"[]", "at least one sample"),
        "the same task twice": ("benchmark.json", samples(task, task), "as in samples[0]"),
        "an unknown scorer": ("benchmark.json", scorer, "there is no scorer 'magic'"),
        "10 MB of a query": ("benchmark.json", samples({**task, "query": "q " * 5_000_000}), ""),
        "tools that are no TOML": ("tools/descriptions.toml", b"[[[", "is not valid TOML"),
        "a config that is no TOML": ("config.toml", b"= = password = 'x'", ""),
    }
    return tuple(
        BadBundle(name=name, body=_packed({**good, member: body}), says=says)
        for name, (member, body, says) in contents.items()
    )


def _odd_files() -> dict[str, bytes]:
    return {
        "benchmark.json": '{"samples": [{"trace_id": "ä", "query": "ö"}]}'.encode("latin-1"),
        "tools/descriptions.toml": b'a = 1\n[b]\nagents = "x"\ndescription = 3\n',
        "agents/%2e%2e%2fx/system_prompt.md": b"\xff\xfe",
    }


# ---------------------------------------------------------------------------------------- builders


def _store(*statements: str) -> bytes:
    """Return a SQLite file that holds what these statements make."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "traces.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)
        return path.read_bytes()


def _packed(files: Mapping[str, bytes], *members: tarfile.TarInfo) -> bytes:
    """Return an archive as `write_archive` makes it, unchecked."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", 6, packed, mtime=0) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        for member in members:
            archive.addfile(member)
    return packed.getvalue()


def _member(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _promising(name: str, size_bytes: int) -> bytes:
    """Return an archive whose one member says that it has so many bytes, and has none."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1_024))


def _without(files: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    return {other: body for other, body in files.items() if other != name}
