"""`make bench`: measures each figure, prints them, writes `build/bench.json`.

Exits 1 where a target is missed, 2 for a figure that does not exist. Arguments name the figures that
are wanted; none means all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.figures import FIGURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.figures import Figure


def main(names: Sequence[str], figures: Sequence[Figure], target: Path) -> int:
    """Measure the figures that `names` has, or all; return the exit code."""
    unknown = sorted(set(names) - {figure.name for figure in figures})
    if unknown:
        known = ", ".join(figure.name for figure in figures)
        print(f"no such figure: {', '.join(unknown)}; there are: {known}", file=sys.stderr)
        return 2
    rows = [measured(figure) for figure in figures if not names or figure.name in names]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    missed = [row["name"] for row in rows if not row["ok"]]
    print(f"missed: {', '.join(missed)}" if missed else "every target is met")
    return 1 if missed else 0


def measured(figure: Figure) -> dict[str, Any]:
    """Return a figure's row, printed as soon as it is known."""
    row: dict[str, Any] = {"name": figure.name, "unit": figure.unit, "target": figure.target}
    try:
        found = figure.measure()
        row |= {
            "value": round(found.value, 3),
            "ok": found.value <= figure.target,
            "how": found.how,
        }
    except Exception as exc:  # noqa: BLE001 - one that cannot be measured does not hide the others
        row |= {"value": None, "ok": False, "how": f"not measured: {type(exc).__name__}: {exc}"}
    mark = "ok  " if row["ok"] else "MISS"
    value = "-" if row["value"] is None else f"{row['value']:.3f}"
    limit = f"{figure.target:g} {figure.unit}"
    print(f"{mark} {figure.name:32} {value:>9} (at most {limit}) {row['how']}", flush=True)
    return row


if __name__ == "__main__":
    wanted = [name for argument in sys.argv[1:] for name in argument.split(",") if name]
    sys.exit(main(wanted, FIGURES, Path("build/bench.json")))
