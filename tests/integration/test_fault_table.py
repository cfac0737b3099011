"""Every way in which a call to a teacher ends, row by row: what it costs us, whether it is tried again.

Rule: the whole paid path is run (gate, ledger, adapter, HTTP), against the simulator, whose bill is
the truth: whatever happens, it is never more than what the ledger holds. Rows that an independent
simulator can play too (`llmock`, MIT) are played there as a second opinion.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from worker.core.rates import Limits
from worker.core.teaching import TeacherRequest
from worker.embedded.process import free_ports, http_status
from worker.embedded.teacher import SimulatedTeacher
from worker.errors import RateLimited, TeacherFault
from worker.ledger.memory import MemoryLedger
from worker.limits.gate import Gate, Keeper, TeacherGate
from worker.limits.memory import MemoryLimiter
from worker.paid import PaidTeacher
from worker.ports import EntryState
from worker.teacher.anthropic import AnthropicTeacher
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

MODEL = "claude-opus-4-6"
ACCOUNT, SCOPES = "teacher-a", ("fleet", "session:s")
#: The adapter's longest silence here; nothing on loopback is silent for so long but by a fault.
IDLE_MS = 300


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, and all that must come of it."""

    name: str
    fault: dict[str, Any]
    #: `settled`, `void` or `expired` (charged at the bound).
    ledger: EntryState
    #: None for a reply; else `later`, `never` or `stop`.
    retry: str | None
    #: What is learned about the load: nothing, `pause`, `half` or `stop`.
    load: str = ""
    #: Whether the simulator bills it.
    billed: bool = False


def status(code: int, **fields: Any) -> dict[str, Any]:
    return {"fault": "status", "status": code, **fields}


def spent(code: int, error_code: str) -> dict[str, Any]:
    return status(code, details={"error_code": error_code})


VOID, SETTLED, EXPIRED = EntryState.VOID, EntryState.SETTLED, EntryState.EXPIRED

ROWS = [
    Row("none", {}, SETTLED, None, billed=True),
    # --------------------------------------------------------------------------------- statuses
    Row("400", status(400), VOID, "never"),
    Row("401", status(401), VOID, "stop"),
    Row("402", status(402), VOID, "stop", "stop"),
    Row("403", status(403), VOID, "stop"),
    Row("404", status(404), VOID, "never"),
    Row("408", status(408), EXPIRED, "later"),
    Row("409", status(409), EXPIRED, "later"),
    Row("413", status(413), VOID, "never"),
    Row("418", status(418), EXPIRED, "never"),
    Row("422", status(422), VOID, "never"),
    Row("429", status(429), VOID, "later", "pause"),
    Row("429 in 7 s", status(429, headers={"retry-after": "7"}), VOID, "later", "pause"),
    Row("429 ramp", spent(429, "ramp_limit_exceeded"), VOID, "later", "half"),
    Row("429 spend", spent(429, "enforced_spend_limit_reached"), VOID, "stop", "stop"),
    Row("429 contract", spent(429, "contract_spend_limit_reached"), VOID, "stop", "stop"),
    Row("402 linked", spent(402, "linked_organization_spend_limit_reached"), VOID, "stop", "stop"),
    Row("400 on hold", spent(400, "organization_on_hold"), VOID, "stop", "stop"),
    Row(
        "400 own limit",
        status(400, message="You have reached your specified workspace API usage limits."),
        VOID,
        "stop",
        "stop",
    ),
    Row("500", status(500), EXPIRED, "later"),
    Row("501", status(501), EXPIRED, "later"),
    Row("502", status(502), EXPIRED, "later"),
    Row("503", status(503), EXPIRED, "later", "half"),
    Row("504", status(504), EXPIRED, "later", "half"),
    Row("529", status(529), VOID, "later", "half"),
    Row("529 in 7 s", status(529, headers={"retry-after": "7"}), VOID, "later", "half"),
    # ------------------------------------------------------------------------------ connections
    Row("reset before", {"fault": "reset"}, EXPIRED, "later"),
    Row("reset after", {"fault": "reset", "billed": True}, EXPIRED, "later", billed=True),
    Row("hangs before", {"fault": "hang_before", "ms": 5_000}, EXPIRED, "later"),
    Row("hangs after", {"fault": "hang_after", "ms": 5_000}, EXPIRED, "later", billed=True),
    # ----------------------------------------------------------------------------------- streams
    Row("cut at once", {"fault": "cut_stream", "after_events": 0}, EXPIRED, "later", billed=True),
    Row("cut", {"fault": "cut_stream", "after_events": 3}, EXPIRED, "later", billed=True),
    Row("stalls", {"fault": "stall", "ms": 5_000}, EXPIRED, "later", billed=True),
    Row("stalls shortly", {"fault": "stall", "ms": 50}, SETTLED, None, billed=True),
    Row("slow", {"fault": "pace", "first_ms": 60, "event_ms": 5}, SETTLED, None, billed=True),
    Row("overloaded", {"fault": "stream_error"}, EXPIRED, "later", "half", billed=True),
    Row(
        "rate in stream",
        {"fault": "stream_error", "error_type": "rate_limit_error"},
        EXPIRED,
        "later",
        "pause",
        billed=True,
    ),
    Row(
        "error in stream",
        {"fault": "stream_error", "error_type": "api_error"},
        EXPIRED,
        "later",
        billed=True,
    ),
    Row(
        "refused in stream",
        {"fault": "stream_error", "error_type": "invalid_request_error"},
        EXPIRED,
        "never",
        billed=True,
    ),
    Row(
        "key in stream",
        {"fault": "stream_error", "error_type": "authentication_error"},
        EXPIRED,
        "stop",
        billed=True,
    ),
    # ------------------------------------------------------------------------------ stop reasons
    *(
        Row(
            f"stops: {reason}",
            {"fault": "stop_reason", "stop_reason": reason},
            SETTLED,
            None,
            billed=True,
        )
        for reason in (
            *("end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal"),
            *("model_context_window_exceeded", "of_tomorrow"),
        )
    ),
    Row(
        "refuses at once",
        {"fault": "stop_reason", "stop_reason": "refusal", "empty": True},
        SETTLED,
        None,
    ),
    Row(
        "stops: null",
        {"fault": "stop_reason", "stop_reason": None},
        EXPIRED,
        "later",
        billed=True,
    ),
    Row("empty", {"fault": "empty_content"}, SETTLED, None, billed=True),
]


class World:
    """The paid path to one server."""

    def __init__(self, url: str, api_key: str) -> None:
        self.clock = ManualClock()
        self.ledger = MemoryLedger(self.clock)
        for scope in SCOPES:
            self.ledger.open_account(scope, 10**12)
        self.limiter = MemoryLimiter(self.clock)
        self.adapter = AnthropicTeacher(base_url=url, api_key=api_key, idle_timeout_ms=IDLE_MS)
        self.numbers = count(1)
        gate = Gate(
            self.limiter,
            Keeper(self.limiter),
            account=ACCOUNT,
            limits=Limits(),
            server="teacher a",
            new_token=lambda: f"g{next(self.numbers)}",
            chance=lambda: 1.0,
        )
        self.paid = PaidTeacher(self.adapter, self.ledger, gate=TeacherGate(gate))

    def call(self) -> str | None:
        """Make one call; return whether to try again, None after a reply."""
        request = TeacherRequest(
            model=MODEL,
            max_tokens=4_096,
            system=[],
            messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
            timeout_ms=10_000,
        )
        try:
            self.paid.call(
                request,
                reservation_id=f"s/turn/1/{next(self.numbers)}.1",
                scopes=SCOPES,
                kind="explore",
                step_id="turn/1",
                prompt_bound_tokens=2_000,
                stopped=lambda: False,
            )
        except TeacherFault as fault:
            return fault.retry
        return None

    @property
    def load(self) -> str:
        """What the call taught about the load."""
        if self.limiter.stopped(ACCOUNT) is not None:
            return "stop"
        (view,) = self.limiter.groups(ACCOUNT)
        if view.slots is not None:
            return "half"
        return "pause" if view.pause_ms else ""

    @property
    def charged(self) -> tuple[EntryState, int]:
        (entry,) = self.ledger.entries("s")
        return entry.state, entry.actual_nusd


@contextmanager
def world(url: str, api_key: str) -> Generator[World]:
    made = World(url, api_key)
    yield made
    made.adapter.close()


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatedTeacher]:
    with SimulatedTeacher() as running:
        yield running
        assert running.desk.crashes == []


def ask(url: str, body: object, *, method: str = "POST") -> Any:
    request = urllib.request.Request(  # noqa: S310 - loopback
        url,
        data=json.dumps(body).encode(),
        method=method,
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
        return json.loads(answer.read() or b"null")


def wait_until_idle(simulator: SimulatedTeacher) -> None:
    """Return once every request has its line: one that its client left notices it a little later."""
    pause = threading.Event()
    for _ in range(1_000):
        if simulator.desk.open_requests == 0:
            return
        pause.wait(0.005)
    raise AssertionError("a request is still under way")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_way_to_end_is_charged_and_learned_from_as_the_table_says(
    row: Row, simulator: SimulatedTeacher
) -> None:
    simulator.desk.reset(frozenset({"bill", "faults"}))
    if row.fault:
        ask(f"{simulator.url}/_sim/faults", {"faults": [row.fault]})

    with world(simulator.url, simulator.api_key) as made:
        retry = made.call()

        wait_until_idle(simulator)
        state, charged_nusd = made.charged
        assert (retry, state, made.load) == (row.retry, row.ledger, row.load)
        assert (simulator.bill.total_nano_usd > 0) == row.billed
        assert simulator.bill.total_nano_usd <= charged_nusd
        if state is SETTLED:
            assert simulator.bill.total_nano_usd == charged_nusd
        assert sum(view.under_way for view in made.limiter.groups(ACCOUNT)) == 0


def test_nobody_there_costs_nothing_and_is_tried_again() -> None:
    (port,) = free_ports(1)

    with world(f"http://127.0.0.1:{port}", "k") as made:
        assert made.call() == "later"
        assert made.charged == (VOID, 0)
        assert made.load == ""


def test_a_stopped_key_is_not_called_again_until_somebody_lifts_it(
    simulator: SimulatedTeacher,
) -> None:
    simulator.desk.reset(frozenset({"bill", "faults"}))
    fault = spent(429, "enforced_spend_limit_reached")
    ask(f"{simulator.url}/_sim/faults", {"faults": [fault]})

    with world(simulator.url, simulator.api_key) as made:
        assert [made.call() for _ in range(3)] == ["stop", "stop", "stop"]
        assert len(simulator.bill.lines()) == 1
        made.limiter.lift(ACCOUNT)
        assert made.call() is None


def test_the_simulators_own_limits_refuse_with_its_headers(simulator: SimulatedTeacher) -> None:
    simulator.desk.reset(frozenset({"bill", "faults"}))
    limits = {"requests_per_minute": 60, "burst_seconds": 1}
    ask(f"{simulator.url}/_sim/limits", limits)

    with world(simulator.url, simulator.api_key) as made:
        assert made.call() is None
        (view,) = made.limiter.groups(ACCOUNT)
        assert view.told.requests == 60
        made.clock.advance(60_000)
        retry = made.call()
        assert (retry, made.load) == ("later", "pause")
        with pytest.raises(RateLimited, match="60 requests per minute"):
            made.call()
    simulator.desk.reset(frozenset({"limits"}))


# ---------------------------------------------------------------------------------------- llmock

#: What llmock can play. Its error bodies carry no code, and its statuses no request id.
SECOND_OPINIONS: list[tuple[str, dict[str, Any] | None]] = [
    ("none", None),
    *(
        (code, {"type": "fail", "status": int(code)})
        for code in ("400", "401", "403", "404", "408", "409", "413", "422", "429")
    ),
    *(
        (code, {"type": "fail", "status": int(code)})
        for code in ("500", "502", "503", "504", "529")
    ),
    ("429 in 7 s", {"type": "fail", "status": 429, "retry_after": 7}),
    ("cut", {"type": "stream_fault", "kind": "disconnect", "after_chunks": 2}),
    ("stops: null", {"type": "stream_fault", "kind": "truncate", "after_chunks": 2}),
    ("stalls", {"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": 5}),
    ("slow", {"type": "slow_first_token", "seconds": 0.05}),
]


@pytest.fixture(scope="module")
def llmock_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An independent simulator, as a process of its own."""
    (port,) = free_ports(1)
    log = tmp_path_factory.mktemp("llmock") / "log"
    argv = [sys.executable, "-m", "uvicorn", "llmock.main:app", "--port", str(port)]
    with log.open("w") as out, subprocess.Popen(argv, stdout=out, stderr=out) as process:
        pause = threading.Event()
        for _ in range(1_000):
            with suppress(OSError):
                if http_status(port, "/health") == 200:
                    break
            pause.wait(0.02)
        else:
            raise AssertionError(log.read_text())
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.mark.parametrize(("name", "behavior"), SECOND_OPINIONS, ids=lambda of: str(of)[:20])
def test_an_independent_simulator_is_of_the_same_opinion(
    name: str, behavior: dict[str, Any] | None, llmock_url: str
) -> None:
    (row,) = (row for row in ROWS if row.name == name)
    ask(f"{llmock_url}/_llmock/reset", {})
    if behavior is not None:
        ask(f"{llmock_url}/_llmock/scenario", {"behaviors": [behavior]})

    with world(f"{llmock_url}/anthropic", "any-key") as made:
        retry = made.call()

        assert (retry, made.charged[0], made.load) == (row.retry, row.ledger, row.load)
