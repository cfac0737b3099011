"""A bundle on this machine, checked and ready to be read.

Rule: a bundle appears whole or not at all, and is never written to afterwards.
"""

from __future__ import annotations

import json
import shutil
import tomllib
import weakref
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self, cast

from worker.bundle.archive import (
    BENCHMARK,
    CONFIG,
    DESCRIPTION,
    TOOLS,
    TRACES,
    agent_of,
    read_archive,
)
from worker.bundle.benchmark import Benchmark, read_benchmark
from worker.bundle.config import redact_config
from worker.bundle.pack import FORMAT, hash_file
from worker.bundle.redaction import Redactor
from worker.errors import BundleInvalid, UnknownVersion
from worker.traces import SqliteTraces, TraceReport, build_index
from worker.traces.cells import Json, decode, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = [
    "Bundle",
    "BundleReport",
    "Content",
    "ToolDescription",
    "install",
    "installed_bytes",
    "is_intact",
    "load",
    "open_bundle",
]

_INDEX = "traces.index"
#: Names every file of an installed bundle, with size and hash. Written last.
_INVENTORY = "inventory.json"
#: Grows when the files beside the members change; other versions are installed again.
_INVENTORY_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDescription:
    """A tool of the student, as its home describes it."""

    name: str
    description: str
    #: Empty where the home does not say.
    category: str = ""
    #: Empty where the home does not say.
    agents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReport:
    """What there is to explore, counted."""

    traces: TraceReport
    workflow_id: str
    tasks: int
    #: Category -> number of tasks.
    categories: dict[str, int]
    tasks_with_reference: int
    #: Agents whose system prompt is in the bundle.
    prompts: tuple[str, ...]
    tools: tuple[str, ...]
    #: What was odd about the home when it was packed.
    remarks: tuple[str, ...]
    #: Cells of the trace store in which a credential was masked.
    masked_cells: int

    def as_json(self) -> dict[str, Json]:
        """Return the report as a JSON object."""
        return cast("dict[str, Json]", json.loads(json.dumps(asdict(self))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The parsed members of an installed bundle; shared by all who read it."""

    sha256: str
    directory: Path
    traces: SqliteTraces
    benchmark: Benchmark
    config_text: str
    tool_descriptions: Mapping[str, ToolDescription]
    #: Agent -> the file with its prompt.
    prompts: Mapping[str, Path]
    redactor: Redactor
    report: BundleReport


class Bundle:
    """A reader's hold on a bundle. Give it back with `close()` or leave a `with` block."""

    def __init__(
        self,
        content: Content,
        release: Callable[[], None],
        forget: Callable[[], None] | None = None,
    ) -> None:
        """Hold `content` until `close` calls `release`.

        A bundle that is dropped unclosed calls `forget` instead, which must not block: the garbage
        collector runs it in whatever thread, at whatever point.
        """
        self._content = content
        self._release = release
        self._held = weakref.finalize(self, forget or release)
        self._held.atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the bundle back; doing so again does nothing."""
        if self._held.detach() is not None:
            self._release()

    @property
    def sha256(self) -> str:
        """The hash of the packed bundle, which is its name; empty for one that never had a name."""
        return self._content.sha256

    @property
    def traces(self) -> SqliteTraces:
        """The recorded traces."""
        return self._content.traces

    @property
    def benchmark(self) -> Benchmark:
        """The tasks."""
        return self._content.benchmark

    @property
    def config_text(self) -> str:
        """The home's config.toml without credentials; empty where there is none."""
        return self._content.config_text

    @property
    def tool_descriptions(self) -> Mapping[str, ToolDescription]:
        """The student's tools by name."""
        return self._content.tool_descriptions

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents whose system prompt is in the bundle."""
        return tuple(self._content.prompts)

    def agent_prompt(self, agent: str) -> str | None:
        """Return an agent's system prompt; None for an agent that is not in `agents`."""
        path = self._content.prompts.get(agent)
        return None if path is None else decode(path.read_bytes())

    @property
    def redactor(self) -> Redactor:
        """Masks credentials, those of this bundle's configuration included."""
        return self._content.redactor

    @property
    def report(self) -> BundleReport:
        """What there is to explore, counted."""
        return self._content.report


def open_bundle(archive: Path, directory: Path, *, sha256: str | None = None) -> Bundle:
    """Unpack a bundle into a new directory and open it.

    Args:
        archive: The packed bundle.
        directory: Where it goes; must not exist yet.
        sha256: What the archive must hash to; None accepts any.

    Raises:
        BundleInvalid: The archive is damaged, is another one, or holds what no bundle does.
        UnknownVersion: It was packed by a newer version.
    """
    if directory.exists():
        raise BundleInvalid(f"{str(directory)!r} exists already: a bundle wants a new folder")
    found = install(archive, directory, sha256=sha256)
    content = load(directory, found)
    return Bundle(content, content.traces.close)


def install(archive: Path, directory: Path, *, sha256: str | None = None) -> str:
    """Check and unpack an archive, index its traces, and return its hash."""
    found = hash_file(archive)
    if sha256 is not None and found != sha256:
        raise BundleInvalid(
            f"the bundle hashes to {found}, not to {sha256}: fetch it again",
            expected=sha256,
            found=found,
        )
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    read_archive(archive, partial)
    _check_complete(partial)
    build_index(partial / TRACES, partial / _INDEX)
    _write_inventory(partial)
    partial.rename(directory)
    return found


def load(directory: Path, sha256: str) -> Content:
    """Parse the members of an installed bundle.

    Raises:
        BundleInvalid: A member is not what it should be.
        UnknownVersion: The bundle was packed by a newer version.
    """
    described = _read_description(directory)
    # A bundle is packed without credentials; one made by other means is cleaned here.
    config = redact_config(_text(directory, CONFIG))
    benchmark = read_benchmark(_text(directory, BENCHMARK))
    tools = _read_tools(_text(directory, TOOLS))
    prompts = _find_prompts(directory)
    traces = SqliteTraces(directory / TRACES, directory / _INDEX)
    return Content(
        sha256=sha256,
        directory=directory,
        traces=traces,
        benchmark=benchmark,
        config_text=config.text,
        tool_descriptions=tools,
        prompts=prompts,
        redactor=Redactor(config.secrets),
        report=BundleReport(
            traces=traces.report,
            **_count_tasks(benchmark),
            prompts=tuple(prompts),
            tools=tuple(tools),
            remarks=described.remarks,
            masked_cells=described.masked_cells,
        ),
    )


def _count_tasks(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "workflow_id": benchmark.workflow_id,
        "tasks": len(benchmark.samples),
        "categories": dict(Counter(sample.category for sample in benchmark.samples)),
        "tasks_with_reference": sum(bool(s.reference_answer) for s in benchmark.samples),
    }


def installed_bytes(directory: Path) -> int:
    """Return what an installed bundle takes on disk; 0 for one that is not whole."""
    return sum(size for size, _ in _read_inventory(directory).values())


def is_intact(directory: Path) -> bool:
    """Return whether every file of an installed bundle is still as it was written."""
    inventory = _read_inventory(directory)
    try:
        return bool(inventory) and all(
            (directory / name).stat().st_size == size and hash_file(directory / name) == sha256
            for name, (size, sha256) in inventory.items()
        )
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class _Description:
    remarks: tuple[str, ...]
    masked_cells: int


def _read_description(directory: Path) -> _Description:
    read = read_json(_text(directory, DESCRIPTION))
    said = read.value if read.parsed and isinstance(read.value, dict) else {}
    version, remarks, masked = (said.get(key) for key in ("format", "remarks", "masked_cells"))
    if version != FORMAT:
        raise UnknownVersion(
            f"the bundle is of format {version!r}, this worker reads format {FORMAT}: "
            "upgrade the worker, or pack the home again",
            found=version,
            known=FORMAT,
        )
    return _Description(
        tuple(remark for remark in remarks if isinstance(remark, str))
        if isinstance(remarks, list)
        else (),
        masked if isinstance(masked, int) else 0,
    )


def _read_tools(text: str) -> dict[str, ToolDescription]:
    try:
        tables = tomllib.loads(text)
    except ValueError as exc:
        raise BundleInvalid(f"the bundle's {TOOLS} is not valid TOML: {exc}") from exc
    # A tool without a table of its own (`name = "…"`) is described by that text.
    return {name: _read_tool(name, table) for name, table in sorted(tables.items())}


def _read_tool(name: str, table: object) -> ToolDescription:
    if not isinstance(table, dict):
        return ToolDescription(name=name, description=str(table))
    said = cast("dict[str, object]", table)
    agents = said.get("agents")
    return ToolDescription(
        name=name,
        description=str(said.get("description", "")),
        category=str(said.get("category", "")),
        agents=tuple(map(str, cast("list[object]", agents))) if isinstance(agents, list) else (),
    )


def _find_prompts(directory: Path) -> dict[str, Path]:
    found = sorted((directory / "agents").glob("*/system_prompt.md"))
    named = ((agent_of(path.relative_to(directory).as_posix()), path) for path in found)
    return {agent: path for agent, path in named if agent is not None}


def _text(directory: Path, member: str) -> str:
    path = directory / member
    return decode(path.read_bytes()) if path.exists() else ""


def _check_complete(directory: Path) -> None:
    missing = [name for name in (BENCHMARK, DESCRIPTION, TRACES) if not (directory / name).exists()]
    if missing:
        raise BundleInvalid(f"the bundle lacks {', '.join(missing)}: pack the home again")


def _write_inventory(directory: Path) -> None:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = {path.relative_to(directory).as_posix(): path for path in files}
    found = {name: [path.stat().st_size, hash_file(path)] for name, path in names.items()}
    whole = {"version": _INVENTORY_VERSION, "files": found}
    (directory / _INVENTORY).write_text(json.dumps(whole), encoding="utf-8")


def _read_inventory(directory: Path) -> dict[str, tuple[int, str]]:
    """Return name -> size and hash; empty for a bundle that is not whole or of another version."""
    try:
        whole: dict[str, Any] = json.loads((directory / _INVENTORY).read_bytes())
        if whole["version"] != _INVENTORY_VERSION:
            return {}
        return {str(name): (int(size), str(sha)) for name, (size, sha) in whole["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
