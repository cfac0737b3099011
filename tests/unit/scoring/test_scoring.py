from __future__ import annotations

import json
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from worker.core.scoring import SCORERS, Score, Scorer, read_scorer, score, validate_scorer
from worker.errors import BadInput

NAMES = st.sampled_from(sorted(SCORERS))
#: A reference that stands in no sentence by chance.
SECRETS = st.integers(10**9, 10**10 - 1).map(str)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def passes(name: str, output: str, reference: str, **options: Any) -> bool:
    return score(name, options, output, reference).passed


# ------------------------------------------------------------------------------- all of them


@given(name=NAMES, output=st.text(), reference=SECRETS)
@example(name="json", output='{"a": 1}', reference="1234567890")
def test_any_output_gets_a_score_and_a_reason_without_the_reference(
    name: str, output: str, reference: str
) -> None:
    scored = score(name, {}, output, reference)

    assert 0 <= scored.value <= 1
    assert scored.passed == (scored.value == 1)
    assert reference not in scored.why
    assert scored.why


@given(name=NAMES, reference=SECRETS, around=st.sampled_from(["{}", " {}\n", "```\n{}\n```"]))
def test_the_reference_itself_is_right(name: str, reference: str, around: str) -> None:
    assert passes(name, around.format(reference), reference)


@given(name=NAMES, reference=SECRETS)
def test_an_empty_output_is_wrong(name: str, reference: str) -> None:
    assert score(name, {}, "", reference).value == 0


@given(name=NAMES, output=st.text(), reference=SECRETS)
def test_the_same_answer_gets_the_same_score(name: str, output: str, reference: str) -> None:
    assert score(name, {}, output, reference) == score(name, {}, output, reference)


@given(name=NAMES, reference=st.text())
def test_what_was_validated_can_be_scored(name: str, reference: str) -> None:
    try:
        validate_scorer(name, {}, reference)
    except BadInput:
        with pytest.raises(BadInput):
            score(name, {}, "output", reference)
        return

    assert isinstance(score(name, {}, "output", reference), Score)


def test_an_unknown_scorer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="no scorer 'bleu'; known are exact, contains, numeric"):
        score("bleu", {}, "a", "b")


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"no option 'tolerant'; it has .*relative_tolerance"):
        validate_scorer("numeric", {"tolerant": 1}, "1")


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("exact", {"ignore_case": 1}, "must be true or false, got 1"),
        ("exact", {"alternatives": "x"}, "must be a list of texts, got 'x'"),
        ("exact", {"alternatives": ["x", 1]}, "must be a list of texts"),
        ("numeric", {"tolerance": "0.1"}, "must be a number from 0 up, got '0.1'"),
        ("numeric", {"tolerance": -1}, "must be a number from 0 up"),
        ("numeric", {"tolerance": True}, "must be a number from 0 up"),
        ("numeric", {"tolerance": float("nan")}, "must be a number from 0 up"),
        ("regex", {"pattern": None}, "must be a text, got None"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused_with_its_value(
    name: str, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadInput, match=problem):
        validate_scorer(name, options, "1")


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("exact", {}, " \n"),
        ("exact", {"alternatives": [""]}, "Paris"),
        ("contains", {}, ""),
        ("numeric", {}, "none at all"),
        ("numeric", {}, "NaN"),
        ("numeric", {}, "1/0"),
        ("regex", {}, "("),
        ("regex", {}, "a*"),
        ("regex", {}, r"(\w)\1"),
        ("regex", {"pattern": r"^\d+$"}, "twelve"),
        ("json", {}, "{not json}"),
        ("json", {}, "NaN"),
        ("json", {}, "[" * 65 + "]" * 65),
        ("json", {"fields": ["a.b"]}, '{"a": {}}'),
    ],
)
def test_a_reference_that_nothing_can_be_compared_with_is_refused(
    name: str, options: dict[str, Any], reference: str
) -> None:
    with pytest.raises(BadInput) as raised:
        validate_scorer(name, options, reference)

    assert not reference.strip() or reference not in raised.value.message


@pytest.mark.parametrize(
    ("metadata", "scorer"),
    [
        ({}, None),
        ({"scorer": None, "scorer_options": {"ignore_case": True}}, None),
        ({"scorer": "exact"}, Scorer(name="exact")),
        (
            {"scorer": "numeric", "scorer_options": {"tolerance": 1}},
            Scorer(name="numeric", options={"tolerance": 1}),
        ),
        (
            {"scorer": {"name": "numeric", "tolerance": 1}},
            Scorer(name="numeric", options={"tolerance": 1}),
        ),
        (
            {
                "scorer": {"name": "exact", "ignore_case": True},
                "scorer_options": {"ignore_case": 0},
            },
            Scorer(name="exact", options={"ignore_case": True}),
        ),
    ],
)
def test_a_sample_names_its_scorer_as_a_text_or_as_an_object(
    metadata: dict[str, Any], scorer: Scorer | None
) -> None:
    assert read_scorer(metadata) == scorer


@pytest.mark.parametrize(
    "metadata",
    [
        {"scorer": 7},
        {"scorer": []},
        {"scorer": {}},
        {"scorer": {"name": 7}},
        {"scorer": "exact", "scorer_options": ["ignore_case"]},
    ],
)
def test_a_scorer_of_the_wrong_shape_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="scorer"):
        read_scorer(metadata)


@pytest.mark.parametrize(
    "piece",
    [
        *("1 ", "1/", "1,111", "$ ", "\\boxed{", "answer is ", "{", "[", '{"a":', '{"a":[', "[1],"),
        *("```\n", "`", "\"'", ". ", "** ", "\u201c", "-", "1e", "\\frac{1}", "x "),
    ],
)
@pytest.mark.parametrize("name", sorted(SCORERS))
def test_no_output_however_long_takes_long(name: str, piece: str) -> None:
    output = piece * (300_000 // len(piece))
    reference = "[12]" if name == "json" else "12 x"
    started = time.process_time()

    score(name, {"ignore_order": True} if name == "json" else {}, output, reference)

    assert time.process_time() - started < 5


# -------------------------------------------------------------------------------------- exact


@pytest.mark.parametrize(
    ("output", "reference"),
    [
        ("Paris", "Paris"),
        (" Paris.\n", "Paris"),
        ('"Paris"', "Paris"),
        ('"Paris".', "Paris"),
        ("**Paris**", "Paris"),
        ("`x = 1`", "x = 1"),
        ("```text\nParis\n```", "Paris"),
        ("a  b\n c", "a b c"),
        ("Cafe\u0301", "Café"),
        ("e.g.", "e.g."),
        ("Wait...", "Wait..."),
    ],
)
def test_exact_passes_over_white_space_and_wrapping(output: str, reference: str) -> None:
    assert passes("exact", output, reference)


@pytest.mark.parametrize(
    ("output", "reference"),
    [
        ("paris", "Paris"),
        ("Paris, France", "Paris"),
        ("The answer is Paris", "Paris"),
        ('"a" or "b"', 'a" or "b'),
        ("**a** and **b**", "a** and **b"),
        (".", "Paris"),
        ("ab", "a b"),
    ],
)
def test_exact_takes_nothing_else(output: str, reference: str) -> None:
    assert not passes("exact", output, reference)


def test_exact_has_options_for_case_wrapping_white_space_and_alternatives() -> None:
    assert passes("exact", "STRASSE", "straße", ignore_case=True)
    assert not passes("exact", "'Paris'", "Paris", keep_wrapping=True)
    assert not passes("exact", "a  b", "a b", ignore_whitespace=False)
    assert passes("exact", "NYC.", "New York", alternatives=["NYC"])


# ----------------------------------------------------------------------------------- contains


def test_contains_finds_the_reference_as_a_word_of_its_own() -> None:
    assert passes("contains", "It is the cat, I think.", "Cat")
    assert passes("contains", "category: cat", "cat")
    assert not passes("contains", "a category", "cat")
    assert passes("contains", "a category", "cat", within_words=True)
    assert not passes("contains", "the cat", "Cat", ignore_case=False)
    assert passes("contains", "from NYC", "New York", alternatives=["NYC"])
    assert passes("contains", "I use C++ daily", "C++")
    assert not passes("contains", "2013", "201")


# ------------------------------------------------------------------------------------ numeric


@pytest.mark.parametrize(
    ("output", "number"),
    [
        ("42", "42"),
        ("42.", "42"),
        ("The total is 42 apples.", "42"),
        ("12 + 30 = 42", "42"),
        ("10-3", "3"),
        ("x-5", "5"),
        ("- 7", "7"),
        ("It is -7.", "-7"),
        ("It is \u22127 degrees", "-7"),
        ("+7", "7"),
        ("3.50", "3.5"),
        (".5", "0.5"),
        ("1,234,567", "1234567"),
        ("1\u202f234", "1234"),
        ("12,345.67 in all", "12345.67"),
        ("3, 4, 5", "5"),
        ("1e3", "1000"),
        ("2.5e-3", "0.0025"),
        (r"1.5 \times 10^{3}", "1500"),
        ("6.0 x 10^2", "600"),
        ("3/4", "0.75"),
        ("1 1/2", "1.5"),
        (r"\frac{3}{4}", "0.75"),
        ("$12.50", "12.5"),
        ("-$5", "-5"),
        ("5kg", "5"),
        ("85%", "85%"),
        ("85 percent", "85%"),
        ("3 errors. Score: 0.2", "0.2"),
        ("The answer is 12, in 3 steps.", "12"),
        ("**Answer:** 12 (see page 3)", "12"),
        ("Answer: about 12. Then 9.", "12"),
        ("Answer: 5? No. Answer: 6. (2 tries)", "6"),
        (r"so \boxed{7} since 9 > 8. Answer: 6", "7"),
        ("step 1 ... #### 18", "18"),
        ("2024-05-20", "20"),
        ("on 1/2/2024", "2024"),
        ("we divide 45 / 9", "9"),
        ("v2 costs 30 in CO2", "30"),
    ],
)
def test_numeric_finds_the_number_that_the_answer_means(output: str, number: str) -> None:
    assert passes("numeric", output, number)
    assert not passes("numeric", output, "987654321")


@pytest.mark.parametrize(
    ("output", "reference", "right"),
    [
        ("85%", "85%", True),
        ("85%", "0.85", True),
        ("85%", "85", True),
        ("0.85", "85%", True),
        ("85", "85%", True),
        ("85%", "1", False),
        ("85%", "0.3", False),
        ("8.5%", "85%", False),
        ("0.85%", "85%", False),
    ],
)
def test_a_percentage_is_met_as_percent_as_a_part_and_as_the_bare_number(
    output: str, reference: str, *, right: bool
) -> None:
    assert passes("numeric", output, reference) is right


@pytest.mark.parametrize(
    "output",
    [
        "",
        "no number",
        "NaN",
        "inf",
        "-inf",
        "Infinity",
        "∞",
        "1/0",
        "1e999",
        "9" * 500,
        "Step 1: the answer is NaN",
        "after 1 step: inf",
    ],
)
def test_what_is_not_finite_never_passes(output: str) -> None:
    assert not passes("numeric", output, "1", tolerance=1e308)


def test_tolerance_is_in_the_references_unit_or_a_part_of_it() -> None:
    assert passes("numeric", "3.14", "3.14159", tolerance=0.01)
    assert not passes("numeric", "3.12", "3.14159", tolerance=0.01)
    assert passes("numeric", "101", "100", relative_tolerance=0.01)
    assert not passes("numeric", "102", "100", relative_tolerance=0.01)
    assert passes("numeric", "0.3", "0.2", tolerance=0.1)
    assert passes("numeric", "1.234,5", "1234,5", decimal_comma=True)


@given(
    number=st.decimals(-(10**12), 10**12, places=4) | st.integers(-(10**15), 10**15),
    before=st.sampled_from(["", "It is ", "1) The sum = ", "**", "€", "= "]),
    after=st.sampled_from(["", ".", " apples", "**", "!", "\n"]),
)
def test_any_number_is_found_in_a_sentence(number: object, before: str, after: str) -> None:
    assert passes("numeric", f"{before}{number}{after}", str(number))


@given(over=st.integers(-999, 999), under=st.integers(1, 999))
def test_fractions_are_compared_exactly(over: int, under: int) -> None:
    value = Fraction(over, under)

    assert passes("numeric", f"{over}/{under}", f"{value.numerator}/{value.denominator}")
    assert not passes("numeric", f"{over}/{under}", f"{over * 1000 + 1}/{under * 1000}")


@given(text=st.text(alphabet="0123456789.,/-+eE% $x^\\{}()=:*#answeriboxdf\n", max_size=60))
def test_any_heap_of_digits_and_signs_gets_a_score(text: str) -> None:
    assert score("numeric", {}, text, "123456789").value in {0, 1}


# -------------------------------------------------------------------------------------- regex


def test_regex_takes_the_reference_or_an_option_as_its_pattern() -> None:
    assert passes("regex", "\n 2024-05-20 ", r"^\d{4}-\d{2}-\d{2}$")
    assert not passes("regex", "on 2024-05-20", r"^\d{4}-\d{2}-\d{2}$")
    assert passes("regex", "on 2024-05-20", "2024-01-01", pattern=r"\d{4}-\d{2}-\d{2}")
    assert not passes("regex", "on 2024-05-20", r"\d{4}-\d{2}-\d{2}", whole=True)
    assert passes("regex", "YES", "^yes$", ignore_case=True)
    assert passes("regex", "a\nb", "^b$", multiline=True)
    assert passes("regex", "a\nb", "a.b", dot_all=True)


# --------------------------------------------------------------------------------------- json


@given(value=JSON, prose=st.sampled_from(["{}", "Sure! ```json\n{}\n``` Anything else?"]))
def test_json_finds_the_value_whatever_stands_around_it(value: object, prose: str) -> None:
    text = json.dumps(value)

    assert passes("json", prose.replace("{}", text), text)


@given(value=st.dictionaries(st.text(), JSON, min_size=1, max_size=3))
def test_json_finds_an_object_in_a_sentence(value: object) -> None:
    text = json.dumps(value)

    assert passes("json", f"Here it is: {text}. Done [really].", text)


@given(one=JSON, other=JSON)
def test_json_tells_different_values_apart(one: object, other: object) -> None:
    assume(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))
    assume(one != other)

    assert not passes("json", json.dumps(one), json.dumps(other))


@pytest.mark.parametrize(
    ("output", "reference", "right"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2.0, "a": 1}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": "1"}', '{"a": 1}', False),
        ('{"a": null}', "{}", False),
        ('{"a": 1e2}', '{"a": 100}', True),
        ('{"a": 0.1}', '{"a": 0.10000000000000001}', True),
        ('first {"a": 1}, then {"a": 2}', '{"a": 2}', True),
        ('```\n{"a": 1}\n``` not {"a": 2}', '{"a": 1}', True),
        ('{"a": NaN}', '{"a": 1}', False),
        ('{"a": 1e999}', '{"a": 1}', False),
        ("{" * 10_000, "{}", False),
        ("[" * 10_000 + "]" * 10_000, "[]", False),
        ("[] " * 1_000, "[]", True),
    ],
)
def test_json_compares_values_and_not_their_spelling(
    output: str, reference: str, *, right: bool
) -> None:
    assert passes("json", output, reference) is right


def test_json_has_options_for_parts_order_case_and_tolerance() -> None:
    output = '{"name": " Bob ", "tags": ["b", "a"], "price": 9.99, "more": {"x": 1, "y": 2}}'

    assert passes("json", output, '{"price": 9.99, "more": {"x": 1}}', subset=True)
    assert not passes("json", output, '{"price": 9.99}')
    assert passes("json", output, '{"more": {"y": 2}, "price": 0}', fields=["more.y"])
    assert passes("json", output, '{"tags": ["a", "b"]}', subset=True, ignore_order=True)
    assert not passes("json", output, '{"tags": ["a", "b"]}', subset=True)
    assert passes("json", output, '{"name": "bob"}', subset=True, ignore_case=True)
    assert passes("json", output, '{"price": 10}', subset=True, tolerance=0.02)
    many = list(range(300))
    assert passes("json", json.dumps(many[::-1]), json.dumps(many), ignore_order=True)


def test_json_counts_the_fields_that_agree_and_passes_only_all_of_them() -> None:
    scored = score("json", {}, '{"a": 1, "b": 0, "c": 3}', '{"a": 1, "b": 2, "d": 4}')

    assert scored.value == pytest.approx(1 / 4)
    assert not scored.passed
