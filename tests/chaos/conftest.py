"""Fixtures of the chaos tests, and what `make chaos` prints and writes at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.figures import Figures
from tests.chaos.homes import open_workspace

if TYPE_CHECKING:
    from worker.steps.workspace import Workspace

_FIGURES = pytest.StashKey[Figures]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if "tests/chaos/" in item.nodeid:
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Where a test notes what it measured; printed and written when all have run."""
    return pytestconfig.stash.setdefault(_FIGURES, Figures())


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The inputs of the sweeps' sessions."""
    return open_workspace(tmp_path_factory.mktemp("chaos-home"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where a figure is red, even if no test says so."""
    figures = session.config.stash.get(_FIGURES, None)
    if figures is not None and figures.red and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the matrices and the figures; write the figures."""
    figures = config.stash.get(_FIGURES, None)
    if figures is None or not figures.figures:
        return
    terminalreporter.section("chaos")
    for line in figures.lines():
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"written to {figures.write()}")
    red = [figure.name for figure in figures.red]
    terminalreporter.write_line(f"red: {'; '.join(red)}" if red else "no red cell")
