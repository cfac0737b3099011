"""Files that tell the simulated teacher what it cannot know: answers to tasks, scores of outputs.

Rule: a key is read once, at the start, and a file that is not right stops the start.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from worker.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["AnswerKey", "JudgeKey", "normalised"]

_RowT = TypeVar("_RowT")

#: Blanks, quotes (curly ones by number) and Markdown's emphasis.
_NOT_WORDS = re.compile("[\\s\"'\u2018\u2019\u201c\u201d`*_]+")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    query: Annotated[str, Field(min_length=1)]
    answer: str


class _Score(BaseModel):
    model_config = ConfigDict(extra="ignore")

    output: str
    score: Annotated[float, Field(ge=0, le=1)]
    #: The task's query, where the same output is right for one task and wrong for another.
    task: str = ""


class AnswerKey:
    """Answers by query: what the teacher says when it runs on a task itself."""

    def __init__(self, answers: Sequence[tuple[str, str]] = ()) -> None:
        # The longest first: a query may stand inside of another.
        by_length = sorted(answers, key=lambda pair: (-len(pair[0]), pair))
        self._answers = [(normalised(query), answer) for query, answer in by_length]

    @classmethod
    def read(cls, path: Path) -> AnswerKey:
        """Return the key in a file: a JSON array of `{"query", "answer"}`.

        Raises:
            Misconfigured: It is not one.
        """
        rows = _read(path, TypeAdapter[list[_Answer]](list[_Answer]))
        return cls([(row.query, row.answer) for row in rows])

    def answer_to(self, prompt: str) -> str | None:
        """Return the answer to the query that stands in `prompt`, None where none does."""
        asked = normalised(prompt)
        return next((answer for query, answer in self._answers if query in asked), None)


class JudgeKey:
    """Scores by output, for outputs that the judge's own rule gets wrong."""

    def __init__(
        self, scores: Sequence[tuple[str, float]] = (), *, tasks: Sequence[str] = ()
    ) -> None:
        """Take (output, score) pairs, and for each the query it answers; empty for any."""
        queries = [*map(normalised, tasks), *[""] * (len(scores) - len(tasks))]
        self._scores = {
            (query, normalised(output)): score
            for query, (output, score) in zip(queries, scores, strict=True)
        }

    @classmethod
    def read(cls, path: Path) -> JudgeKey:
        """Return the key in a file: a JSON array of `{"output", "score"}`, maybe with `"task"`.

        Raises:
            Misconfigured: It is not one.
        """
        rows = _read(path, TypeAdapter[list[_Score]](list[_Score]))
        return cls([(row.output, row.score) for row in rows], tasks=[row.task for row in rows])

    def score_of(self, output: str, task: str = "") -> float | None:
        """Return the score of an output of a task, None where the key does not have it."""
        said = normalised(output)
        return self._scores.get((normalised(task), said), self._scores.get(("", said)))


def normalised(text: str) -> str:
    """Return a text without case, quotes and runs of blanks, for comparing."""
    return _NOT_WORDS.sub(" ", text.casefold()).strip(" .")


def _read(path: Path, adapter: TypeAdapter[_RowT]) -> _RowT:
    try:
        return adapter.validate_json(path.read_bytes())
    except OSError as exc:
        raise Misconfigured(f"the key {str(path)!r} cannot be read: {exc.strerror}") from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Misconfigured(f"the key {str(path)!r} is wrong at {place!r}: {first['msg']}") from exc
