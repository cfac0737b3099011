"""The reference pages say what the code says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

from worker.cli import cli
from worker.core.commands import Queue
from worker.core.events import Event
from worker.core.prices import PRICE_VERSION, known_models
from worker.docs import PAGES, write_pages
from worker.journal.keys import KEYS as JOURNAL_KEYS
from worker.ledger.keys import KEYS as LEDGER_KEYS
from worker.settings import Settings
from worker.telemetry.metrics import METRICS
from worker.tools.schemas import TOOLS

DOCS = Path(__file__).parents[3] / "docs"
EVENTS: tuple[type[Any], ...] = get_args(Event)


def rows(page: str) -> list[str]:
    """Return the first cell of every row of every table of a page."""
    lines = [line for line in PAGES[page]().splitlines() if line.startswith("| ")]
    return [line.split(" | ")[0].removeprefix("| ").strip("`") for line in lines]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_made_again_is_the_page_that_is_committed(name: str) -> None:
    committed = (DOCS / name).read_text(encoding="utf-8")

    assert PAGES[name]() == committed, "the code has moved on: `make docs`, and commit the change"


def test_the_pages_are_written_under_their_names_and_alone(tmp_path: Path) -> None:
    write_pages(tmp_path / "docs")

    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_the_columns_of_every_table_are_as_many_as_its_head_has(name: str) -> None:
    for block in PAGES[name]().split("\n\n"):
        if block.startswith("| "):
            columns = {line.replace("\\|", "").count("|") for line in block.splitlines()}
            assert len(columns) == 1, block


def test_every_setting_has_a_meaning_and_a_row() -> None:
    plain = [name for name in Settings.model_fields if name not in NAMED]

    assert [name for name in plain if f"DIAGNOSIS_{name.upper()}" not in rows("settings.md")] == []
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


NAMED = ("teachers", "students", "judges")


def test_no_secret_has_a_default_that_a_page_could_show() -> None:
    page = PAGES["settings.md"]()

    lines = [line for line in page.splitlines() if "| secret |" in line]
    assert len(lines) >= 6
    for line in lines:
        default = line.split(" | ")[2]
        assert default in {"none", "empty", "`redis://127.0.0.1:6379/0`"}


def test_every_metric_key_tool_model_event_and_command_is_on_its_page() -> None:
    keys = [pattern for pattern, _, _ in (*JOURNAL_KEYS.values(), *LEDGER_KEYS.values())]
    commands = [name for name, command in cli.commands.items() if not hasattr(command, "commands")]

    assert {metric.name for metric in METRICS} <= set(rows("metrics.md"))
    assert set(keys) <= set(rows("keys.md"))
    assert set(TOOLS) <= set(rows("tools.md"))
    assert set(known_models()) <= {row.split("`")[0] for row in rows("prices.md")}
    assert PRICE_VERSION in PAGES["prices.md"]()
    assert [kind for kind in EVENTS if f"### `{kind.__name__}`" not in PAGES["events.md"]()] == []
    assert [name for name in commands if f"## `diagnosis {name}`" not in PAGES["cli.md"]()] == []


@pytest.mark.parametrize("event", EVENTS)
def test_every_field_of_an_event_is_shown_with_it(event: type[Any]) -> None:
    section = PAGES["events.md"]().partition(f"### `{event.__name__}`")[2].partition("###")[0]

    assert [field.name for field in fields(event) if f"| `{field.name}` |" not in section] == []


def test_every_queue_is_named_where_the_steps_are() -> None:
    steps = PAGES["events.md"]().partition("## Phases")[0]

    assert [queue for queue in Queue if f"`{queue.value}`" not in steps] == []


def test_a_price_that_was_replaced_stays_on_the_page() -> None:
    sonnet = [line for line in PAGES["prices.md"]().splitlines() if "`claude-sonnet-5-5`" in line]

    assert [line.split(" | ")[1:7:5] for line in sonnet] == [["2026-10-07", "0.10"], ["", "0.20"]]


def test_a_rate_of_a_long_prompt_stands_beside_the_other() -> None:
    (haiku,) = [line for line in PAGES["prices.md"]().splitlines() if "`claude-haiku-5-5`" in line]

    assert "| 0.10; 0.50 above 100,000 | 0.50; 2.50 above 100,000 |" in haiku
