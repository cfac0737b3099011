"""`diagnosis demo`: a whole session on this machine, from nothing."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["demo"]


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/demo"),
    show_default=True,
    help="Takes data, logs and the session's artifacts.",
)
@click.option("--keep", is_flag=True, help="Keep the servers until Ctrl-C, to look at Flower.")
def demo(directory: Path, keep: bool) -> None:  # noqa: FBT001 - click's way
    """Start everything on this machine, diagnose a real small student, show it, stop everything.

    The teacher is simulated unless ANTHROPIC_API_KEY is set.
    """
    from worker.cli.demo_session import run_demo

    run_demo(directory, keep=keep)
