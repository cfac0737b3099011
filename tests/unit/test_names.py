"""A test is called the same in every process and at every time.

pytest-xdist ends a run before its first test when two of its processes call one test differently:
a name that is made of a clock, a number drawn by chance or a set's order fails the whole suite, now
and then.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_another_process_calls_every_test_as_this_one(request: pytest.FixtureRequest) -> None:
    here = {item.nodeid for item in request.session.items}
    other = os.environ | {"PYTHONHASHSEED": "1", "TZ": "Asia/Kathmandu"}
    other.pop("PYTEST_ADDOPTS", None)

    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=other,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert collected.returncode == 0, collected.stdout[-2_000:] + collected.stderr[-2_000:]
    assert here - set(collected.stdout.splitlines()) == set()
