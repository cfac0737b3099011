"""The inputs of the sweeps' sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.homes import open_workspace

if TYPE_CHECKING:
    from worker.steps.workspace import Workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The inputs of the sweeps' sessions."""
    return open_workspace(tmp_path_factory.mktemp("chaos-home"))
