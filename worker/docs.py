"""The reference pages in `docs/`, made from the code: `make docs`.

Rule: a fact stands in the code once, where it is used; a page here only shows it. A test holds the
pages that are committed against what this makes now.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
import json
import re
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from pydantic import BaseModel, SecretStr

from worker import cli as command_line
from worker.core import commands, events, keys
from worker.core.machine import TRANSITIONS
from worker.core.prices import PRICE_VERSION, known_models, price_of
from worker.core.values import Purpose, Runner
from worker.errors import UnknownModel
from worker.journal.keys import DRIVE
from worker.journal.keys import KEYS as JOURNAL_KEYS
from worker.ledger.keys import KEYS as LEDGER_KEYS
from worker.limits.keys import KEYS as LIMIT_KEYS
from worker.messages import task_for
from worker.prefixes.keys import KEYS as PREFIX_KEYS
from worker.settings import Settings
from worker.telemetry.metrics import METRICS
from worker.tools.schemas import CHARS_MAX, TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from enum import StrEnum

    from pydantic.fields import FieldInfo

    from worker.core.prices import Price
    from worker.tools.schemas import Schema, Tool

__all__ = ["PAGES", "write_pages"]


def write_pages(folder: Path) -> None:
    """Write every page into `folder`."""
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


# --------------------------------------------------------------------------------------- markdown


def _page(title: str, source: str, *parts: str) -> str:
    made = f"<!-- Made from {source} by `make docs`. Change it there. -->"
    return "\n\n".join([f"# {title}", made, *parts]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def _first_paragraph(doc: str | None) -> str:
    return " ".join(inspect.cleandoc(doc or "").partition("\n\n")[0].split())


# --------------------------------------------------------------------------------------- settings

_KINDS: Mapping[object, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    SecretStr: "secret",
}


def _settings() -> str:
    fields = Settings.model_fields
    named = {name: _model_of(field) for name, field in fields.items()}
    plain = {name: field for name, field in fields.items() if named[name] is None}
    return _page(
        "Settings",
        "`worker/settings.py`",
        "Each setting is a variable, or a line of the TOML file that `DIAGNOSIS_CONFIG` names: there "
        "in lower case and without `DIAGNOSIS_`. A variable wins over the file. A name that is not "
        "known is an error in the file, and goes unnoticed as a variable. `diagnosis doctor` says "
        "what is wrong with what is set.",
        _table(_SETTINGS_HEAD, (_setting(f"DIAGNOSIS_{n.upper()}", f) for n, f in plain.items())),
        "## Teachers, students and judges",
        "A request names them; their addresses and keys stand here alone. `<NAME>` is the name that "
        "requests use. A variable makes it lower case; a name with capitals, dots or dashes needs "
        "the file (`[students.My-Student]`).",
        *(
            part
            for name, model in named.items()
            if model is not None
            for part in _named_settings(name, fields[name], model)
        ),
    )


_SETTINGS_HEAD = ("variable", "type", "default", "meaning")


def _named_settings(name: str, field: FieldInfo, model: type[BaseModel]) -> Iterator[str]:
    yield f"### `{name}`\n\n{_first_paragraph(model.__doc__)} {field.description or ''}".strip()
    prefix = f"DIAGNOSIS_{name.upper()}__<NAME>__"
    rows = (_setting(prefix + n.upper(), f) for n, f in model.model_fields.items())
    yield _table(_SETTINGS_HEAD, rows)


def _setting(variable: str, field: FieldInfo) -> tuple[str, ...]:
    default = "**needed**" if field.is_required() else _default(field)
    return _code(variable), _type_words(field), default, field.description or ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None:
        return "none"
    return _code(json.dumps(value) if isinstance(value, bool | dict) else value) or "empty"


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a dictionary of named things, None for any other field."""
    arguments = get_args(field.annotation)
    model = arguments[-1] if arguments else None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _type_words(field: FieldInfo) -> str:
    if typing.get_origin(field.annotation) is dict:
        return "JSON object"
    kinds = get_args(field.annotation) or (field.annotation,)
    word = next(_KINDS[kind] for kind in kinds if kind in _KINDS)
    return ", ".join([word, *_limits(field.metadata)])


def _limits(metadata: Sequence[Any]) -> Iterator[str]:
    for limit in metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (bound := getattr(limit, name, None)) is not None:
                yield f"{sign} {bound:,}" if bound < _LONG_NUMBER else f"{sign} {bound}"
        if pattern := getattr(limit, "pattern", None):
            yield f"like `{pattern}`"


_LONG_NUMBER = 10**15


# ---------------------------------------------------------------------------------------- metrics


def _metrics() -> str:
    return _page(
        "Metrics",
        "`worker/telemetry/metrics.py`",
        "Every worker process serves these to Prometheus on `DIAGNOSIS_METRICS_PORT`, where that is "
        "set. A histogram is three series: `_bucket`, `_sum` and `_count`. No label has a session, "
        "a tenant or a host in it; those are in the logs and in the ledger.",
        _table(
            ("metric", "kind", "unit", "labels", "meaning"),
            (
                (_code(m.name), m.kind, m.unit, ", ".join(map(_code, m.labels)), m.meaning)
                for m in METRICS
            ),
        ),
    )


# ------------------------------------------------------------------------------------------- keys


def _keys() -> str:
    return _page(
        "Keys",
        "`worker/journal/keys.py`, `worker/ledger/keys.py`, `worker/limits/keys.py`, "
        "`worker/prefixes/keys.py` and `worker/core/keys.py`",
        "`P` is `DIAGNOSIS_KEY_PREFIX`. In braces it is the hash tag that keeps everything a script "
        "changes in one slot. Celery's own keys (queues, results) begin with the prefix and a colon.",
        "## The journal, in Redis",
        _redis_keys(JOURNAL_KEYS),
        "## The ledger, in Redis",
        _redis_keys(LEDGER_KEYS),
        "## The limits of servers that are called, in Redis",
        "Each account has a hash tag of its own. Nothing here needs durability: what is lost is "
        "learned again.",
        _redis_keys(LIMIT_KEYS),
        "## The shared prefix in the prompt cache, in Redis",
        "Needs no durability either.",
        _redis_keys(PREFIX_KEYS),
        "## The object store",
        f"```text\n{_indented(keys.__doc__ or '')}\n```",
    )


def _redis_keys(rows: Mapping[str, tuple[str, str, str]]) -> str:
    cells = ((_code(pattern), kind, meaning) for pattern, kind, meaning in rows.values())
    return _table(("key", "type", "holds"), cells)


def _indented(doc: str) -> str:
    lines = [line.removeprefix("    ") for line in doc.splitlines() if line.startswith("    ")]
    assert lines, "the docstring of worker.core.keys shows the object keys, indented"
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------ tools


def _tools() -> str:
    tools = [tool for _, tool in sorted(TOOLS.items())]
    return _page(
        "The teacher's tools",
        "`worker/tools/schemas.py`",
        f"A result is JSON text of at most {CHARS_MAX:,} characters. Arguments are checked against "
        "these tables; a wrong one comes back to the teacher as an error result.",
        _table(
            ("tool", "work", "cost"), ((_code(tool.name), tool.kind, tool.cost) for tool in tools)
        ),
        *(part for tool in tools for part in _tool(tool)),
    )


def _tool(tool: Tool) -> Iterator[str]:
    yield f"## `{tool.name}`\n\n{tool.description}"
    if tool.properties:
        yield _table(
            ("argument", "type", "default", "meaning"),
            (
                _argument(name, schema, needed=name in tool.required)
                for name, schema in tool.properties.items()
            ),
        )


def _argument(name: str, schema: Schema, *, needed: bool) -> tuple[str, ...]:
    default = "**needed**" if needed else _code(schema.get("default", ""))
    return _code(name), _schema_words(schema), default, schema["description"]


def _schema_words(schema: Schema) -> str:
    if "enum" in schema:
        return " or ".join(map(_code, schema["enum"]))
    low, high = (_first(schema, f"{end}imum", f"{end}Length", f"{end}Items") for end in _ENDS)
    span = f"{low if low is not None else ''}…{high if high is not None else ''}"
    words = (
        f"{schema['type']} of {schema['items']['type']}" if "items" in schema else schema["type"]
    )
    return words if span == "…" else f"{words}, {span}"


_ENDS = ("min", "max")


def _first(schema: Schema, *names: str) -> int | None:
    return next((schema[name] for name in names if name in schema), None)


# ----------------------------------------------------------------------------------------- prices


def _prices() -> str:
    return _page(
        "Prices",
        "`worker/core/prices.py`",
        f"Version `{PRICE_VERSION}`, in US dollars per million tokens. A model that is not here is "
        "refused before its session starts. Without a day a rate holds since the model came out. "
        "In a prompt above the length that is named, every token, output included, costs the "
        "second rate.",
        _table(
            (
                "model",
                "since",
                "input",
                "output",
                "5 min write",
                "1 h write",
                "read",
                "cached from",
            ),
            (row for model in known_models() for row in _price_rows(model)),
        ),
    )


def _price_rows(model: str) -> Iterator[tuple[str, ...]]:
    for price in _history(model):
        name = _code(model) if price.model == model else f"{_code(model)} = {_code(price.model)}"
        yield name, price.since_day, *_rates(price), f"{price.min_cacheable_tokens:,} tokens"


def _history(model: str) -> Iterator[Price]:
    """Return a model's prices, the newest first."""
    price: Price | None = price_of(model)
    while price is not None:
        yield price
        price = _price_before(price)


def _price_before(price: Price) -> Price | None:
    if not price.since_day:
        return None
    day_before = dt.date.fromisoformat(price.since_day) - dt.timedelta(days=1)
    try:
        return price_of(price.model, day=day_before.isoformat())
    except UnknownModel:
        return None


def _rates(price: Price) -> list[str]:
    columns = [[_usd_per_million(rate)] for rate in dataclasses.astuple(price.rates)]
    if price.long_rates is not None:
        for column, rate in zip(columns, dataclasses.astuple(price.long_rates), strict=True):
            column.append(f"{_usd_per_million(rate)} above {price.long_above_tokens:,}")
    return ["; ".join(column) for column in columns]


def _usd_per_million(pusd: int) -> str:
    """Return a rate: a pico-dollar a token is a dollar per million million tokens."""
    return f"{pusd / 1_000_000:.3f}".removesuffix("0")


# ----------------------------------------------------------------------------------------- events


def _events() -> str:
    kinds: tuple[type[Any], ...] = get_args(events.Event)
    return _page(
        "Events and steps",
        "`worker/core/events.py`, `commands.py` and `machine.py`",
        "A journal is a list of these events, each under a key of its own; the first one under a "
        "key wins. The key of an event that ends a step is the step's id.",
        "## Steps",
        _table(("step", "what", "queue", "Celery task"), map(_step, get_args(commands.Command))),
        f"Beside them `deadline` (the session's time is up) and `{DRIVE}` (somebody must look at the "
        f"session) can be due, on {_code(commands.Queue.CONTROL.value)}, for {_code(task_for(DRIVE))}.",
        "## Phases",
        "What may happen in each phase, and where it leads.",
        _table(("phase", "event", "leads to"), _transitions()),
        "## Events",
        *(part for kind in kinds for part in _event(kind)),
    )


def _step(command: type[Any]) -> tuple[str, ...]:
    samples = _samples(command)
    # A tool that is itself a paid call goes to another queue.
    queues = {commands.queue_of(one).value for one in _with_paid_tools(samples)}
    ids = dict.fromkeys(commands.step_id_of(one) for one in samples)
    return (
        ", ".join(map(_code, ids)),
        _first_paragraph(command.__doc__),
        " or ".join(map(_code, sorted(queues))),
        _code(task_for(next(iter(ids)))),
    )


def _with_paid_tools(samples: list[Any]) -> Iterator[Any]:
    for sample in samples:
        if hasattr(sample, "call"):
            for tool in ("", *commands.PAID_TOOLS):
                yield dataclasses.replace(sample, call=_Call(tool))
        else:
            yield sample


@dataclasses.dataclass(frozen=True)
class _Call:
    tool: str


def _transitions() -> Iterator[tuple[str, ...]]:
    for phase, edges in TRANSITIONS.items():
        for event, phases in edges.items():
            yield (
                _code(phase.value),
                _code(event.__name__),
                ", ".join(sorted(p.value for p in phases)),
            )


def _event(kind: type[Any]) -> Iterator[str]:
    found = dict.fromkeys(events.key_of(sample) for sample in _samples(kind))
    yield f"### `{kind.__name__}`\n\nKey: {', '.join(map(_code, found))}. {_first_paragraph(kind.__doc__)}"
    comments = _field_comments(kind)
    rows = [
        (_code(f.name), _code(f.type), _default_of(f), comments.get(f.name, ""))
        for f in dataclasses.fields(kind)
    ]
    if rows:
        yield _table(("field", "type", "default", "meaning"), rows)


def _default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _code(repr(field.default)) if field.default != "" else "empty"
    return "**needed**" if field.default_factory is dataclasses.MISSING else "empty"


def _field_comments(kind: type[Any]) -> dict[str, str]:
    """Return the `#:` lines above each field."""
    comments: dict[str, str] = {}
    lines: list[str] = []
    for line in inspect.getsource(kind).splitlines():
        text = line.strip()
        if text.startswith("#:"):
            lines.append(text.removeprefix("#:").strip())
        elif lines and (field := re.match(r"(\w+):", text)):
            comments[field[1]] = " ".join(lines)
            lines = []
    return comments


#: Fields that decide under which key an event stands; each value makes a sample of its own.
_DECIDING: Mapping[str, type[StrEnum]] = {"purpose": Purpose, "runner": Runner}


def _samples(kind: type[Any]) -> list[Any]:
    """Return an instance for each way in which `kind` can be keyed; its numbers are placeholders."""
    needed = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    base = {name: f"<{name}>" for name in needed}
    deciding = next(
        (name for name in (f.name for f in dataclasses.fields(kind)) if name in _DECIDING), None
    )
    if deciding is None:
        return [kind(**base)]
    return [kind(**{**base, deciding: value}) for value in _DECIDING[deciding]]


# -------------------------------------------------------------------------------------------- cli


def _cli() -> str:
    return _page(
        "The command line",
        "`worker/cli`",
        _first_paragraph(command_line.cli.help) + " " + _exit_codes(command_line.__doc__ or ""),
        *(
            part
            for name, command in sorted(command_line.cli.commands.items())
            for part in _command(f"diagnosis {name}", command)
        ),
    )


def _exit_codes(doc: str) -> str:
    found = re.search(r"Exit codes:.*", doc, re.DOTALL)
    assert found is not None, "the docstring of worker.cli lists the exit codes"
    return " ".join(found[0].split())


def _command(name: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group):
        for child, one in sorted(command.commands.items()):
            yield from _command(f"{name} {child}", one)
        if not command.invoke_without_command:
            return
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    usage = " ".join(
        [name, "[OPTIONS]", *(p.make_metavar(click.Context(command)) for p in arguments)]
    )
    yield f"## `{name}`\n\n```text\n{usage}\n```\n\n{_paragraphs(command.help)}"
    options = [p for p in command.params if isinstance(p, click.Option)]
    if options:
        yield _table(("option", "default", "meaning"), (_option(o, command) for o in options))


def _paragraphs(text: str | None) -> str:
    parts = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts)


def _option(option: click.Option, command: click.Command) -> tuple[str, ...]:
    name = option.opts[-1]
    if not option.is_flag:
        name += f" {option.make_metavar(click.Context(command))}"
    default = option.default
    shown = _code(default) if isinstance(default, str | int | float | Path) else ""
    return _code(name), "" if option.is_flag else shown, option.help or ""


#: Every page by its name in `docs/`.
PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": _cli,
    "events.md": _events,
    "keys.md": _keys,
    "metrics.md": _metrics,
    "prices.md": _prices,
    "settings.md": _settings,
    "tools.md": _tools,
}

if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
