"""What is held for the closing call is enough for it, whatever the session was."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.core.strategies import histories, spec_with
from worker.core import transcript
from worker.core.admission import CONTEXT_BYTES, OVERHEAD_BYTES, plan_closing
from worker.core.bounds import cache_writes, call_bound_nusd, why_unbounded
from worker.core.events import BundlePrepared, SessionOpened, TeacherReplied
from worker.core.machine import Session, fold
from worker.core.prices import known_models, price_of
from worker.core.replies import SUBMIT
from worker.core.values import Limits, Payload, Purpose, Stop, Text
from worker.errors import RequestInvalid
from worker.tools.schemas import anthropic_tools

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.events import Event
    from worker.core.prices import Price
    from worker.core.values import SessionSpec

MODELS = known_models()
#: What costs most bytes as JSON for each character, and what is cut at odd places.
NASTY = ("x", "\0", '"', "\\", "\n", "\u2028", "ü", "日", "\U0001f600", "\x7f")
#: What a brief may hold: `Workspace.brief` keeps controls out, which cost six bytes each.
PLAIN = tuple(char for char in NASTY if char == "\n" or char.isprintable())
SUBMIT_ONLY = [tool for tool in anthropic_tools() if tool["name"] == SUBMIT]
BRIEF = Text(text="the brief")
#: Between them every size of the closing call's context is planned, the smallest most often.
CAPS_NUSD = (200_000_000, 400_000_000, 600_000_000, 1_000_000_000, 2_000_000_000, 10**12)


def texts(alphabet: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Texts of any length that are short to draw."""
    parts = st.lists(st.sampled_from(alphabet), min_size=1, max_size=4)
    return st.tuples(parts, st.sampled_from([1, 50, 400, 3_000, 30_000])).map(
        lambda drawn: "".join(drawn[0]) * drawn[1]
    )


@settings(max_examples=60)
@given(
    history=histories(),
    text=texts(NASTY),
    brief=texts(PLAIN),
    model=st.sampled_from(MODELS),
    cap_nusd=st.sampled_from(CAPS_NUSD),
)
@example(
    history=(), text="\0" * 60_000, brief='"' * 60_000, model="claude-opus-4-6", cap_nusd=10**9
)
def test_the_hold_covers_the_closing_call_of_any_session(
    history: tuple[Event, ...], text: str, brief: str, model: str, cap_nusd: int
) -> None:
    price = price_of(model)
    spec = _planned(price, cap_nusd)
    if spec is None:
        return
    session = _session(history, spec)

    bound_nusd = _bound_nusd(session, price, _saying(text, brief))

    assert bound_nusd <= spec.closing_hold_nusd


@pytest.mark.parametrize("cap_nusd", CAPS_NUSD)
def test_notes_that_fill_their_room_to_the_last_byte_are_covered(cap_nusd: int) -> None:
    price = price_of("claude-opus-4-6")
    spec = _planned(price, cap_nusd)
    assert spec is not None
    turns = (_turn(number) for number in range(1, 25))
    session = _session((SessionOpened(spec=spec), _PREPARED, *turns), spec)

    bounds = [
        _bound_nusd(session, price, _saying("x" * chars, '"' * 60_000))
        for chars in range(0, 3_000, 3)
    ]

    assert max(bounds) <= spec.closing_hold_nusd
    byte_nusd = price.rates_at(1).input_pusd // 1_000
    spare_bytes = (spec.closing_hold_nusd - max(bounds)) // byte_nusd
    assert spare_bytes < OVERHEAD_BYTES, "this test has filled the room"


@given(model=st.sampled_from(MODELS), cap_nusd=st.integers(1, 10**12))
def test_a_plan_is_within_its_cap_or_the_request_is_refused(model: str, cap_nusd: int) -> None:
    spec = _planned(price_of(model), cap_nusd)

    if spec is not None:
        smallest = spec.closing_context_bytes == CONTEXT_BYTES[-1]
        assert 0 < spec.closing_hold_nusd <= cap_nusd
        assert spec.closing_hold_nusd <= cap_nusd // 4 or smallest


def test_a_cap_below_the_closing_call_is_refused_by_its_field() -> None:
    with pytest.raises(RequestInvalid, match=r"^limits\.max_cost_usd: \$0\.10 .* raise the cap or"):
        plan_closing(price_of("claude-opus-4-6"), 100_000_000)


@pytest.mark.parametrize("model", MODELS)
def test_a_greater_cap_never_gets_a_smaller_closing(model: str) -> None:
    caps = [10**power for power in range(8, 13)]

    sizes = [spec.closing_context_bytes for cap in caps if (spec := _planned(price_of(model), cap))]

    assert sizes == sorted(sizes)
    assert sizes[-1] == CONTEXT_BYTES[0]


def _planned(price: Price, cap_nusd: int) -> SessionSpec | None:
    """Return the request that such a cap makes; None where it is refused."""
    try:
        plan = plan_closing(price, cap_nusd)
    except RequestInvalid:
        return None
    return replace(
        spec_with(Limits()),
        teacher_model=price.model,
        closing_hold_nusd=plan.hold_nusd,
        closing_context_bytes=plan.context_bytes,
    )


def _session(history: tuple[Event, ...], spec: SessionSpec) -> Session:
    """Return the session of a history that shall close now, under another request."""
    session = fold(history or [SessionOpened(spec=spec)])
    within = replace(spec, limits=session.spec.limits)
    return replace(session, spec=within, prepared=_PREPARED, stop=Stop.CONTEXT)


_PREPARED = BundlePrepared(brief=BRIEF, traces=9, tasks=9)


def _turn(number: int) -> TeacherReplied:
    """Return a turn that was only words."""
    return TeacherReplied(
        turn=number,
        purpose=Purpose.EXPLORE,
        content=Text(text="[]"),
        stop_reason="max_tokens",
    )


def _saying(text: str, brief: str) -> Callable[[Payload], str]:
    """Return texts for payloads: the brief, every turn's content, and everything else."""
    content = json.dumps([{"type": "text", "text": text}, {"type": "thinking", "thinking": text}])
    known = {Text(text="[]"): content, BRIEF: brief}
    return lambda payload: known.get(payload, text) if isinstance(payload, Text) else text


def _bound_nusd(session: Session, price: Price, text_of: Callable[[Payload], str]) -> int:
    """Return what `PaidTeacher` would hold for the session's closing call."""
    request = transcript.closing_request(session, SUBMIT_ONLY, text_of)
    assert (
        why_unbounded(system=request.system, messages=request.messages, tools=request.tools) is None
    )
    writes = cache_writes(system=request.system, messages=request.messages, tools=request.tools)
    return call_bound_nusd(
        price,
        transcript.prompt_bound_tokens(session, request, text_of),
        request.max_tokens,
        has_5m=writes.has_5m,
        has_1h=writes.has_1h,
    )
