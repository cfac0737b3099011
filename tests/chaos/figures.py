"""What a chaos run measured, for people and for `build/chaos.json`.

Rule: a figure says how it was got, and holds its own target; the file holds what this run measured
and nothing older.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Figure", "Figures"]

_FILE = Path(__file__).parents[2] / "build" / "chaos.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number with its target; the form of `bench.json`."""

    name: str
    value: float
    unit: str
    #: In words: `0`, `at most 5`, …
    target: str
    ok: bool
    how: str


@dataclass(slots=True)
class Figures:
    """Everything that was measured so far."""

    figures: list[Figure] = field(default_factory=list[Figure])
    #: Tables for the terminal.
    tables: list[str] = field(default_factory=list[str])

    def most(self, name: str, value: float, unit: str, most: float, how: str) -> None:
        """Note a figure that must not be above `most`."""
        target = f"at most {most:g}" if most else "0"
        ok = value <= most
        self.figures.append(
            Figure(name=name, value=value, unit=unit, target=target, ok=ok, how=how)
        )

    def least(self, name: str, value: float, unit: str, least: float, how: str) -> None:
        """Note a figure that must not be below `least`."""
        target = f"at least {least:g}"
        ok = value >= least
        self.figures.append(
            Figure(name=name, value=value, unit=unit, target=target, ok=ok, how=how)
        )

    @property
    def red(self) -> list[Figure]:
        """The figures that miss their target."""
        return [figure for figure in self.figures if not figure.ok]

    def show(self, table: str) -> None:
        """Print a table at the end of the run."""
        self.tables.append(table)

    def lines(self) -> list[str]:
        """Return what is printed at the end of the run."""
        rows = [
            f"{'ok ' if f.ok else 'RED'} {f.name}: {f.value:g} {f.unit} (target {f.target}); {f.how}"
            for f in self.figures
        ]
        return [line for table in self.tables for line in (*table.splitlines(), "")] + rows

    def write(self, path: Path = _FILE) -> Path:
        """Write the figures; return where they are."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([asdict(figure) for figure in self.figures], indent=2)
        path.write_text(text + "\n", encoding="utf-8")
        return path
