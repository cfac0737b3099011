from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.core.scoring.linear_regex import LinearRegex, UnsupportedPattern

ATOMS = st.sampled_from(
    [
        *(
            "a",
            "b",
            "Z",
            " ",
            "1",
            "ä",
            ".",
            r"\.",
            r"\d",
            r"\D",
            r"\w",
            r"\W",
            r"\s",
            r"\S",
            r"\n",
        ),
        *("[ab]", "[^ab]", "[a-c1]", r"[\d_]", "[]a]", "[^]a]", r"[\]a]", "[a|b]", "[(]", "[.*]"),
        *(
            "^",
            "$",
            r"\A",
            r"\Z",
            r"\b",
            "{",
            "}",
            "]",
            "{}",
            "a{",
            "{a}",
            "{1,2",
            r"\x61",
            r"\u00e4",
        ),
    ]
)
QUANTIFIERS = st.sampled_from(
    ["*", "+", "?", "*?", "+?", "??", "{2}", "{0}", "{1,}", "{,2}", "{1,3}", "{,}", "{2}?"]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: f"(?:{'|'.join(options)})"),
        st.tuples(inner, QUANTIFIERS).map(lambda both: f"({both[0]}){both[1]}"),
        inner.map(lambda one: f"(?P<name>{one})"),
    ),
    max_leaves=8,
)
TEXTS = st.text(alphabet="abZ1 _.\nä({", max_size=8)
FLAGS = st.lists(st.sampled_from([re.IGNORECASE, re.MULTILINE, re.DOTALL]), unique=True).map(sum)


@settings(max_examples=500)
@given(pattern=PATTERNS, text=TEXTS, flags=FLAGS)
@example(pattern="(a|ab)(c|bcd)$", text="abcd", flags=0)
@example(pattern="(a*)*$", text="aab", flags=0)
@example(pattern="a$", text="a\n", flags=0)
@example(pattern=r"a\Z", text="a\n", flags=0)
@example(pattern="^b", text="a\nb", flags=int(re.MULTILINE))
@example(pattern="(?:^a|b)*c", text="bac", flags=0)
def test_it_matches_whatever_re_matches(pattern: str, text: str, flags: int) -> None:
    try:
        model = re.compile(pattern, flags)
    except re.error:  # such as two groups of one name
        with pytest.raises(UnsupportedPattern):
            LinearRegex.compile(pattern, flags)
        return

    regex = LinearRegex.compile(pattern, flags)

    assert regex.matches(text) == (model.search(text) is not None)
    assert regex.matches(text, whole=True) == (model.fullmatch(text) is not None)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*$",
        "(a|aa)+$",
        "(.*a){12}$",
        "a*a*a*a*a*a*b",
        "([a-z]+)*[0-9]$",
        r"(\w+\s?)*$",
    ],
)
def test_patterns_that_make_re_run_for_ever_end_soon(pattern: str) -> None:
    text = "a" * 50_000 + "!"
    started = time.process_time()

    LinearRegex.compile(pattern).matches(text)

    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"(a)\1", "(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", "(?>a)", "a++", "a*+", "(?i)a"),
        *("(?P<n>a)(?P=n)", "(a)?(?(1)b|c)", "(?#note)a", "(", "a**", "[", "*", r"\0", r"\q"),
        *("a{1000}", "(a{30}){30}", "a{9999999999}", "(" * 31 + "a" + ")" * 31, "a" * 1_001),
    ],
)
def test_what_would_need_backtracking_or_is_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedPattern) as raised:
        LinearRegex.compile(pattern)

    assert pattern not in str(raised.value) or len(pattern) == 1


@given(pattern=st.text(max_size=30))
def test_any_pattern_compiles_or_is_refused(pattern: str) -> None:
    try:
        LinearRegex.compile(pattern).matches("some text")
    except UnsupportedPattern:
        return


def test_only_so_much_of_a_long_text_is_looked_at() -> None:
    regex = LinearRegex.compile("needle")

    assert regex.matches("x" * (regex.max_text_chars - 6) + "needle")
    assert not regex.matches("x" * regex.max_text_chars + "needle")
