"""The first thing that a new user runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket, pytest.mark.timeout("180")]


def test_the_demo_diagnoses_a_real_student_and_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DIAGNOSIS_") and name != "ANTHROPIC_API_KEY"
    }

    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "demo", "--directory", str(directory)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIMULATED" in done.stdout
    assert "concluded" in done.stdout
    clusters = json.loads((directory / "artifacts" / "clusters.json").read_text())
    assert 2 <= len(clusters) <= 5
    assert "Simulated" in (directory / "artifacts" / "diagnosis.md").read_text()
    left = [p.cmdline() for p in psutil.process_iter() if _is_of(p, str(directory))]
    assert left == []


def _is_of(process: psutil.Process, directory: str) -> bool:
    try:
        return any(directory in word for word in (*process.cmdline(), process.cwd()))
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
