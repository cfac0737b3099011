"""A hint is looked at before anything is connected or claimed for it."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.base import OPTIONS, HintInvalid, work
from tests.corpus.bad_messages import bad_hints
from worker.errors import UnknownVersion

NO_STEP, OTHER_VERSION = bad_hints()


@pytest.mark.parametrize("hint", NO_STEP.values(), ids=list(NO_STEP))
def test_a_hint_at_nothing_is_refused_in_a_word(hint: tuple[Any, ...]) -> None:
    with pytest.raises(HintInvalid, match=r"^a hint ") as refused:
        work(*hint)

    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 500
    assert isinstance(refused.value, OPTIONS["throws"]), "told without a traceback"


@pytest.mark.parametrize("hint", OTHER_VERSION.values(), ids=list(OTHER_VERSION))
def test_a_hint_of_another_version_stays_for_a_worker_that_knows_it(hint: tuple[Any, ...]) -> None:
    with pytest.raises(UnknownVersion, match="the step stays due"):
        work(*hint)
