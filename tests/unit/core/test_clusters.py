"""What a teacher wrote is read, or sent back with what to mend.

Rule: reading never raises, stays within its bounds, and gives the same again for what it gave.
"""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.told import cluster
from worker.core.clusters import (
    MAX_CLUSTERS,
    MAX_DESCRIPTION_CHARS,
    MAX_ID_CHARS,
    MAX_SAMPLE_IDS,
    MAX_SKILL_GAP_CHARS,
    MAX_TEXT_CHARS,
    Refused,
    read_submission,
    read_text,
    render,
)
from worker.core.values import ClaimedCluster, Ending, Text

TASKS = ("task-1", "task-2", "task-3")
TRACES = ("tr-1", "tr-2")
A = {
    "id": "dates",
    "description": "Counts every month as 30 days.",
    "sample_trace_ids": ["task-1", "task-2", "tr-1"],
    "student_failure_rate": 0.85,
    "teacher_success_rate": 1.0,
    "skill_gap": "calendars",
}
B = {"id": "tone", "description": "Is rude.", "sample_trace_ids": ["task-3"]}


def fenced(value: object, info: str = "json") -> str:
    return f"# Diagnosis\n\nIt fails.\n\n```{info}\n{json.dumps(value, indent=1)}\n```\n"


def names(ending: Ending) -> list[str]:
    return [one.cluster_id for one in ending.clusters]


def one(value: dict[str, Any]) -> ClaimedCluster:
    (read,) = read_text(fenced([value])).clusters
    return read


def submit(*clusters: Any, text: str = "What I found.", **more: Any) -> Ending | Refused:
    arguments = {"diagnosis_md": text, "clusters": list(clusters)} | more
    return read_submission(arguments, task_ids=TASKS, trace_ids=TRACES)


def problems(*clusters: Any, **more: Any) -> tuple[str, ...]:
    refused = submit(*clusters, **more)
    assert isinstance(refused, Refused)
    return refused.problems


# ------------------------------------------------------------------------------------------- laws

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
#: Something like a cluster: the right keys, each with the right thing or with anything.
CLUSTERISH = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "a", "a-2", "b", " a ", ""]) | st.text(max_size=250) | JSON,
        "description": st.text(max_size=20) | JSON,
        "sample_trace_ids": st.lists(st.text(max_size=9), max_size=5) | st.text() | JSON,
        "student_failure_rate": st.floats() | st.integers(-1, 300) | st.text(max_size=5) | JSON,
        "teacher_success_rate": st.floats(0, 1) | JSON,
        "skill_gap": st.text(max_size=20) | JSON,
    },
)
LISTS = st.lists(CLUSTERISH | JSON, max_size=6)
#: Prose with everything in it that a search for JSON trips over.
PIECES = st.sampled_from(
    [
        "```json\n",
        "```",
        "~~~",
        "[",
        "]",
        "{",
        "}",
        '"',
        "\\",
        ",",
        " ",
        "\n",
        "[]",
        "[{",
        "}]",
        "x",
    ]
)
TEXTS = st.one_of(
    st.text(),
    st.lists(PIECES, max_size=30).map("".join),
    LISTS.map(fenced),
    LISTS.map(json.dumps),
    st.tuples(LISTS.map(fenced), st.integers(0, 400)).map(lambda cut: cut[0][: cut[1]]),
    st.lists(st.one_of(LISTS.map(json.dumps), PIECES), max_size=5).map("\n".join),
)


@given(TEXTS)
def test_any_text_is_read_within_bounds(text: str) -> None:
    ending = read_text(text)

    assert ending.diagnosis == Text(text=text)
    assert_within_bounds(ending)
    assert not (ending.nothing_found and ending.clusters)


@given(TEXTS)
def test_what_was_read_is_read_the_same_again(text: str) -> None:
    clusters = read_text(text).clusters

    again = read_text(f"The clusters:\n```json\n{render(clusters)}\n```")

    assert again.clusters == clusters
    assert again.nothing_found == (not clusters)
    assert again.remarks == tuple(remark for remark in again.remarks if "no sample ids" in remark)


@given(st.dictionaries(st.sampled_from(["diagnosis_md", "clusters", "x"]), JSON | LISTS | TEXTS))
def test_any_submission_is_taken_or_refused_with_a_reason(arguments: dict[str, Any]) -> None:
    read = read_submission(arguments, task_ids=TASKS, trace_ids=TRACES)

    match read:
        case Ending():
            assert_within_bounds(read)
            assert {*TASKS, *TRACES}.issuperset(i for c in read.clusters for i in c.sample_ids)
        case Refused():
            assert read.problems
            assert all(problem.encode() for problem in read.problems)


def assert_within_bounds(ending: Ending) -> None:
    ids = names(ending)
    assert len(ids) <= MAX_CLUSTERS
    assert len(set(ids)) == len(ids)
    assert all(0 < len(name) <= MAX_ID_CHARS for name in ids)
    for read in ending.clusters:
        assert 0 < len(read.description) <= MAX_DESCRIPTION_CHARS
        assert len(read.skill_gap) <= MAX_SKILL_GAP_CHARS
        assert len(set(read.sample_ids)) == len(read.sample_ids) <= MAX_SAMPLE_IDS
        for rate in (read.student_failure_rate, read.teacher_success_rate):
            assert rate is None or 0 <= rate <= 1
    assert all(remark.encode() for remark in ending.remarks)
    render(ending.clusters).encode()


# ----------------------------------------------------------------------------------- where it stands


def test_the_reference_s_format_is_read() -> None:
    ending = read_text(fenced([A, B]))

    assert ending == Ending(
        diagnosis=Text(text=fenced([A, B])),
        clusters=(
            cluster(
                "dates",
                "task-1",
                "task-2",
                "tr-1",
                description="Counts every month as 30 days.",
                skill_gap="calendars",
                student_failure_rate=0.85,
                teacher_success_rate=1.0,
            ),
            cluster("tone", "task-3", description="Is rude."),
        ),
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(fenced({"config": 1}) + fenced([A]), id="not the first fence"),
        pytest.param(fenced([A]) + fenced({"config": 1}), id="not the last fence"),
        pytest.param(fenced([B]) + "Better:\n" + fenced([A]), id="the last array wins"),
        pytest.param(fenced([A]) + "No edits yet:\n" + fenced([]), id="an empty array loses"),
        pytest.param(fenced([A]) + f"An aside: {json.dumps([B])}", id="a fence wins"),
        pytest.param(fenced([A], info=""), id="fence without a word"),
        pytest.param(fenced([A], info=" JSON"), id="fence in capitals"),
        pytest.param(fenced([A]).replace("```", "~~~"), id="fence of tildes"),
        pytest.param(fenced([A]).replace("\n", " "), id="fence in one line"),
        pytest.param(fenced([A]).replace("```json\n", "```json\nclusters = "), id="assigned"),
        pytest.param(fenced({"clusters": [A]}), id="object with clusters"),
        pytest.param(f'They are {{"clusters": {json.dumps([A])}}}.', id="object without a fence"),
        pytest.param(f"They are {json.dumps([A])} [1].", id="array without a fence"),
        pytest.param(json.dumps([A]), id="array alone"),
        pytest.param(fenced([A]).rstrip().rstrip("`"), id="the closing fence is missing"),
        pytest.param(fenced([A, B])[:-30], id="cut off in the second cluster"),
        pytest.param(f'{json.dumps([A])[:-1]}, {{"id": "b", "descr', id="cut off, no fence"),
        pytest.param(fenced([A])[:-6], id="cut off before the bracket"),
        pytest.param(fenced([A]).replace("\n}", ",\n}"), id="comma before }"),
        pytest.param(fenced([A]).replace("}\n]", "},\n]"), id="comma before ]"),
        pytest.param(
            fenced([A]).replace("Counts", "Counts\\n```json\\n[]"), id="fence in a string"
        ),
        pytest.param(fenced([A]).replace("Counts", "\nCounts"), id="line break in a string"),
        pytest.param(json.dumps([A | {"parts": [B]}]) + ".", id="clusters inside of a cluster"),
        pytest.param(
            "They are "
            + json.dumps([A | {"x": "many", "parts": [B]}]).replace(
                '"many"', "[[1,]" + ",[1,]" * 99 + "]"
            ),
            id="the same after many commas",
        ),
        pytest.param(fenced(["see below", A, 7]), id="other things in the array"),
        pytest.param("[1] See [the notes](x).\n" + fenced([A]), id="brackets in prose"),
    ],
)
def test_the_clusters_are_found(text: str) -> None:
    ending = read_text(text)

    assert names(ending) == ["dates"]
    assert ending.clusters[0].sample_ids == ("task-1", "task-2", "tr-1")


@pytest.mark.parametrize(
    ("text", "nothing_found"),
    [
        (fenced([]), True),
        (fenced({"clusters": []}), True),
        ("[]", True),
        ("Nothing is wrong.\n```json\n[]", True),
        ("Nothing is wrong.", False),
        ("", False),
        ("The list is [].", False),
        ("```\ncode\n```\n\n[ ] look again", False),
        (fenced([1, 2]), False),
        (fenced([{"task_id": "t", "query": "q", "category": "c"}]), False),
        ("```json\n[,]\n```", False),
        ("```json\nnull\n```", False),
        ("[" * 100_000, False),
        ('[{"a":' * 100_000, False),
    ],
)
def test_only_an_empty_array_says_that_nothing_is_wrong(
    text: str,
    nothing_found: bool,
) -> None:
    ending = read_text(text)

    assert ending.nothing_found is nothing_found
    assert ending.clusters == ()
    assert bool(ending.remarks) is not nothing_found


def test_a_list_that_breaks_off_is_said_to() -> None:
    ending = read_text(fenced([A, B])[:-30])

    assert ending.remarks == ("the list breaks off: only what is complete was read, 1 in number",)


def test_a_list_that_is_broken_in_its_middle_is_not_half_read() -> None:
    text = fenced([A, B]).replace('"Is rude."', '"Is "rude"."')

    assert read_text(text).clusters == ()


def test_a_comma_in_a_string_is_not_a_trailing_one() -> None:
    text = fenced([A | {"description": "Ends lists with ,] and ,}"}]).replace("\n}", ",\n}")

    assert read_text(text).clusters[0].description == "Ends lists with ,] and ,}"


# -------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize(
    ("said", "rate"),
    [
        (0, 0.0),
        (-0.0, 0.0),
        (0.4, 0.4),
        (1, 1.0),
        (1.0, 1.0),
        (85, 0.85),
        (100, 1.0),
        (250, 1.0),
        (1e300, 1.0),
        ("85%", 0.85),
        ("85 %", 0.85),
        ("0.5%", 0.005),
        ("85", 0.85),
        ("0.85", 0.85),
        (-0.1, None),
        ("-5%", None),
        (None, None),
        ("high", None),
        ("3 of 4", None),
        (True, None),
        ([0.5], None),
        (float("nan"), None),
        (float("inf"), None),
        pytest.param(10**400, None, id="too many digits"),
    ],
    ids=repr,
)
def test_rates_are_read_as_what_they_are(said: object, rate: float | None) -> None:
    read = one(A | {"student_failure_rate": said})

    assert repr(read.student_failure_rate) == repr(rate)
    assert read.cluster_id == "dates"


@pytest.mark.parametrize(
    ("said", "remark"),
    [
        (85, "cluster 'dates': its student_failure_rate: 85 was read as 0.85"),
        (250, "cluster 'dates': its student_failure_rate: 250 was taken as 1.0"),
        (-1, "cluster 'dates': its student_failure_rate: -1 is below 0"),
        (float("nan"), "cluster 'dates': its student_failure_rate: nan is not a rate"),
    ],
)
def test_what_is_done_to_a_rate_is_said(said: object, remark: str) -> None:
    assert read_text(fenced([A | {"student_failure_rate": said}])).remarks == (remark,)


# ---------------------------------------------------------------------------------------- ids, words


@pytest.mark.parametrize(
    ("said", "ids"),
    [
        ("task-1", ("task-1",)),
        ("task-1, task-2", ("task-1", "task-2")),
        ("task-1 task-2\ntask-1;", ("task-1", "task-2")),
        ('["task-1", "task-2"]', ("task-1", "task-2")),
        (["task-1", " task-1 ", "", "task-2"], ("task-1", "task-2")),
        ([7, "task-1", None, True, ["x"]], ("7", "task-1")),
        (["x" * 201, "task-1"], ("task-1",)),
        (None, ()),
        ({"task-1": 1}, ()),
        ([], ()),
    ],
)
def test_sample_ids_are_never_letters(said: object, ids: tuple[str, ...]) -> None:
    assert one(A | {"sample_trace_ids": said}).sample_ids == ids


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([None, None], ["cluster-1", "cluster-2"]),
        (["a", "a", "a"], ["a", "a-2", "a-3"]),
        (["a", "a", "a-2"], ["a", "a-3", "a-2"]),
        (["cluster-2", ""], ["cluster-2", "cluster-3"]),
        ([3, " b\n c "], ["3", "b c"]),
        (["x" * 300, "x" * 300], ["x" * 199 + "…", "x" * 192 + "-2"]),
    ],
)
def test_every_cluster_has_a_name_of_its_own(said: list[Any], expected: list[str]) -> None:
    ending = read_text(fenced([A | {"id": name} for name in said]))

    assert names(ending) == expected


def test_a_cluster_without_words_is_kept_and_said_to_be() -> None:
    ending = read_text(fenced([{"sample_trace_ids": ["task-1"]}]))

    assert ending.clusters == (
        cluster("cluster-1", "task-1", description="(no description was given)"),
    )
    assert ending.remarks == (
        "cluster 1 is called 'cluster-1': it has no id",
        "cluster 'cluster-1': it has no description",
    )


def test_huge_lists_are_bounded_and_said_to_be() -> None:
    big = A | {
        "description": "d" * 5_000,
        "skill_gap": "s" * 5_000,
        "sample_trace_ids": [f"t{n}" for n in range(1_500)],
    }
    many = [big | {"id": f"c{n}"} for n in range(25)]

    ending = read_text(fenced(many))

    assert names(ending) == [f"c{n}" for n in range(20)]
    assert ending.clusters[0].description == "d" * 3_999 + "…"
    assert len(ending.clusters[0].sample_ids) == 1_000
    assert ending.remarks[:4] == (
        "of 25 clusters only the first 20 were read",
        "cluster 'c0': its description of 5000 characters was cut to 4000",
        "cluster 'c0': its skill_gap of 5000 characters was cut to 4000",
        "cluster 'c0': of its 1500 sample ids only the first 1000 were read",
    )


def test_of_an_endless_text_the_end_is_read() -> None:
    text = "x" * MAX_TEXT_CHARS + fenced([A])

    ending = read_text(text)

    assert names(ending) == ["dates"]
    assert ending.remarks[0].startswith(f"of {len(text)} characters only the last 1000000")


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param('[{"k":' + '{"a":1,' * 60_000, id="nested"),
        pytest.param("[{\\" * 100_000, id="escapes"),
        pytest.param('[{"k":"' + '\\"' * 200_000, id="open string"),
        pytest.param("```" + " " * 400_000, id="blanks"),
        pytest.param(("[" + " " * 1_000) * 400, id="brackets and blanks"),
        pytest.param('```json\n[{"id":1},' * 20_000, id="fences"),
    ],
)
@pytest.mark.timeout(10)
def test_a_hostile_text_takes_no_time(hostile: str) -> None:
    assert read_text(hostile).nothing_found is False


def test_half_of_a_surrogate_pair_can_be_written() -> None:
    text = '```json\n[{"id": "a\\ud800", "description": "b\\udc00", "sample_trace_ids": ["\\ud800"]}]\n```'

    (read,) = read_text(text).clusters

    assert (read.cluster_id, read.description, read.sample_ids) == ("a?", "b?", ("?",))


# -------------------------------------------------------------------------------------- submissions


def test_a_submission_is_taken_as_it_is() -> None:
    ending = submit(A)

    assert ending == Ending(
        diagnosis=Text(text="What I found."), clusters=read_text(fenced([A])).clusters
    )


def test_a_submission_without_clusters_says_that_nothing_is_wrong() -> None:
    ending = submit()

    assert isinstance(ending, Ending)
    assert ending.nothing_found


def test_clusters_that_came_as_json_text_are_understood() -> None:
    assert submit(clusters=json.dumps([A])) == submit(A)


@pytest.mark.parametrize("name", [None, "", " "])
def test_a_cluster_may_come_without_a_name(name: str | None) -> None:
    ending = submit(A | {"id": name}, B | {"id": name})

    assert isinstance(ending, Ending)
    assert names(ending) == ["cluster-1", "cluster-2"]
    assert ending.remarks == (
        "cluster 1 is called 'cluster-1': it has no id",
        "cluster 2 is called 'cluster-2': it has no id",
    )


def test_a_percentage_is_understood_and_said() -> None:
    ending = submit(A | {"student_failure_rate": 85})

    assert isinstance(ending, Ending)
    assert ending.clusters[0].student_failure_rate == 0.85
    assert ending.remarks == ("cluster 'dates': its student_failure_rate: 85 was read as 0.85",)


@pytest.mark.parametrize(
    ("clusters", "problem"),
    [
        (
            [A, B | {"sample_trace_ids": ["task-1", "x9"]}],
            (
                "clusters[1].sample_trace_ids: 'x9' is not a known task or trace id; known ids look "
                "like 'task-1', 'task-2', 'tr-1'"
            ),
        ),
        (
            [A | {"sample_trace_ids": "task-1"}],
            (
                "clusters[0].sample_trace_ids: it is 'task-1', not a list; give at least 3 task or "
                "trace ids"
            ),
        ),
        (
            [A | {"sample_trace_ids": []}],
            "clusters[0].sample_trace_ids: it is empty; give at least 3 task or trace ids",
        ),
        (
            [A | {"sample_trace_ids": [7]}],
            "clusters[0].sample_trace_ids: 7 is not an id; ids are text",
        ),
        (
            [A | {"student_failure_rate": "high"}],
            (
                "clusters[0].student_failure_rate: 'high' is not a rate; give a number from 0 to 1, "
                "or null"
            ),
        ),
        (
            [A | {"teacher_success_rate": -1}],
            "clusters[0].teacher_success_rate: -1 is below 0; give a number from 0 to 1, or null",
        ),
        (
            [A | {"id": 7}],
            "clusters[0].id: 7 is not a name; give one such as 'date-arithmetic'",
        ),
        (
            [A, A],
            "clusters[1].id: 'dates' is taken by another cluster; give each its own",
        ),
        (
            [A | {"description": " "}],
            "clusters[0].description: ' ' is empty; say what fails, and how",
        ),
        (
            [A | {"skill_gap": 3}],
            "clusters[0].skill_gap: 3 is not text; say what the student lacks",
        ),
        (["dates"], "clusters[0]: 'dates' is not an object"),
        (
            [A | {"id": f"c{n}"} for n in range(21)],
            "clusters: 21 are given; give the 20 that matter most, at most",
        ),
    ],
)
def test_a_problem_names_its_place_and_the_cure(clusters: list[Any], problem: str) -> None:
    assert problems(*clusters) == (problem,)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"clusters": [A]}, "diagnosis_md: None is not a diagnosis"),
        ({"diagnosis_md": "\n", "clusters": [A]}, "diagnosis_md: '\\n' is not a diagnosis"),
        ({"diagnosis_md": "x"}, "clusters: None is not a list"),
        ({"diagnosis_md": "x", "clusters": "none"}, "clusters: 'none' is not a list"),
        ({"diagnosis_md": "x", "clusters": {"a": A}}, "clusters: {'a': {'description'"),
    ],
)
def test_a_submission_needs_both_of_its_parts(arguments: dict[str, Any], problem: str) -> None:
    refused = read_submission(arguments, task_ids=TASKS, trace_ids=TRACES)

    assert isinstance(refused, Refused)
    (said,) = refused.problems
    assert said.startswith(problem)


def test_a_flood_of_problems_is_bounded() -> None:
    ids = [f"made-up-{n}" for n in range(300)]

    assert len(problems(A | {"sample_trace_ids": ids})) == 20


def test_problems_of_one_submission_come_all_at_once() -> None:
    wrong = {"id": [], "description": "", "sample_trace_ids": ["x9"], "skill_gap": 1}

    told = problems(wrong, text="")

    assert [problem.split(":")[0] for problem in told] == [
        "diagnosis_md",
        "clusters[0].id",
        "clusters[0].description",
        "clusters[0].skill_gap",
        "clusters[0].sample_trace_ids",
    ]


def test_an_empty_bundle_says_so() -> None:
    refused = read_submission(
        {"diagnosis_md": "x", "clusters": [A]}, task_ids=(), trace_ids=frozenset()
    )

    assert isinstance(refused, Refused)
    assert "none: the bundle holds neither tasks nor traces" in refused.problems[0]


def test_reading_is_the_same_in_every_order_of_the_bundle() -> None:
    orders = product([TASKS, TASKS[::-1]], [TRACES, TRACES[::-1]])
    arguments = {"diagnosis_md": "x", "clusters": [B | {"sample_trace_ids": ["x9"]}]}

    answers = {
        str(read_submission(arguments, task_ids=tasks, trace_ids=traces))
        for tasks, traces in orders
    }

    assert len(answers) == 1
