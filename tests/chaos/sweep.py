"""Every operation of a story, struck in every way, one run each; then pairs, at random.

Rule: nothing is sampled where it can be swept. The operations are those of the calm run: up to the
first strike, a run is the calm run.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.laws import Came, broken_laws, came_of, left_by
from tests.chaos.points import Way
from tests.chaos.world import World, memory_stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.chaos.laws import Left
    from tests.chaos.points import Point, Strikes
    from tests.chaos.stories import Story
    from tests.chaos.world import Stores
    from worker.steps.workspace import Workspace

__all__ = ["ALL_WAYS", "KILLS", "Matrix", "Sweep"]

KILLS = (Way.BEFORE, Way.AFTER)
ALL_WAYS = tuple(Way)
#: A call of the teacher, a batch and a run of the student are made once; who follows decides on another. A
#: repeated `sent` is a second sender, who is refused: Redis' client repeats it with its own token.
_SAID_ONCE = frozenset({"teacher.send", "batches.create", "student.answer", "ledger.sent"})
#: Reds that a matrix quotes for each cell.
_QUOTED = 2


@dataclass(slots=True)
class Matrix:
    """Operation and way -> what came of it."""

    cells: dict[tuple[str, Way], Counter[Came]] = field(
        default_factory=dict[tuple[str, Way], Counter[Came]]
    )
    reds: list[str] = field(default_factory=list[str])

    def add(self, name: str, way: Way, came: Came, why: str = "") -> None:
        """Count one run."""
        self.cells.setdefault((name, way), Counter())[came] += 1
        if came is Came.RED:
            self.reds.append(f"{name} {way.value}: {why}")

    def join(self, other: Matrix) -> None:
        """Add another matrix to this one."""
        for key, counts in other.cells.items():
            self.cells.setdefault(key, Counter()).update(counts)
        self.reds.extend(other.reds)

    @property
    def runs(self) -> int:
        """How many runs it counts."""
        return sum(counts.total() for counts in self.cells.values())

    def total(self, came: Came) -> int:
        """How many runs came to this."""
        return sum(counts[came] for counts in self.cells.values())

    def text(self, title: str) -> str:
        """Return the matrix for a terminal: a row an operation, a column a way."""
        ways = sorted({way for _, way in self.cells}, key=list(Way).index)
        names = sorted({name for name, _ in self.cells})
        rows = [["operation", *(way.value for way in ways)]]
        rows += [
            [name, *(_cell(self.cells.get((name, way), Counter())) for way in ways)]
            for name in names
        ]
        rows.append(["all", *(_cell(self._column(way)) for way in ways)])
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        legend = "  ".join(f"{_SIGNS[came]} {came.value}" for came in reversed(Came))
        return "\n".join([title, f"({self.runs} runs: {legend})", *map(str.rstrip, lines)])

    def _column(self, way: Way) -> Counter[Came]:
        return sum(
            (counts for (_, other), counts in self.cells.items() if other is way), Counter[Came]()
        )


_SIGNS = {
    Came.SAME: "=",
    Came.LATER: "~",
    Came.STEP_AGAIN: "s",
    Came.PAID_AGAIN: "$",
    Came.RED: "RED",
}


def _cell(counts: Counter[Came]) -> str:
    found = [f"{counts[came]}{_SIGNS[came]}" for came in reversed(Came) if counts[came]]
    return " ".join(found) or "."


class Sweep:
    """One story with the run that all others are compared with."""

    def __init__(
        self,
        story: Story,
        workspace: Workspace,
        *,
        stores: Callable[[], Stores] = memory_stores,
        seed: int = 0,
    ) -> None:
        """Run the story once without a strike.

        Raises:
            AssertionError: That alone breaks a law.
        """
        self._story = story
        self._workspace = workspace
        self._stores = stores
        self._seed = seed
        calm = self.run({})
        self.calm = left_by(calm)
        self.points: tuple[Point, ...] = tuple(calm.points)
        broken = broken_laws(calm, self.calm, self.calm)
        assert not broken, (story.name, broken)

    def one_by_one(self, ways: Sequence[Way] = ALL_WAYS) -> Matrix:
        """Strike each operation in each way."""
        matrix = Matrix()
        for number, way in self.places(ways):
            matrix.add(self.points[number].name, way, *self.strike({number: way}))
        return matrix

    def places(self, ways: Sequence[Way] = ALL_WAYS) -> Iterable[tuple[int, Way]]:
        """Return all operations with the ways in which each can be struck."""
        for number, point in enumerate(self.points):
            for way in ways:
                if way is not Way.AGAIN or point.name not in _SAID_ONCE:
                    yield number, way

    def pairs(self, count: int, ways: Sequence[Way] = ALL_WAYS, *, chance: int = 0) -> Matrix:
        """Strike two operations, `count` times; the second one often right after the first."""
        matrix = Matrix()
        draw = random.Random(chance)  # noqa: S311 - chance of a test
        while matrix.runs < count:
            first = draw.randrange(len(self.points))
            gap = draw.choice((draw.randint(1, 12), draw.randint(1, len(self.points))))
            strikes = {first: draw.choice(ways), first + gap: draw.choice(ways)}
            if not any(way is Way.AGAIN for way in strikes.values()):
                matrix.add("two operations", strikes[first], *self.strike(strikes))
        return matrix

    def strike(self, strikes: Strikes) -> tuple[Came, str]:
        """Return what came of a run with these strikes, and why where it is red."""
        world = self.run(strikes)
        left = left_by(world)
        broken = broken_laws(world, left, self.calm)
        came = came_of(world, left, self.calm, broken=bool(broken))
        return came, f"{_told(self._story, strikes)}: {'; '.join(broken[:_QUOTED])}"

    def left(self, strikes: Strikes) -> Left:
        """Return what a run with these strikes leaves."""
        return left_by(self.run(strikes))

    def run(self, strikes: Strikes) -> World:
        """Return the world of a run with these strikes, at rest."""
        world = World(
            self._story,
            self._workspace,
            strikes=strikes,
            stores=self._stores(),
            seed=self._seed,
        )
        world.run()
        return world


def _told(story: Story, strikes: Strikes) -> str:
    return f"{story.name} {', '.join(f'#{n} {way.value}' for n, way in strikes.items())}"
