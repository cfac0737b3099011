"""How the command line speaks: JSON for scripts, sentences for people, exit codes for both.

Rule: what a teacher, a student, a trace or a request said is text, never markup and never a control
sequence of the terminal: it is shown through `said`.
"""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, NoReturn, cast

import click
from rich.console import Console
from rich.text import Text

from worker.errors import BadInput, DiagnosisError, Misconfigured, Unavailable

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = [
    "ENDED_OTHERWISE",
    "NOT_FOUND",
    "SESSION_ID",
    "Amount",
    "console",
    "dollars",
    "exit_code_of",
    "fail",
    "plain",
    "said",
    "say_json",
]

NOT_FOUND = 5
ENDED_OTHERWISE = 6

#: Nothing in a string means anything: colours are given as styles.
console = Console(markup=False, emoji=False, highlight=False)


#: Wider than ids are: what could not even be asked for is refused here, the rest is not found.
_LOOKS_LIKE_AN_ID = re.compile(r"[\w.:-]{1,200}", re.ASCII)


class _SessionId(click.ParamType[str]):
    """A session's id; what cannot be one is no session."""

    name = "session_id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        del param, ctx
        if _LOOKS_LIKE_AN_ID.fullmatch(value) is None:
            fail(f"there is no session {value!r}: that is no session id", code=NOT_FOUND)
        return value


SESSION_ID = _SessionId()


class Amount(click.FloatRange):
    """A finite number that is not negative."""

    def __init__(self, most: float = math.inf) -> None:
        super().__init__(min=0, max=most)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number.

        Raises:
            BadParameter: It is none, negative, infinite or too large.
        """
        # A text, as it came; click says that it takes the number that it returns.
        number = float(super().convert(cast("float", value), param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def exit_code_of(error: DiagnosisError) -> int:
    """Return the exit code that tells a script what to do about an error."""
    match error:
        case BadInput():
            return 3
        case Unavailable():
            return 4
        case Misconfigured():
            return 7
        case _:
            return 1


def fail(message: str, *, code: int) -> NoReturn:
    """Say what was wrong on stderr and leave."""
    click.echo(f"diagnosis: {plain(message)}", err=True)
    sys.exit(code)


def say_json(value: BaseModel) -> None:
    """Print a model as one JSON object."""
    click.echo(value.model_dump_json(indent=2))


def dollars(nusd: int) -> str:
    """Return nano-dollars for people: `$0.0123`."""
    return f"${nusd / 1e9:.4f}"


def said(text: str, style: str = "") -> Text:
    """Return words of somebody else as they may be shown."""
    return Text(plain(text), style=style)


def plain(text: str) -> str:
    """Return a text on one line, without what would move a cursor or turn a line around."""
    words = " ".join(text.split())
    return "".join(char if char.isprintable() else "\ufffd" for char in words)
