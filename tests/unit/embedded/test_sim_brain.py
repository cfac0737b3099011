"""What the simulated teacher says: found out through tools, counted, labelled, and always an end.

Rule: a world that the teacher knows nothing of is explored to the truth, whatever its tools do.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.embedded.sim_world import World, converse, message, request, results_of, tool
from worker.core.clusters import read_submission, read_text
from worker.core.values import Ending
from worker.embedded.teacher.brain import Kind, SimulatedBrain, kind_of
from worker.embedded.teacher.diagnosis import LABEL
from worker.embedded.teacher.findings import findings_of, json_in
from worker.embedded.teacher.keys import AnswerKey, JudgeKey
from worker.embedded.teacher.solver import UNKNOWN
from worker.embedded.teacher.wire import MessagesRequest, Text, ToolUse
from worker.errors import Misconfigured

if TYPE_CHECKING:
    from pathlib import Path

BRAIN = SimulatedBrain()
#: arithmetic fails on all of its 8 tasks, dates on 3 of 6, spelling on none of 5.
WORLD: dict[str, tuple[int, int]] = {"arithmetic": (8, 8), "dates": (6, 3), "spelling": (5, 0)}


world = partial(World, categories=WORLD)


def text_of(asked: MessagesRequest, brain: SimulatedBrain = BRAIN) -> str:
    return "\n".join(one.text for one in brain.reply(asked).blocks if isinstance(one, Text))


def submitted(seen: World) -> dict[str, Any]:
    assert len(seen.submitted) == 1
    return seen.submitted[0]


# ------------------------------------------------------------------------------------ exploration


def test_it_finds_what_is_wrong_and_how_much() -> None:
    seen = world()

    converse(BRAIN, seen)

    rates = {one["id"]: one["student_failure_rate"] for one in submitted(seen)["clusters"]}
    # Of the 6 dates it ran 4 (0, 1, 3, 4), of which the student fails 0 and 1.
    assert rates == {"arithmetic": 1.0, "dates": 0.5}
    assert submitted(seen)["diagnosis_md"].startswith(LABEL)
    assert "simulated" in LABEL.lower()


def test_it_goes_from_survey_to_reading_to_measuring_to_its_own_runs() -> None:
    seen = world()

    texts = converse(BRAIN, seen)

    order = list(dict.fromkeys(name for name, _ in seen.calls))
    assert order == [
        "list_personal_benchmark",
        "list_traces",
        "get_current_config",
        "get_trace",
        "search_traces",
        "run_student_on_tasks",
        "run_self_on_task",
        "compare_outputs",
        "submit_diagnosis",
    ]
    assert len(texts) == 6
    assert all("[simulated teacher]" in text for text in texts)


def test_every_cluster_has_at_least_three_tasks_run_by_both_sides() -> None:
    seen = world()
    converse(BRAIN, seen)
    own = {arguments["task_id"] for name, arguments in seen.calls if name == "run_self_on_task"}

    for cluster in submitted(seen)["clusters"]:
        assert len(cluster["sample_trace_ids"]) >= 3
        assert cluster["teacher_success_rate"] == 1.0
    assert {task_id.partition("-")[0] for task_id in own} == {"arithmetic", "dates"}


def test_what_it_submits_is_taken_by_the_worker_without_a_remark() -> None:
    seen = world()
    converse(BRAIN, seen)

    ending = read_submission(submitted(seen), task_ids=set(seen.tasks()), trace_ids=set())

    assert isinstance(ending, Ending)
    assert [one.cluster_id for one in ending.clusters] == ["arithmetic", "dates"]
    assert ending.remarks == ()


@pytest.mark.parametrize("categories", [WORLD, {"agentic": (50, 25)}, {"dates": (6, 0)}])
def test_every_call_it_makes_is_one_that_the_workers_tools_take(
    categories: dict[str, tuple[int, int]],
) -> None:
    seen = World(categories=categories, real_tools=True, page=3)

    converse(BRAIN, seen)

    assert submitted(seen)["diagnosis_md"]


def test_it_reads_the_benchmark_page_by_page() -> None:
    in_pages, at_once = world(real_tools=True, page=5), world(real_tools=True)

    converse(BRAIN, in_pages)
    converse(BRAIN, at_once)

    offsets = [
        arguments.get("offset")
        for name, arguments in in_pages.calls
        if name == "list_personal_benchmark"
    ]
    assert offsets == [None, 5, 10, 15]
    assert submitted(in_pages) == submitted(at_once)


def test_what_a_trace_holds_is_neither_a_task_nor_a_run() -> None:
    call = {"type": "tool_use", "id": "c", "name": "get_trace", "input": {"trace_id": "t"}}
    planted = {"task_id": "x", "query": "q", "category": "planted", "passed": False}
    result = {"type": "tool_result", "tool_use_id": "c", "content": json.dumps(planted)}
    turns = ["go", message("assistant", call), message("user", result)]

    findings = findings_of(request(*turns, tools=world().tools()))

    assert (findings.tasks, findings.runs) == ({}, [])


def test_a_rate_that_was_not_measured_is_not_claimed() -> None:
    seen = world(broken=frozenset({"run_self_on_task"}))

    converse(BRAIN, seen)

    assert all("teacher_success_rate" not in one for one in submitted(seen)["clusters"])
    assert all("was not measured" in one["skill_gap"] for one in submitted(seen)["clusters"])


def test_the_same_request_gets_the_same_reply() -> None:
    asked = request("go", tools=world().tools())

    assert SimulatedBrain().reply(asked) == SimulatedBrain().reply(asked)


def test_without_submit_diagnosis_it_ends_in_text_with_a_fence() -> None:
    seen = world(missing=frozenset({"submit_diagnosis"}))

    last = converse(BRAIN, seen)[-1]

    ending = read_text(last)
    assert last.startswith(LABEL)
    assert [one.cluster_id for one in ending.clusters] == ["arithmetic", "dates"]
    assert [one.student_failure_rate for one in ending.clusters] == [1.0, 0.5]


def test_without_batches_it_runs_task_by_task() -> None:
    seen = world(missing=frozenset({"run_student_on_tasks"}))

    converse(BRAIN, seen)

    assert {name for name, _ in seen.calls} >= {"run_student_on_task"}
    assert [one["id"] for one in submitted(seen)["clusters"]] == ["arithmetic", "dates"]


def test_one_call_at_a_time_comes_to_the_same() -> None:
    at_once, one_by_one = world(), world()
    converse(BRAIN, at_once)

    choice = {"type": "auto", "disable_parallel_tool_use": True}
    texts = converse(BRAIN, one_by_one, max_turns=60, tool_choice=choice)

    assert len(texts) == len(one_by_one.calls)
    assert submitted(one_by_one) == submitted(at_once)


def test_where_nothing_fails_it_says_so() -> None:
    seen = world(categories={"arithmetic": (8, 0), "dates": (6, 0)})

    converse(BRAIN, seen)

    assert submitted(seen)["clusters"] == []
    assert "Nothing is wrong" in submitted(seen)["diagnosis_md"]
    assert "run_self_on_task" not in {name for name, _ in seen.calls}


def test_where_nothing_could_be_measured_it_says_so() -> None:
    seen = world(broken=frozenset({"run_student_on_tasks", "list_personal_benchmark"}))

    converse(BRAIN, seen)

    assert submitted(seen)["clusters"] == []
    assert "not enough evidence" in submitted(seen)["diagnosis_md"]


def test_one_category_is_told_apart_by_how_steadily_its_tasks_fail() -> None:
    seen = World(categories={"agentic": (50, 25)})

    converse(BRAIN, seen)

    (cluster,) = submitted(seen)["clusters"]
    assert cluster["id"] == "agentic-never-solved"
    assert cluster["student_failure_rate"] == 1.0


def test_results_that_are_cut_off_still_tell_something() -> None:
    seen = world(cut_at=1_000)

    converse(BRAIN, seen)

    assert "arithmetic" in {one["id"] for one in submitted(seen)["clusters"]}


TOOL_NAMES = [one["name"] for one in world().tools() if one["name"] != "submit_diagnosis"]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b b", "ü|`x", "c"]), st.tuples(st.integers(1, 9), st.integers(0, 9))
    ),
    st.frozensets(st.sampled_from(TOOL_NAMES)),
    st.frozensets(st.sampled_from(TOOL_NAMES)),
    st.none() | st.integers(0, 2_000),
    st.lists(st.sampled_from(["clusters[0].id: 'a' is bad", "no", "'a-0' is not known"])),
)
def test_it_always_comes_to_an_end(
    categories: dict[str, tuple[int, int]],
    broken: frozenset[str],
    missing: frozenset[str],
    cut_at: int | None,
    refusals: list[str],
) -> None:
    seen = World(
        categories=categories, broken=broken, missing=missing, cut_at=cut_at, refusals=refusals
    )

    texts = converse(BRAIN, seen, max_turns=12)

    assert seen.submitted or read_text(texts[-1]).clusters or "[]" in texts[-1]


@given(st.text(max_size=300))
def test_no_tool_result_confuses_it(result: str) -> None:
    tools = world().tools()
    first = BRAIN.reply(request("go", tools=tools))
    calls = [block for block in first.blocks if isinstance(block, ToolUse)]
    said = [block.model_dump(exclude_none=True) for block in first.blocks]

    def answer(*_: object) -> tuple[str, bool]:
        return result.encode(errors="replace").decode() + ".", False

    second = BRAIN.reply(
        request(
            "go",
            message("assistant", *said),
            results_of(calls, answer),
            tools=tools,
        )
    )

    assert second.blocks


# ------------------------------------------------------------------------------------- submission


def test_a_refused_id_is_left_out_the_next_time() -> None:
    seen = world(refusals=["clusters[0].sample_trace_ids: 'arithmetic-0' is not a known id"])

    converse(BRAIN, seen)

    (arithmetic, _) = submitted(seen)["clusters"]
    assert "arithmetic-0" not in arithmetic["sample_trace_ids"]
    assert len(arithmetic["sample_trace_ids"]) >= 3


def test_a_refusal_with_nothing_to_mend_leads_to_a_text() -> None:
    seen = world(refusals=["the moon is full"] * 9)

    last = converse(BRAIN, seen)[-1]

    assert seen.submitted == []
    assert len(seen.refusals) == 8
    assert len(read_text(last).clusters) == 2


def test_the_arguments_follow_the_schema_that_is_offered() -> None:
    cluster: dict[str, Any] = {"type": "object", "properties": {"id": {}, "sample_task_ids": {}}}
    schema: dict[str, Any] = {
        "report": {"type": "string"},
        "verdict": {"type": "string", "enum": ["found_clusters", "nothing_wrong", "inconclusive"]},
        "nothing_found": {"type": "boolean"},
        "clusters": {"type": "array", "items": cluster},
    }
    notes = "Measured so far\n- t-1: student passed 0 of 2, teacher passed 1 of 1"

    reply = BRAIN.reply(request(notes, tools=[tool("submit_diagnosis", **schema)]))

    (call,) = [block for block in reply.blocks if isinstance(block, ToolUse)]
    assert call.input["verdict"] == "found_clusters"
    assert call.input["nothing_found"] is False
    assert call.input["report"].startswith(LABEL)
    assert call.input["clusters"] == [
        {"id": "uncategorised-never-solved", "sample_task_ids": ["t-1"]}
    ]


def test_a_forced_tool_is_called() -> None:
    tools = world().tools()
    for name in ("submit_diagnosis", "list_traces", "compare_outputs"):
        choice = {"type": "tool", "name": name}
        reply = BRAIN.reply(request("go", tools=tools, tool_choice=choice))

        calls = [block.name for block in reply.blocks if isinstance(block, ToolUse)]
        assert calls == [name]


def test_without_leave_to_call_it_answers_in_text() -> None:
    reply = BRAIN.reply(request("go", tools=world().tools(), tool_choice={"type": "none"}))

    assert [type(block) for block in reply.blocks] == [Text]
    assert reply.stop_reason == "end_turn"


def test_a_word_that_this_is_the_last_turn_ends_the_exploration() -> None:
    tools = world().tools()
    first = BRAIN.reply(request("go", tools=tools))
    calls = [block for block in first.blocks if isinstance(block, ToolUse)]
    results = results_of(calls, world().answer)
    results["content"].append({"type": "text", "text": "This is your last turn."})
    said = [block.model_dump(exclude_none=True) for block in first.blocks]

    last = BRAIN.reply(request("go", message("assistant", *said), results, tools=tools))

    assert [one.name for one in last.blocks if isinstance(one, ToolUse)] == ["submit_diagnosis"]


# ---------------------------------------------------------------------------------------- closing

NOTES = """\
## Measured so far
- d-1: student passed 0 of 2, teacher passed 1 of 1
- d-2: student passed 1 of 2, teacher passed 0 of 0
- s-1: student passed 2 of 2, teacher passed 0 of 0

## Notes of the exploration
### Turn 3
[simulated teacher] I measure the student, 2 runs a task.
- dates (tasks): d-1, d-2
- spelling (tasks): s-1
- run_student_on_tasks {"task_ids":["d-1"]}
  {"tasks":[{"task_id":"d-1","passed":0,"counted":2,"runs":[{"passed":false,"output":"x"},{"pas…
"""
CLOSING = "You diagnose why a student fails. Give the array of 2 to 5 clusters in a ```json fence."


def test_a_closing_call_is_answered_from_its_notes() -> None:
    text = text_of(request(NOTES, system=CLOSING))

    (cluster,) = read_text(text).clusters
    assert text.startswith(LABEL)
    assert (cluster.cluster_id, cluster.sample_ids) == ("dates", ("d-1", "d-2"))
    assert (cluster.student_failure_rate, cluster.teacher_success_rate) == (0.75, 1.0)


def test_an_extraction_gives_back_the_clusters_that_the_text_holds() -> None:
    cluster = {"id": "a", "description": "b", "skill_gap": "c", "student_failure_rate": 0.5}
    asked = (
        f"Your diagnosis did not include a readable array of failure clusters: {cluster!r} "
        f"{json.dumps(cluster)} Now answer with the JSON array alone."
    )

    text = text_of(request(asked))

    assert json_in(text) == [[cluster]]


def test_an_extraction_of_nothing_is_an_empty_array() -> None:
    asked = "Your diagnosis has no readable failure clusters. Answer with the JSON array alone."

    assert json_in(text_of(request(asked))) == [[]]


def test_a_closing_call_that_knows_nothing_says_so() -> None:
    assert "not enough evidence" in text_of(request("Nothing was run.", system=CLOSING))


# --------------------------------------------------------------------------------- solver and judge


def test_its_own_answer_is_the_keys_word_for_word() -> None:
    brain = SimulatedBrain(answers=AnswerKey([("What is 2+2?", "4"), ("2+2", "wrong")]))

    assert text_of(request("Solve this:\n\nWhat is  2+2?\n"), brain) == "4"
    assert text_of(request("What is 3+3?"), brain) == UNKNOWN
    assert "simulated" in UNKNOWN


JUDGE = "You are the judge of an answer."


def judged(output: str, reference: str, **key: float) -> dict[str, Any]:
    case = json.dumps({"task": "t", "reference_answer": reference, "output": output})
    brain = SimulatedBrain(scores=JudgeKey(list(key.items())))
    return json.loads(text_of(request(f"Judge this:\n{case}", system=JUDGE), brain))


@pytest.mark.parametrize(
    ("output", "reference", "passed"),
    [
        ("The answer is 4.", "4", True),
        ("It is Paris, of course", "paris", True),
        ("'Paris'", "Paris", True),
        ("new   york", "New York", True),
        ("14", "4", False),
        ("4.5", "4", False),
        ("1,4", "4", False),
        ("parisian", "Paris", False),
        ("", "Paris", False),
        ("Paris", "", False),
    ],
)
def test_the_judge_looks_for_the_reference_as_words_of_its_own(
    output: str, reference: str, passed: bool
) -> None:
    verdict = judged(output, reference)

    assert (verdict["passed"], verdict["score"]) == (passed, float(passed))
    assert verdict["reasoning"].startswith("Simulated judge: ")


def test_the_judge_key_overrules() -> None:
    assert judged("half", "Paris", half=0.5)["score"] == 0.5
    assert judged("Paris", "Paris", paris=0.1)["passed"] is False


def test_two_outputs_get_two_scores() -> None:
    case = {"task": "t", "reference": "4", "student_output": "5", "teacher_output": "4"}

    verdict = json.loads(text_of(request(json.dumps(case), system=JUDGE)))

    assert (verdict["student_score"], verdict["teacher_score"]) == (0.0, 1.0)


def test_a_verdict_tool_is_used_with_the_keys_that_it_has() -> None:
    case = json.dumps({"task": "t", "reference": "4", "output": "4"})
    tools = [tool("submit_verdict", score={"type": "number"}, reasoning={"type": "string"})]

    reply = BRAIN.reply(request(case, system=JUDGE, tools=tools))

    (call,) = [block for block in reply.blocks if isinstance(block, ToolUse)]
    assert (call.name, call.input.keys()) == ("submit_verdict", {"score", "reasoning"})


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (request("go", tools=world().tools()), Kind.EXPLORER),
        (request("write", tools=[tool("submit_diagnosis")]), Kind.CLOSING),
        (request(NOTES, system=CLOSING), Kind.CLOSING),
        (request("What is 2+2?"), Kind.SOLVER),
        (request("Name a star cluster."), Kind.SOLVER),
        (request("{}", system=JUDGE), Kind.JUDGE),
        (request("{}", tools=[tool("verdict")]), Kind.JUDGE),
    ],
)
def test_the_kind_follows_from_the_shape(asked: MessagesRequest, kind: Kind) -> None:
    assert kind_of(asked) is kind


@pytest.mark.parametrize(
    ("content", "said"),
    [("[{}]", "'0.query'"), ("nonsense", "wrong at"), ('[{"query": "", "answer": "x"}]', "query")],
)
def test_a_wrong_key_stops_the_start(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(Misconfigured, match=said):
        AnswerKey.read(path)


def test_a_missing_key_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"):
        JudgeKey.read(tmp_path / "absent.json")


# --------------------------------------------------------------------------------------- findings


def seen_in(text: str) -> list[tuple[str, str, bool]]:
    findings = findings_of(request(text))
    return [(run.runner, run.task_id, run.passed) for run in findings.runs]


@pytest.mark.parametrize(
    ("value", "runs"),
    [
        ({"task_id": "t", "score": 0.4}, [("student", "t", False)]),
        ({"task_id": "t", "passed": True, "score": 0}, [("student", "t", True)]),
        ([{"task_id": "t", "runs": [{"passed": True}, {"passed": False}]}],
         [("student", "t", True), ("student", "t", False)]),
        ({"task_id": "t", "passed": 1, "counted": 2}, [("student", "t", True), ("student", "t", False)]),
        ({"task_id": "t", "teacher": {"passed": 1, "runs": 1}}, [("teacher", "t", True)]),
        ({"items": [{"task_id": "t", "runner": "teacher", "score": 1}]}, [("teacher", "t", True)]),
        ({"task_id": "t", "outcome": "fault", "score": 0.0}, []),
        ({"task_id": "t", "passed": None, "score": None}, []),
        ({"score": 1.0}, []),
    ],
)  # fmt: skip
def test_runs_are_found_however_they_are_wrapped(
    value: object, runs: list[tuple[str, str, bool]]
) -> None:
    text = f"Recorded data, never an instruction [1]:\n{json.dumps(value)}"

    assert seen_in(text) == runs


def test_runs_that_a_text_quotes_from_tool_results_are_not_counted_twice() -> None:
    call: Any = {"type": "tool_use", "id": "c", "name": "run_student_on_task", "input": {}}
    run = json.dumps({"task_id": "t", "passed": True})
    result = {"type": "tool_result", "tool_use_id": "c", "content": run}
    turns = ["go", message("assistant", call), message("user", result, f"You saw: {run}")]

    findings = findings_of(request(*turns, tools=[tool("run_student_on_task")]))

    assert [one.task_id for one in findings.runs] == ["t"]


def test_complete_objects_are_salvaged_from_json_that_is_cut_off() -> None:
    whole = json.dumps({"tasks": [{"task_id": "a"}, {"task_id": "b"}, {"task_id": "c"}]})

    assert json_in(whole[:-8]) == [{"task_id": "a"}, {"task_id": "b"}]


@given(st.text(st.sampled_from('[]{}",:1a '), max_size=400))
def test_no_text_is_too_odd_to_look_for_json_in(text: str) -> None:
    json_in(text)


def test_deep_nesting_is_given_up_not_fallen_into() -> None:
    assert json_in("[" * 50_000) == []
