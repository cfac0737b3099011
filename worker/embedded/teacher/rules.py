"""The rules of the Messages API that the shape of a request cannot say.

Rule: every rule refuses with a message that names the place, the value and what would be right; a
request that passes is one that the provider would take too.
"""

from __future__ import annotations

import hashlib
from itertools import chain, pairwise
from typing import TYPE_CHECKING, TypeVar

from worker.embedded.teacher.api_error import ApiError, invalid
from worker.embedded.teacher.catalogue import MODELS, Model
from worker.embedded.teacher.prompt import prompt_of
from worker.embedded.teacher.wire import (
    MessagesRequest,
    PromptRequest,
    RedactedThinking,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from worker.embedded.teacher.wire import Block, CacheControl, Message

__all__ = ["MAX_BREAKPOINTS", "accepted", "signature_of"]

MAX_BREAKPOINTS = 4

_RequestT = TypeVar("_RequestT", bound=PromptRequest)

#: Which side may hold which block; text may stand on both.
_ROLE_OF: Mapping[type[Block], str] = {ToolResult: "user", ToolUse: "assistant", Thinking: "assistant",
            RedactedThinking: "assistant"}  # fmt: skip


def accepted(request: _RequestT) -> _RequestT:
    """Return the request as the API takes it: neighbouring messages of one role merged.

    Raises:
        ApiError: The request breaks a rule.
    """
    model = _known_model(request.model)
    _check_limits(request, model)
    _check_tools(request, model)
    _check_messages(request.messages)
    _check_pairing(request)
    _check_breakpoints(request)
    merged = request.model_copy(update={"messages": _merged(request.messages)})
    _check_window(merged, model)
    return merged


def signature_of(thinking: str) -> str:
    """Return the signature by which a thinking block is recognised when it comes back."""
    return "sim" + hashlib.sha256(thinking.encode()).hexdigest()[:32]


def _known_model(name: str) -> Model:
    model = MODELS.get(name)
    if model is None:
        raise ApiError(404, f"model: {name}")
    return model


def _check_limits(request: PromptRequest, model: Model) -> None:
    if not isinstance(request, MessagesRequest):
        return
    if request.max_tokens > model.max_output_tokens:
        raise invalid(
            f"max_tokens: {request.max_tokens} > {model.max_output_tokens}, which is the maximum "
            f"allowed number of output tokens for {request.model}"
        )


def _check_window(request: PromptRequest, model: Model) -> None:
    tokens = prompt_of(request).total_tokens
    if tokens > model.window_tokens:
        raise invalid(f"prompt is too long: {tokens} tokens > {model.window_tokens} maximum")


# ----------------------------------------------------------------------------------------- tools


def _check_tools(request: PromptRequest, model: Model) -> None:
    names = [tool.name for tool in request.tools]
    if len(names) != len(set(names)):
        raise invalid("tools: Tool names must be unique.")
    for index, tool in enumerate(request.tools):
        if tool.input_schema.get("type") != "object":
            raise invalid(f"tools.{index}.custom.input_schema.type: Input should be 'object'")
    _check_choice(request, model, names)


def _check_choice(request: PromptRequest, model: Model, names: Sequence[str]) -> None:
    choice = request.tool_choice
    if choice is None:
        return
    if not names:
        raise invalid("tool_choice: tool_choice may only be specified while providing tools.")
    if choice.forces and not model.may_force_tools:
        raise invalid(
            f"tool_choice: {choice.type!r} is not supported by {request.model}; use 'auto'"
        )
    if choice.type == "tool" and choice.name not in names:
        raise invalid(f"tool_choice: Tool {choice.name!r} not found in provided tools")


# -------------------------------------------------------------------------------------- messages


def _check_messages(messages: Sequence[Message]) -> None:
    if not messages:
        raise invalid("messages: at least one message is required")
    if messages[0].role != "user":
        raise invalid('messages: first message must use the "user" role')
    for index, message in enumerate(messages):
        _check_message(index, message)
    if messages[-1].role == "assistant":
        raise invalid(
            "This model does not support assistant message prefill. The conversation must end "
            "with a user message."
        )


def _check_message(index: int, message: Message) -> None:
    if not message.content:
        raise invalid(f"messages.{index}: all messages must have non-empty content")
    for position, block in enumerate(message.content):
        place = f"messages.{index}.content.{position}"
        expected = _ROLE_OF.get(type(block))
        if expected is not None and expected != message.role:
            raise invalid(f"{place}: `{block.type}` blocks can only be in `{expected}` messages")
        _check_block(place, block)


def _check_block(place: str, block: Block) -> None:
    if isinstance(block, Text) and not block.text:
        raise invalid(f"{place}: text content blocks must be non-empty")
    if isinstance(block, Text) and not block.text.strip():
        raise invalid(f"{place}: text content blocks must contain non-whitespace text")
    if isinstance(block, Thinking) and block.signature != signature_of(block.thinking):
        raise invalid(
            f"{place}: Invalid `signature` in `thinking` block. Thinking blocks must be sent back "
            "exactly as they were received."
        )


def _merged(messages: Sequence[Message]) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            content = [*merged[-1].content, *message.content]
            merged[-1] = merged[-1].model_copy(update={"content": content})
        else:
            merged.append(message)
    return merged


# --------------------------------------------------------------------------- calls and results


def _check_pairing(request: PromptRequest) -> None:
    """Refuse tool calls without results, results without calls, and results out of place."""
    messages = request.messages
    if not request.tools and any(_tool_blocks(messages)):
        raise invalid(
            "Requests which have `tool_use` or `tool_result` blocks in `messages` must define "
            "`tools`."
        )
    calls: list[str] = []
    for index, message in enumerate(messages):
        if message.role == "user":
            _check_results(index, message, calls)
        calls = [block.id for block in message.content if isinstance(block, ToolUse)]
    for index, (before, after) in enumerate(pairwise(messages)):
        missing = _unanswered(before, after)
        if missing:
            raise invalid(_unanswered_text(index, missing))


def _tool_blocks(messages: Sequence[Message]) -> Iterator[Block]:
    blocks = chain.from_iterable(message.content for message in messages)
    return (block for block in blocks if isinstance(block, ToolUse | ToolResult))


def _check_results(index: int, message: Message, calls: Sequence[str]) -> None:
    seen: set[str] = set()
    for position, block in enumerate(message.content):
        if not isinstance(block, ToolResult):
            continue
        if block.tool_use_id not in calls:
            raise invalid(
                f"messages.{index}.content.{position}: unexpected `tool_use_id` found in "
                f"`tool_result` blocks: {block.tool_use_id}. Each `tool_result` block must have a "
                "corresponding `tool_use` block in the previous message."
            )
        if block.tool_use_id in seen:
            raise invalid(
                f"messages.{index}.content.{position}: each tool_use must have a single result. "
                f"Found multiple `tool_result` blocks with id: {block.tool_use_id}"
            )
        seen.add(block.tool_use_id)


def _unanswered(before: Message, after: Message) -> list[str]:
    """Return the calls of `before` whose results do not open `after`."""
    calls = [block.id for block in before.content if isinstance(block, ToolUse)]
    leading = {block.tool_use_id for block in _leading_results(after.content)}
    return [call for call in calls if call not in leading]


def _leading_results(blocks: Iterable[Block]) -> Iterator[ToolResult]:
    for block in blocks:
        if not isinstance(block, ToolResult):
            return
        yield block


def _unanswered_text(index: int, missing: Sequence[str]) -> str:
    return (
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately "
        f"after: {', '.join(missing)}. Each `tool_use` block must have a corresponding "
        "`tool_result` block in the next message: all of them in that one message, before any "
        "text."
    )


# ----------------------------------------------------------------------------- cache breakpoints


def _check_breakpoints(request: PromptRequest) -> None:
    controls = list(_controls(request))
    automatic = request.cache_control is not None and not _ends_in_breakpoint(request)
    found = len(controls) + automatic
    if found > MAX_BREAKPOINTS:
        raise invalid(
            f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. "
            f"Found {found}."
        )
    if request.cache_control is not None:
        controls.append(("cache_control", request.cache_control))
    for (_, before), (place, after) in pairwise(controls):
        if before.ttl == "5m" and after.ttl == "1h":
            raise invalid(
                f"{place}.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' "
                "cache_control block. Note that blocks are processed in the following order: "
                "`tools`, `system`, `messages`."
            )


def _ends_in_breakpoint(request: PromptRequest) -> bool:
    return _control(request.messages[-1].content[-1]) is not None


def _controls(request: PromptRequest) -> Iterator[tuple[str, CacheControl]]:
    """Return every breakpoint with its place, in prompt order."""
    for index, tool in enumerate(request.tools):
        if tool.cache_control:
            yield f"tools.{index}.cache_control", tool.cache_control
    for index, block in enumerate(request.system):
        if block.cache_control:
            yield f"system.{index}.cache_control", block.cache_control
    for index, message in enumerate(request.messages):
        for position, block in enumerate(message.content):
            control = _control(block)
            if control:
                yield f"messages.{index}.content.{position}.cache_control", control


def _control(block: Block) -> CacheControl | None:
    return None if isinstance(block, Thinking | RedactedThinking) else block.cache_control
