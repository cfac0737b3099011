"""The Messages API's requests, read from bytes.

Rule: what is not exactly what the API documents is refused with a 400 that names the place. What a
shape cannot say (which results belong to which calls, …) stands in `rules.py`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from worker.embedded.teacher.api_error import ApiError, invalid

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "Block",
    "CacheControl",
    "Message",
    "MessagesRequest",
    "PromptRequest",
    "RedactedThinking",
    "ReplyBlock",
    "Shape",
    "Text",
    "Thinking",
    "Tool",
    "ToolChoice",
    "ToolResult",
    "ToolUse",
    "Ttl",
    "read_json",
    "read_shape",
]

_ShapeT = TypeVar("_ShapeT", bound="Shape")

Ttl = Literal["5m", "1h"]

#: Ids of tool calls and names of tools, as the API takes them.
_ID = r"^[a-zA-Z0-9_-]+$"
_NAME = r"^[a-zA-Z0-9_-]{1,128}$"


class Shape(BaseModel):
    """A JSON object of which every key is known."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CacheControl(Shape):
    """A cache breakpoint."""

    type: Literal["ephemeral"]
    ttl: Ttl = "5m"


class Text(Shape):
    """Text of either side."""

    type: Literal["text"] = "text"
    text: str
    cache_control: CacheControl | None = None
    citations: list[dict[str, Any]] | None = None


class Thinking(Shape):
    """The model's reasoning, echoed."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class RedactedThinking(Shape):
    """Reasoning that only the provider can read, echoed."""

    type: Literal["redacted_thinking"] = "redacted_thinking"
    data: str


class ToolUse(Shape):
    """A tool call of the model."""

    type: Literal["tool_use"] = "tool_use"
    id: Annotated[str, Field(pattern=_ID)]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: dict[str, Any] | None = None
    toolset_name: str | None = None


def _as_blocks(content: object) -> object:
    """Return the blocks that a string stands for; an empty string is no block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _as_result_blocks(content: object) -> object:
    return [] if content is None else _as_blocks(content)


class ToolResult(Shape):
    """The result of a tool call."""

    type: Literal["tool_result"] = "tool_result"
    tool_use_id: Annotated[str, Field(pattern=_ID)]
    content: Annotated[list[Text], BeforeValidator(_as_result_blocks)] = []
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: str | None = None

    @property
    def text(self) -> str:
        """All text of the result."""
        return "\n".join(block.text for block in self.content)


Block = Annotated[
    Text | Thinking | RedactedThinking | ToolUse | ToolResult, Field(discriminator="type")
]
#: What a model can say.
ReplyBlock = Annotated[Text | Thinking | RedactedThinking | ToolUse, Field(discriminator="type")]


class Message(Shape):
    """One message; a string stands for one block of text."""

    role: Literal["user", "assistant"]
    content: Annotated[list[Block], BeforeValidator(_as_blocks)]


class Tool(Shape):
    """A tool that the client runs."""

    name: Annotated[str, Field(pattern=_NAME)]
    input_schema: dict[str, Any]
    description: str = ""
    type: Literal["custom"] | None = None
    cache_control: CacheControl | None = None
    strict: bool | None = None
    input_examples: list[dict[str, Any]] | None = None
    eager_input_streaming: bool | None = None


class ToolChoice(Shape):
    """Which tools the model may or must use."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False

    @property
    def forces(self) -> bool:
        """Whether the reply must hold a tool call."""
        return self.type in {"any", "tool"}


class PromptRequest(Shape):
    """All of a request that makes its prompt; the body of `count_tokens`."""

    model: str
    messages: list[Message]
    system: Annotated[list[Text], BeforeValidator(_as_blocks)] = []
    tools: list[Tool] = []
    tool_choice: ToolChoice | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    cache_control: CacheControl | None = None
    speed: Literal["standard"] | None = None

    @property
    def system_text(self) -> str:
        """The system prompt as one text."""
        return "\n".join(block.text for block in self.system)

    @property
    def last_user_text(self) -> str:
        """The text of the newest message, tool results left out."""
        blocks = self.messages[-1].content
        return "\n".join(block.text for block in blocks if isinstance(block, Text))


class Metadata(Shape):
    """Who asks, in the client's own words."""

    user_id: str | None = None


class MessagesRequest(PromptRequest):
    """The body of `POST /v1/messages`."""

    max_tokens: Annotated[int, Field(ge=0)]
    stream: bool = False
    stop_sequences: list[str] = []
    metadata: Metadata = Metadata()
    service_tier: Literal["auto", "standard_only"] | None = None
    inference_geo: Literal["global", "us"] | None = None
    #: Taken and not used: the simulator never says why a cache missed.
    diagnostics: dict[str, Any] | None = None


def read_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`.

    Raises:
        ApiError: It is not valid JSON (NaN and lone surrogates are not), or not an object.
    """
    try:
        value: object = json.loads(body, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise invalid(f"The request body is not valid JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise invalid("The request body is not valid JSON: it must be an object")
    return cast("dict[str, Any]", value)


def read_shape(shape: type[_ShapeT], value: object) -> _ShapeT:
    """Return `value` as a `shape`.

    Raises:
        ApiError: It is not one; the message names the first place that is wrong.
    """
    try:
        return shape.model_validate(value)
    except ValidationError as exc:
        raise _refused(exc.errors(include_url=False)[0]) from exc


def _refused(error: ErrorDetails) -> ApiError:
    place = ".".join(str(part) for part in error["loc"])
    return invalid(f"{place}: {error['msg']}" if place else error["msg"])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
