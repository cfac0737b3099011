"""How the command line speaks: JSON for scripts, sentences for people, exit codes for both."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

import click
from rich.console import Console

from worker.errors import BadInput, DiagnosisError, Misconfigured, Unavailable

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["ENDED_OTHERWISE", "NOT_FOUND", "console", "dollars", "exit_code_of", "fail", "say_json"]

NOT_FOUND = 5
ENDED_OTHERWISE = 6

console = Console()


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
    click.echo(f"diagnosis: {message}", err=True)
    sys.exit(code)


def say_json(value: BaseModel) -> None:
    """Print a model as one JSON object."""
    click.echo(value.model_dump_json(indent=2))


def dollars(nusd: int) -> str:
    """Return nano-dollars for people: `$0.0123`."""
    return f"${nusd / 1e9:.4f}"
