"""Faults and scripts: chosen for the requests that a test names, in the order it gave them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.unit.embedded.sim_world import request, tool
from worker.embedded.teacher.api_error import ApiError
from worker.embedded.teacher.faults import Fault, FaultList, Faults
from worker.embedded.teacher.reply import Reply
from worker.embedded.teacher.script import Script, ScriptBody
from worker.embedded.teacher.wire import Text, ToolUse, read_shape


def faults(*descriptions: dict[str, Any]) -> Faults:
    queue = Faults()
    queue.add(*read_shape(FaultList, {"faults": list(descriptions)}).faults)
    return queue


def name(fault: Fault | None) -> str | None:
    return fault.fault if fault else None


def test_each_fault_is_played_once_in_order() -> None:
    queue = faults({"fault": "reset"}, {"fault": "empty_content"})

    assert [name(queue.take("solver", "m")) for _ in range(3)] == ["reset", "empty_content", None]
    assert queue.waiting() == ()


def test_a_fault_waits_for_the_kind_and_model_it_names() -> None:
    queue = faults({"fault": "reset", "match": {"kind": "judge", "model": "m"}})

    assert name(queue.take("solver", "m")) is None
    assert name(queue.take("judge", "n")) is None
    assert name(queue.take("judge", "m")) == "reset"


def test_the_nth_request_is_counted_among_those_that_fit() -> None:
    queue = faults({"fault": "reset", "match": {"kind": "judge", "nth": 2}})

    kinds = ["judge", "solver", "judge", "judge"]
    assert [name(queue.take(kind, "m")) for kind in kinds] == [None, None, "reset", None]


def test_a_fault_is_played_as_often_as_it_says() -> None:
    thrice = faults({"fault": "reset", "times": 3})
    always = faults({"fault": "reset", "times": None})

    assert [name(thrice.take("judge", "m")) for _ in range(4)] == ["reset"] * 3 + [None]
    assert [name(always.take("judge", "m")) for _ in range(9)] == ["reset"] * 9


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"fault": "explode"}, "Input tag 'explode'"),
        ({"fault": "status"}, "faults.0.status.status: Field required"),
        ({"fault": "status", "status": 200}, "greater than or equal to 400"),
        ({"fault": "stall", "ms": -1}, "greater than or equal to 0"),
        ({"fault": "reset", "match": {"nth": 0}}, "greater than or equal to 1"),
        ({"fault": "reset", "mach": {}}, "faults.0.reset.mach: Extra inputs"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(description: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError, match=re.escape(said)):
        faults(description)


def script(*replies: dict[str, Any], **fields: Any) -> Script:
    played = Script()
    played.play(read_shape(ScriptBody, {"replies": list(replies), **fields}))
    return played


def test_a_script_is_given_in_order_and_fills_in_what_a_test_need_not_write() -> None:
    asked = request("go", tools=[tool("look")])
    played = script(
        {
            "blocks": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "tool_use", "name": "look", "input": {}},
                {"type": "tool_use", "name": "look", "input": {"at": 1}},
            ]
        },
        {"blocks": [{"type": "text", "text": "done"}], "stop_reason": "pause_turn"},
    )

    first, second = played.take(asked, "explorer"), played.take(asked, "explorer")

    assert first is not None
    calls = [block for block in first.blocks if isinstance(block, ToolUse)]
    assert first.stop_reason == "tool_use"
    assert len({call.id for call in calls}) == len(calls) == 2
    assert second == Reply((Text(text="done"),), "pause_turn")


def test_a_script_that_runs_out_is_an_error_that_is_counted() -> None:
    played = script({"blocks": [{"type": "text", "text": "only"}]})
    played.take(request("go"), "solver")

    with pytest.raises(ApiError, match="The script ran out") as caught:
        played.take(request("go"), "solver")

    assert (caught.value.status, played.overruns, played.left) == (500, 1, 0)


def test_a_script_for_one_kind_leaves_the_others_to_the_brain() -> None:
    played = script({"blocks": [{"type": "text", "text": "ok"}]}, kind="judge")

    assert played.take(request("go"), "solver") is None
    assert played.take(request("go"), "judge") is not None


def test_no_script_is_no_overrun() -> None:
    assert Script().take(request("go"), "solver") is None


@pytest.mark.parametrize(
    "reply", [{"blocks": [{"type": "text"}]}, {"blocks": [{"type": "tool_use", "name": "x"}]}]
)
def test_a_script_with_a_block_no_model_can_say_is_refused(reply: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match=r"replies\.0\.blocks"):
        script(reply)
