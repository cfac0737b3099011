"""A session that cannot end as it should: it raises, soon, and leaves no thread."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.unit.local.user_code import UNPRICED, Engine, cluster, diagnosis, says, zero
from worker.core.values import Limits, SessionSpec
from worker.local.collaborators import CallableStudent, TraceJudge
from worker.local.engine import EngineTeacher
from worker.local.home import snapshot
from worker.local.session import LocalSession
from worker.steps.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from worker.bundle.open import Bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    tasks = [{"trace_id": "task-0", "query": "?"}]
    with snapshot(trace_store=None, samples=tasks, config={}, directory=tmp_path) as bundle:
        yield bundle


class _Forgets(Workspace):
    """Knows the traces once, and never again."""

    asked = 0

    @property
    def trace_tasks(self) -> Mapping[str, str | None]:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.asked += 1
        if self.asked > 1:
            raise RuntimeError("the traces are gone")
        return {}


def test_a_conclusion_that_fails_again_and_again_is_raised(bundle: Bundle) -> None:
    spec = SessionSpec(
        session_id="local",
        bundle_uri="local",
        student="default",
        teacher="default",
        judge="default",
        teacher_model=UNPRICED,
        judge_model=UNPRICED,
        tenant="local",
        campaign="local",
        trigger="local",
        limits=Limits(max_turns=2),
    )
    session = LocalSession(
        spec,
        workspace=_Forgets(bundle),
        teacher=EngineTeacher(Engine(says(diagnosis(cluster("task-0")))), str),
        student=CallableStudent(zero, "s", str),
        judge=TraceJudge(None, str),
        parallel=2,
    )
    before, began_s = set(threading.enumerate()), time.monotonic()

    with pytest.raises(RuntimeError, match="the traces are gone"):
        session.run()

    assert time.monotonic() - began_s < 5
    assert session.files() == {}
    assert set(threading.enumerate()) <= before
