"""Reading the clusters that a teacher wrote, as a tool call or as text.

Rule: reading never raises and never repairs in silence: what was mended, cut or dropped stands in
the ending's remarks. Whether a claim is true is not asked here but in `evidence.py`.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from dataclasses import dataclass
from heapq import nsmallest
from itertools import count, islice
from typing import TYPE_CHECKING, Any, cast

from worker.core.lists_in_text import find_list, whole_json
from worker.core.values import ClaimedCluster, Ending, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "read_submission",
    "read_text",
    "Refused",
    "render",
    "MAX_CLUSTERS",
    "MAX_DESCRIPTION_CHARS",
    "MAX_SAMPLE_IDS",
    "MAX_SKILL_GAP_CHARS",
]

#: The teacher is asked for 2 to 5; more than this nobody acts upon.
MAX_CLUSTERS = 20
MAX_DESCRIPTION_CHARS = 4_000
MAX_SKILL_GAP_CHARS = 4_000
#: Sample ids of one cluster.
MAX_SAMPLE_IDS = 1_000
#: A longer id is no id; the longest name that `keys.py` takes has 128.
MAX_ID_CHARS = 200
#: Only this much of the end of a text is searched: the array stands at the end.
MAX_TEXT_CHARS = 1_000_000
#: A teacher mends a few problems at a time.
_MAX_PROBLEMS = 20

#: A key that only a cluster has.
_CLUSTER_KEYS = frozenset(
    {"sample_trace_ids", "student_failure_rate", "teacher_success_rate", "skill_gap"}
)
_NUMBER = re.compile(r"\s*([+-]?\d{1,20}(?:\.\d{1,20})?)\s*(%?)\s*")
_BETWEEN_IDS = re.compile(r"[\s,;]+")

_short = reprlib.Repr()
_short.maxstring = 60
_short.maxother = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A submission that the teacher has to mend, with what is wrong, one sentence each."""

    problems: tuple[str, ...]


# ------------------------------------------------------------------------------------- submission


def read_submission(
    arguments: Mapping[str, Any], *, task_ids: Collection[str], trace_ids: Collection[str]
) -> Ending | Refused:
    """Return the diagnosis that a `submit_diagnosis(diagnosis_md, clusters)` call gives.

    It is strict where a repair would change what is claimed: every sample id must be known, every
    rate a rate. A percentage (85, "85%"), a list that came as JSON text and a cluster without an id
    leave no doubt and are taken.

    Args:
        arguments: The call's arguments, parsed.
        task_ids: The benchmark's tasks.
        trace_ids: The traces of the bundle.

    Returns:
        The ending, or the problems, each of which names its field and what to do.
    """
    diagnosis = arguments.get("diagnosis_md")
    clusters = _unwrapped(arguments.get("clusters"))
    problems = [*_problems_of_text(diagnosis), *_problems_of_list(clusters)]
    if isinstance(clusters, list):
        items = cast("list[Any]", clusters)
        known = _Known(task_ids, trace_ids)
        problems += islice(_problems_of_clusters(items, known), _MAX_PROBLEMS)
    if problems:
        return Refused(problems=tuple(problems))
    items = cast("list[Any]", clusters)
    read, remarks = _read_clusters(items)
    text = Text(text=cast("str", diagnosis))
    return Ending(diagnosis=text, clusters=read, nothing_found=not items, remarks=remarks)


def _unwrapped(value: object) -> object:
    """Return the list in `value` where it came as JSON text, else `value`."""
    if not isinstance(value, str):
        return value
    parsed = whole_json(value)
    return cast("object", parsed) if isinstance(parsed, list) else value


def _problems_of_text(diagnosis: object) -> Iterator[str]:
    if not isinstance(diagnosis, str) or not diagnosis.strip():
        yield (
            f"diagnosis_md: {_shown(diagnosis)} is not a diagnosis; give the whole diagnosis as "
            "Markdown text"
        )


def _problems_of_list(clusters: object) -> Iterator[str]:
    if not isinstance(clusters, list):
        yield (
            f"clusters: {_shown(clusters)} is not a list; give a list of clusters, or [] if you "
            "found that nothing is wrong"
        )
    elif len(cast("list[Any]", clusters)) > MAX_CLUSTERS:
        given = len(cast("list[Any]", clusters))
        yield f"clusters: {given} are given; give the {MAX_CLUSTERS} that matter most, at most"


@dataclass(frozen=True, slots=True)
class _Known:
    task_ids: Collection[str]
    trace_ids: Collection[str]

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self.task_ids or sample_id in self.trace_ids

    @property
    def examples(self) -> str:
        """Two task ids and a trace id, so that a teacher sees what they look like."""
        some = [*nsmallest(2, self.task_ids), *nsmallest(1, self.trace_ids)]
        return ", ".join(map(repr, some)) or "none: the bundle holds neither tasks nor traces"


def _problems_of_clusters(items: Sequence[Any], known: _Known) -> Iterator[str]:
    seen: set[str] = set()
    for index, item in enumerate(items[:MAX_CLUSTERS]):
        where = f"clusters[{index}]"
        if not isinstance(item, dict):
            yield f"{where}: {_shown(item)} is not an object"
            continue
        cluster = cast("dict[str, Any]", item)
        yield from _problems_of_words(where, cluster, seen)
        yield from _problems_of_ids(f"{where}.sample_trace_ids", cluster, known)
        for key in ("student_failure_rate", "teacher_success_rate"):
            if (wrong := _rate(cluster.get(key)).wrong) is not None:
                yield f"{where}.{key}: {wrong}; give a number from 0 to 1, or null"


def _problems_of_words(where: str, cluster: Mapping[str, Any], seen: set[str]) -> Iterator[str]:
    cluster_id = cluster.get("id")
    if cluster_id is not None and not isinstance(cluster_id, str):
        yield f"{where}.id: {_shown(cluster_id)} is not a name; give one such as 'date-arithmetic'"
    elif name := (cluster_id or "").strip():
        if name in seen:
            yield f"{where}.id: {_shown(name)} is taken by another cluster; give each its own"
        seen.add(name)
    description = cluster.get("description")
    if not isinstance(description, str) or not description.strip():
        yield f"{where}.description: {_shown(description)} is empty; say what fails, and how"
    skill_gap = cluster.get("skill_gap")
    if skill_gap is not None and not isinstance(skill_gap, str):
        yield f"{where}.skill_gap: {_shown(skill_gap)} is not text; say what the student lacks"


def _problems_of_ids(where: str, cluster: Mapping[str, Any], known: _Known) -> Iterator[str]:
    value = cluster.get("sample_trace_ids")
    ids = cast("list[Any]", value) if isinstance(value, list) else []
    if not ids:
        what = "empty" if ids is value else f"{_shown(cast('object', value))}, not a list"
        yield f"{where}: it is {what}; give at least 3 task or trace ids"
    for sample_id in ids:
        if not isinstance(sample_id, str):
            yield f"{where}: {_shown(sample_id)} is not an id; ids are text"
        elif sample_id not in known:
            yield (
                f"{where}: {_shown(sample_id)} is not a known task or trace id; known ids look "
                f"like {known.examples}"
            )


# ------------------------------------------------------------------------------------------- text


def read_text(text: str) -> Ending:
    """Return the diagnosis that a final text gives: the text as it is, and its clusters.

    They are read from the array in a ```json fence at its end, and from what models write instead;
    see `find_list`. An empty array is the word for "nothing is wrong"; no array at all is not.
    """
    searched = text[-MAX_TEXT_CHARS:]
    found = find_list(searched, key="clusters", is_item=_is_cluster)
    items = found.items if found else []
    clusters, remarks = _read_clusters(items)
    first = (
        f"of {len(text)} characters only the last {MAX_TEXT_CHARS} were searched for clusters"
        if len(searched) < len(text)
        else "",
        found.remark if found else "no list of clusters could be read from the text",
    )
    return Ending(
        diagnosis=Text(text=text),
        clusters=clusters,
        nothing_found=found is not None and not items,
        remarks=(*filter(None, first), *remarks),
    )


def _is_cluster(value: object) -> bool:
    """Whether this can only be meant as a cluster."""
    keys = _keys(value)
    return bool(keys & _CLUSTER_KEYS) or {"id", "description"} <= keys


def _says_something(value: object) -> bool:
    """Whether this can be read as a cluster, once it stands in a list of clusters."""
    return bool(_keys(value) & {*_CLUSTER_KEYS, "description"})


def _keys(value: object) -> frozenset[str]:
    return frozenset(cast("dict[str, Any]", value)) if isinstance(value, dict) else frozenset()


# --------------------------------------------------------------------------------------- clusters


def render(clusters: Iterable[ClaimedCluster]) -> str:
    """Return clusters as the JSON array that `read_text` reads, in the reference's keys."""
    rows = [
        {
            "id": cluster.cluster_id,
            "description": cluster.description,
            "sample_trace_ids": cluster.sample_ids,
            "student_failure_rate": cluster.student_failure_rate,
            "teacher_success_rate": cluster.teacher_success_rate,
            "skill_gap": cluster.skill_gap,
        }
        for cluster in clusters
    ]
    return json.dumps(rows, ensure_ascii=False, allow_nan=False, indent=2)


def _read_clusters(items: Sequence[Any]) -> tuple[tuple[ClaimedCluster, ...], tuple[str, ...]]:
    """Return the clusters among `items`, mended and within bounds, and what was done for it."""
    remarks: list[str] = []
    objects = [cast("dict[str, Any]", item) for item in items if _says_something(item)]
    if len(objects) < len(items):
        remarks.append(f"{len(items) - len(objects)} entries of the list are no clusters: dropped")
    if len(objects) > MAX_CLUSTERS:
        remarks.append(f"of {len(objects)} clusters only the first {MAX_CLUSTERS} were read")
    del objects[MAX_CLUSTERS:]
    named = zip(_names(objects, remarks), objects, strict=True)
    return tuple(_cluster(name, item, remarks) for name, item in named), tuple(remarks)


def _names(objects: Sequence[Mapping[str, Any]], remarks: list[str]) -> Iterator[str]:
    """Yield a name for each cluster, all different: its own, or one made from its place."""
    given = [_name(item.get("id")) for item in objects]
    used: set[str] = set()
    for place, name in enumerate(given, start=1):
        if name and name not in used:
            used.add(name)
            yield name
            continue
        taken = used.union(given)
        new = _free_name(name or "cluster", 2 if name else place, taken)
        problem = f"its id {_shown(name)} is taken" if name else "it has no id"
        remarks.append(f"cluster {place} is called {_shown(new)}: {problem}")
        used.add(new)
        yield new


def _name(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return ""
    return _cut(" ".join(_clean(value).split()), MAX_ID_CHARS)


def _free_name(stem: str, first: int, taken: Collection[str]) -> str:
    names = (f"{stem[: MAX_ID_CHARS - 8]}-{number}" for number in count(first))
    return next(name for name in names if name not in taken)


def _cluster(name: str, item: Mapping[str, Any], remarks: list[str]) -> ClaimedCluster:
    def remark(what: str) -> None:
        remarks.append(f"cluster {_shown(name)}: {what}")

    description = _words(item, "description", MAX_DESCRIPTION_CHARS, remark)
    skill_gap = _words(item, "skill_gap", MAX_SKILL_GAP_CHARS, remark)
    if not description:
        remark("it has no description")
    return ClaimedCluster(
        cluster_id=name,
        description=description or skill_gap or "(no description was given)",
        skill_gap=skill_gap,
        sample_ids=_sample_ids(item.get("sample_trace_ids"), remark),
        student_failure_rate=_said_rate(item, "student_failure_rate", remark),
        teacher_success_rate=_said_rate(item, "teacher_success_rate", remark),
    )


def _words(item: Mapping[str, Any], key: str, max_chars: int, remark: Callable[[str], None]) -> str:
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        remark(f"its {key} {_shown(value)} is not text: dropped")
        return ""
    text = _clean(value).strip()
    if len(text) > max_chars:
        remark(f"its {key} of {len(text)} characters was cut to {max_chars}")
    return _cut(text, max_chars)


def _sample_ids(value: object, remark: Callable[[str], None]) -> tuple[str, ...]:
    """Return the ids in `value`, each once; a text is one id, or ids between commas or blanks."""
    if isinstance(value, str):
        value = _unwrapped(value)
        if isinstance(value, str):
            value = _BETWEEN_IDS.split(value)
        remark("its sample ids came as one text and were split")
    if not isinstance(value, list):
        remark("it has no sample ids" if value is None else f"{_shown(value)} are no sample ids")
        return ()
    items = cast("list[Any]", value)
    ids = [_sample_id(item) for item in items]
    if unreadable := sum(read is None for read in ids):
        remark(f"{unreadable} of its sample ids cannot be ids: dropped")
    unique = tuple(dict.fromkeys(read for read in ids if read))
    if not unique:
        remark("it has no sample ids")
    if len(unique) > MAX_SAMPLE_IDS:
        remark(f"of its {len(unique)} sample ids only the first {MAX_SAMPLE_IDS} were read")
    return unique[:MAX_SAMPLE_IDS]


def _sample_id(value: object) -> str | None:
    """Return an id, empty for a blank; None where `value` cannot be one."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > MAX_ID_CHARS:
        return None
    return _clean(value).strip()


# ------------------------------------------------------------------------------------------ rates


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rate:
    #: 0..1; None where there is none.
    value: float | None = None
    #: How it was understood, where that is not plain.
    remark: str | None = None
    #: Why it is no rate.
    wrong: str | None = None


def _said_rate(item: Mapping[str, Any], key: str, remark: Callable[[str], None]) -> float | None:
    rate = _rate(item.get(key))
    if what := rate.wrong or rate.remark:
        remark(f"its {key}: {what}")
    return rate.value


def _rate(value: object) -> _Rate:
    """Read a rate: above 1 it is a percentage, then at most 1; what is below 0 or NaN is none."""
    if value is None:
        return _Rate()
    number, is_percentage = _number(value)
    if number is None:
        return _Rate(wrong=f"{_shown(value)} is not a rate")
    if number < 0:
        return _Rate(wrong=f"{_shown(value)} is below 0")
    number = abs(number)  # -0.0
    rate = number / 100 if is_percentage or number > 1 else number
    if rate > 1:
        return _Rate(value=1.0, remark=f"{_shown(value)} was taken as 1.0")
    read_as = f"{_shown(value)} was read as {rate}" if number > 1 and not is_percentage else None
    return _Rate(value=rate, remark=read_as)


def _number(value: object) -> tuple[float | None, bool]:
    """Return the finite number in `value`, None if there is none; and whether it has a `%`."""
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        return (float(match[1]), bool(match[2])) if match else (None, False)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, False
    try:
        number = float(value)
    except OverflowError:
        return None, False
    return (number if math.isfinite(number) else None), False


# ------------------------------------------------------------------------------------------ words


def _clean(text: str) -> str:
    """Return `text` as something that can be written as UTF-8: JSON may hold halves of a pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def _shown(value: object) -> str:
    """Return `value` as it may stand in a message."""
    return _clean(_short.repr(value))
