"""Each law has tests of its number and a mutation that still fits the code."""

from __future__ import annotations

import re

import pytest

from tests.laws.mutations import MUTATIONS, ROOT, Mutation, mutated

LAWS = frozenset(range(1, 12))


def test_each_law_has_its_tests_and_its_mutation() -> None:
    tests = (ROOT / "tests" / "laws" / "test_laws.py").read_text(encoding="utf-8")

    assert {int(number) for number in re.findall(r"def test_law_(\d\d)_", tests)} == LAWS
    assert {mutation.law for mutation in MUTATIONS} == LAWS


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.law:02} {m.says}")
def test_a_mutation_changes_one_place(mutation: Mutation) -> None:
    text = (ROOT / mutation.path).read_text(encoding="utf-8")

    assert mutated(text, mutation) != text


def test_a_mutation_that_fits_no_more_says_so() -> None:
    mutation = MUTATIONS[0]

    with pytest.raises(ValueError, match="0 times and not once: correct the mutation of law 1"):
        mutated("something else", mutation)
