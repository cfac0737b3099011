"""The collaborators' data as a bundle: traces, benchmark and home, as they are when a run begins.

Rule: nothing of the user's is written to, and nothing odd about it is an error: what cannot be used
is left out, and the bundle's remarks say so.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.bundle.archive import CONFIG, PROMPT_BYTES_MAX, SIZE_LIMITS_BYTES, TOOLS, TRACES
from worker.bundle.benchmark import Benchmark
from worker.bundle.open import Bundle, install, load
from worker.bundle.pack import pack
from worker.local.objects import attribute
from worker.local.samples import read_samples
from worker.local.stores import write_traces

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.bundle.open import Content

__all__ = ["snapshot"]

#: More agents than a home has; an archive takes 1,000 files.
PROMPTS_MAX = 900
#: Stands in the packed file of a session without tasks, which no archive may be; nobody sees it.
_NO_TASK = {"trace_id": "none", "query": "none"}


def snapshot(*, trace_store: object, samples: object, config: object, directory: Path) -> Bundle:
    """Return the collaborators' data as a bundle, made in `directory`.

    Raises:
        BundleInvalid: It is too large for any bundle; the message says what of it.
    """
    home = directory / "home"
    home.mkdir(parents=True)
    rows, remarks = read_samples(samples)
    remarks += [*_copy_home(config, home), *write_traces(trace_store, home / TRACES)]
    benchmark = {"workflow_id": "local", "samples": rows or [_NO_TASK]}
    (home / "benchmark.json").write_text(json.dumps(benchmark), encoding="utf-8")
    packed = pack(home, directory / "packed")
    install(packed.path, directory / "bundle")
    content = load(directory / "bundle", "")
    shown = _remarked(content if rows else _without_tasks(content), remarks)
    return Bundle(shown, content.traces.close)


def _remarked(content: Content, remarks: Iterable[str]) -> Content:
    clean = tuple(content.redactor.text(remark) for remark in remarks)
    return replace(content, report=replace(content.report, remarks=clean + content.report.remarks))


def _without_tasks(content: Content) -> Content:
    return replace(
        content,
        benchmark=Benchmark(workflow_id="local", samples=()),
        report=replace(content.report, tasks=0, categories={}, tasks_with_reference=0),
    )


def _copy_home(config: object, home: Path) -> list[str]:
    """Copy what the tools read of the user's home; return what could not be."""
    theirs = _path(attribute(config, "openjarvis_home"))
    config_path = _path(attribute(config, "config_path")) or (theirs and theirs / CONFIG)
    wanted: dict[str, Path] = {}
    if config_path is not None:
        wanted[CONFIG] = config_path
    if theirs is not None:
        wanted[TOOLS] = theirs / TOOLS
        for prompt in islice(sorted(theirs.glob("agents/*/system_prompt.md")), PROMPTS_MAX):
            wanted[f"agents/{prompt.parent.name}/system_prompt.md"] = prompt
    problems = [_copy(source, home / member, member) for member, source in wanted.items()]
    return [problem for problem in problems if problem]


def _copy(source: Path, target: Path, member: str) -> str:
    """Copy a file, if it is there; return why it could not be."""
    try:
        if not source.is_file():
            return ""
        if source.stat().st_size > SIZE_LIMITS_BYTES.get(member, PROMPT_BYTES_MAX):
            return f"{member} is too large to be shown: left out"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as exc:
        return f"{member} could not be read ({exc.strerror}): left out"
    return ""


def _path(value: Any) -> Path | None:  # noqa: ANN401 - a path, its text, or anything
    return Path(value) if value and isinstance(value, (str, Path)) else None
