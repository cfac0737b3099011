from __future__ import annotations

import json
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.tools import TOOLS, BadArguments, validate_arguments

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
NAMES = st.sampled_from([*TOOLS, "no_such_tool", ""])


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, Any]:
    """Draw a tool with arguments of its own names and any values, as an object or as text."""
    name = draw(NAMES)
    names = list(TOOLS[name].properties) if name in TOOLS else []
    keys = st.sampled_from([*names, "nonsense"])
    arguments = draw(JSON | st.dictionaries(keys, JSON | st.sampled_from(["5", 5.0, "1e3", "x"])))
    return name, draw(st.sampled_from([arguments, json.dumps(arguments)]))


@given(calls())
@example(("list_traces", "[" * 100_000))
@example(("list_traces", '{"limit": ' + "9" * 10_000 + "}"))
@example(("list_traces", {"limit": 10**5_000}))
@example(("list_traces", b'\xff{"a"'))
@example(("submit_diagnosis", {"diagnosis_md": "x", "clusters": '[{"description": NaN}]'}))
def test_arguments_are_valid_or_said_to_be_bad(call: tuple[str, Any]) -> None:
    name, raw = call

    checked = validate_arguments(name, raw)

    if isinstance(checked, BadArguments):
        assert 0 < len(checked.message) < 5_000
    else:
        _check(checked, TOOLS[name].schema)
        assert validate_arguments(name, checked) == checked
        assert validate_arguments(name, json.dumps(checked)) == checked


def _check(value: Any, schema: dict[str, Any]) -> None:
    match schema["type"]:
        case "object":
            fields = cast("dict[str, Any]", value)
            assert set(schema["required"]) <= set(fields) <= set(schema["properties"])
            for name, item in fields.items():
                _check(item, schema["properties"][name])
        case "array":
            items = cast("list[Any]", value)
            assert schema["minItems"] <= len(items) <= schema["maxItems"]
            for item in items:
                _check(item, schema["items"])
        case "string":
            assert isinstance(value, str)
            assert value in schema.get("enum", [value])
            assert schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        case "integer":
            assert type(value) is int
            assert schema["minimum"] <= value <= schema["maximum"]
        case _:
            assert isinstance(value, (int, float))
            assert schema.get("minimum", value) <= value <= schema.get("maximum", value)


@pytest.mark.parametrize("raw", [None, "", "  ", "{}", {}, "null", b"{}"], ids=repr)
def test_no_arguments_are_no_arguments_in_every_form(raw: object) -> None:
    checked = validate_arguments("list_traces", raw)

    assert not isinstance(checked, BadArguments)
    assert (checked["limit"], checked["offset"], checked["sample"]) == (20, 0, "newest")
    assert "agent" not in checked


@pytest.mark.parametrize(
    ("given_value", "meant"),
    [("5", 5), (5.0, 5), (" 5 ", 5), ("5.0", 5), (5, 5), (None, 20), ("1e1", 10)],
    ids=repr,
)
def test_a_number_may_be_spelled_in_every_lossless_way(given_value: object, meant: int) -> None:
    checked = validate_arguments("list_traces", {"limit": given_value})

    assert not isinstance(checked, BadArguments)
    assert checked["limit"] == meant


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("nothing", {}, "there is no tool 'nothing'"),
        ("list_trace", {}, "did you mean 'list_traces'"),
        ("list_traces", '{"limit": 3', "not valid JSON"),
        ("list_traces", "[1]", "must be a JSON object, got [1]"),
        ("list_traces", 7, "must be a JSON object, got 7"),
        ("list_traces", {"limits": 3}, "no argument 'limits'; did you mean 'limit'?"),
        ("list_traces", {"limit": 0}, "limit must be an integer from 1 to 100, got 0"),
        ("list_traces", {"limit": 5.5}, "limit must be an integer from 1 to 100, got 5.5"),
        ("list_traces", {"limit": True}, "limit must be an integer from 1 to 100, got True"),
        ("list_traces", {"limit": "many"}, "got 'many'"),
        ("list_traces", {"limit": "1_0"}, "got '1_0'"),
        ("list_traces", '{"min_feedback": NaN}', "min_feedback must be a finite number, got nan"),
        ("list_traces", {"min_feedback": "inf"}, "min_feedback must be a finite number"),
        ("list_traces", {"min_feedback": 10**400}, ""),
        ("list_traces", {"outcome": "bad"}, "one of 'success', 'failure', 'error', 'unknown'"),
        ("get_trace", {}, "trace_id is required: a text of 1 to 300 characters"),
        ("get_trace", {"trace_id": None}, "trace_id is required"),
        ("get_trace", {"trace_id": ["t"]}, "trace_id must be a text"),
        ("get_trace", {"trace_id": True}, "trace_id must be a text"),
        ("run_student_on_tasks", {"task_ids": "task-1"}, "task_ids must be a list of 1 to 100"),
        ("run_student_on_tasks", {"task_ids": []}, "got 0"),
        ("run_student_on_tasks", {"task_ids": ["a", 1.5]}, "task_ids[1] must be a text"),
        ("run_student_on_tasks", {"task_ids": ["a"], "repeats": 21}, "an integer from 1 to 20"),
        (
            "submit_diagnosis",
            {"diagnosis_md": "x", "clusters": [{"description": "d", "skill_gap": "s"}]},
            "clusters[0].sample_trace_ids is required",
        ),
        (
            "submit_diagnosis",
            {
                "diagnosis_md": "x",
                "clusters": [
                    {
                        "description": "d",
                        "skill_gap": "s",
                        "sample_trace_ids": ["t"],
                        "student_failure_rate": 85,
                    }
                ],
            },
            "clusters[0].student_failure_rate must be a finite number from 0 to 1, got 85",
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_is_allowed(name: str, raw: object, says: str) -> None:
    checked = validate_arguments(name, raw)

    if says:
        assert isinstance(checked, BadArguments)
        assert says in checked.message


def test_all_problems_are_said_at_once() -> None:
    checked = validate_arguments("list_traces", {"limit": 0, "outcome": "x", "wrong": 1})

    assert isinstance(checked, BadArguments)
    assert all(word in checked.message for word in ("limit must", "outcome must", "'wrong'"))
    assert "Arguments: limit, offset, sample, agent" in checked.message


def test_a_list_written_as_text_is_a_list_and_no_text_is_split_into_letters() -> None:
    checked = validate_arguments("run_student_on_tasks", {"task_ids": '["a", "b"]'})

    assert not isinstance(checked, BadArguments)
    assert checked["task_ids"] == ["a", "b"]


def test_an_id_that_looks_like_a_number_is_an_id() -> None:
    checked = validate_arguments("get_trace", {"trace_id": 17})

    assert not isinstance(checked, BadArguments)
    assert checked["trace_id"] == "17"


def test_an_outcome_may_be_shouted() -> None:
    checked = validate_arguments("list_traces", {"outcome": " FAILURE"})

    assert not isinstance(checked, BadArguments)
    assert checked["outcome"] == "failure"
