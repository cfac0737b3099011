"""`submit_diagnosis` as the request's schema wants it, and its repair.

Rule: what was refused is mended by what the refusal says and never sent again unchanged; where
nothing is left to mend, the diagnosis goes out as text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from worker.embedded.teacher.diagnosis import LABEL
from worker.embedded.teacher.findings import SUBMIT, as_object
from worker.embedded.teacher.reply import Wish

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.embedded.teacher.diagnosis import Diagnosis
    from worker.embedded.teacher.findings import ToolExchange
    from worker.embedded.teacher.wire import PromptRequest

__all__ = ["closing_wish"]

#: After so many refusals the diagnosis goes out as text.
_MAX_REFUSALS = 3
_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"|`([^`]+)`")


def closing_wish(
    request: PromptRequest, diagnosis: Diagnosis, submitted: Sequence[ToolExchange]
) -> Wish | None:
    """Return the call that submits the diagnosis; None where text is the only way left.

    Args:
        request: The request, with the tool's schema.
        diagnosis: What is to be said.
        submitted: Earlier attempts, all of them refused.
    """
    tool = next((tool for tool in request.tools if tool.name == SUBMIT), None)
    if tool is None or len(submitted) >= _MAX_REFUSALS:
        return None
    refused = {name for one in submitted for name in _quoted(one.result)}
    arguments = _arguments(tool.input_schema, diagnosis, refused)
    if any(one.arguments == arguments for one in submitted):
        return None
    return Wish(SUBMIT, arguments)


def _quoted(text: str) -> Iterator[str]:
    """Return what a refusal quotes: ids that are unknown, values that are wrong."""
    for match in _QUOTED.finditer(text):
        yield next(group for group in match.groups() if group is not None)


def _arguments(schema: dict[str, Any], diagnosis: Diagnosis, refused: set[str]) -> dict[str, Any]:
    """Return arguments for every property that the schema names, by its type and name."""
    properties = as_object(schema.get("properties"))
    arguments: dict[str, Any] = {}
    for name, kind in properties.items():
        described = as_object(kind)
        match described.get("type"):
            case "array" if "cluster" in name:
                arguments[name] = list(_clusters(described, diagnosis, refused))
            case "boolean":
                arguments[name] = not diagnosis.clusters
            case "string" if "enum" in described:
                arguments[name] = _chosen(cast("list[str]", described["enum"]), diagnosis)
            case "string":
                is_report = re.search("diagnosis|markdown|report|text", name)
                arguments[name] = diagnosis.markdown if is_report else LABEL
            case _:
                pass
    return arguments


def _clusters(
    described: dict[str, Any], diagnosis: Diagnosis, refused: set[str]
) -> Iterator[dict[str, Any]]:
    """Return the clusters with the schema's keys, without samples that were refused."""
    items = as_object(described.get("items"))
    wanted = as_object(items.get("properties"))
    for cluster in diagnosis.clusters:
        samples = [task_id for task_id in cluster.task_ids if task_id not in refused]
        given = cluster.as_json() | {"sample_trace_ids": samples}
        extra = {"sample_task_ids": samples, "sample_ids": samples}
        offered = given | {key: value for key, value in extra.items() if key in wanted}
        if samples:
            yield {key: value for key, value in offered.items() if not wanted or key in wanted}


def _chosen(options: Sequence[str], diagnosis: Diagnosis) -> str:
    """Return the option that fits the verdict, as far as its name tells."""
    stem = {"failures": "cluster|fail|found", "nothing": "noth|none|healthy|ok"}
    pattern = stem.get(diagnosis.verdict.value, "inconcl|insuff|not_enough")
    return next((one for one in options if re.search(pattern, one, re.IGNORECASE)), options[0])
