"""Counting tokens: exact and additive, whatever the text.

Rule: a count is never above the bytes that were sent, so a ledger's byte bound always holds.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.embedded.sim_world import message, request, tool
from worker.embedded.teacher.prompt import prompt_of
from worker.embedded.teacher.tokens import (
    TOOL_PROMPT_TOKENS,
    compact_json,
    count_block,
    count_text,
)
from worker.embedded.teacher.wire import Text, ToolUse

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
VALUES = st.recursive(st.none() | st.integers() | TEXTS, st.lists, max_leaves=5)


@given(TEXTS)
def test_a_text_has_no_more_tokens_than_bytes_and_about_a_third_of_them(text: str) -> None:
    size_bytes = len(text.encode())

    tokens = count_text(text)

    assert 1 <= tokens <= size_bytes
    assert size_bytes <= tokens * 3 < size_bytes + 3


@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_a_prompt_counts_what_its_blocks_count(texts: list[str]) -> None:
    blocks = [Text(text=text) for text in texts]

    prompt = prompt_of(request(message("user", *texts)))

    assert [block.tokens for block in prompt.blocks] == [count_block(block) for block in blocks]
    assert prompt.total_tokens == sum(map(count_block, blocks)) == prompt.prefix_tokens[-1]


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES))
def test_a_call_counts_at_most_the_bytes_of_its_json(arguments: dict[str, Any]) -> None:
    call = ToolUse(id="toolu_1", name="look", input=arguments)

    assert 1 <= count_block(call) <= len(compact_json(call.model_dump()).encode())


@given(TEXTS, TEXTS)
def test_a_whole_request_counts_at_most_its_bytes_and_the_tool_prompt(one: str, two: str) -> None:
    tools = [tool("look", at={"type": "string", "description": one})]

    whole = request(two, tools=tools, system=one)

    size_bytes = len(compact_json({"tools": tools, "system": one, "messages": two}).encode())
    assert prompt_of(whole).total_tokens <= size_bytes + TOOL_PROMPT_TOKENS


def test_an_appended_message_adds_exactly_its_own_tokens() -> None:
    before = prompt_of(request("hello"))
    after = prompt_of(request("hello", message("assistant", "good day"), "and now?"))

    assert after.blocks[: len(before.blocks)] == before.blocks
    assert after.total_tokens - before.total_tokens == count_text("good day") + count_text(
        "and now?"
    )


def test_a_breakpoint_changes_neither_count_nor_hash() -> None:
    control = {"cache_control": {"type": "ephemeral"}}
    plain = prompt_of(request(message("user", {"type": "text", "text": "hello"})))
    marked = prompt_of(request(message("user", {"type": "text", "text": "hello", **control})))

    assert (marked.digest, marked.total_tokens) == (plain.digest, plain.total_tokens)
    assert (marked.blocks[0].ttl, plain.blocks[0].ttl) == ("5m", None)


def test_a_string_and_its_block_are_the_same_prompt() -> None:
    block = {"role": "user", "content": [{"type": "text", "text": "hello"}]}

    assert prompt_of(request(block)) == prompt_of(request({"role": "user", "content": "hello"}))


def test_another_speaker_of_the_same_words_is_another_prompt() -> None:
    alone = request(message("user", "a", "b", "c"))
    together = request("a", message("assistant", "b"), "c")

    same, other, _ = zip(prompt_of(alone).blocks, prompt_of(together).blocks, strict=True)
    assert same[0] == same[1]
    assert other[0] != other[1]


def test_another_order_of_a_calls_arguments_is_another_prompt() -> None:
    def asked(arguments: dict[str, Any]) -> str:
        call = {"type": "tool_use", "id": "c", "name": "look", "input": arguments}
        result = {"type": "tool_result", "tool_use_id": "c", "content": "x"}
        turns = ["go", message("assistant", call), message("user", result)]
        return prompt_of(request(*turns, tools=[tool("look")])).digest

    assert asked({"a": 1, "b": 2}) != asked({"b": 2, "a": 1})


def test_another_tool_choice_spares_tools_and_system_but_not_messages() -> None:
    def blocks(choice: str) -> list[str]:
        asked = request("go", tools=[tool("look")], system="be kind", tool_choice={"type": choice})
        return [block.digest for block in prompt_of(asked).blocks]

    auto, none = blocks("auto"), blocks("none")

    assert auto[:2] == none[:2]
    assert auto[2] != none[2]
