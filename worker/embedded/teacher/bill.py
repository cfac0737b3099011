"""The provider's own bill: one line for every request that was received.

Rule: it shares nothing with the worker's ledger, not even the prices, so that the two can be
compared. Money is integer: rates in pico-dollars per token, the amount of a request in nano-dollars,
rounded up once. Lines are only ever added.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "PRICES",
    "Price",
    "Bill",
    "BillLine",
    "Outcome",
    "Rates",
    "Usage",
    "amount_nano_usd",
    "amount_pico_usd",
]

_PICO_PER_NANO = 1000
#: Data kept in the US costs 1.1 times as much, for every class of token.
_US_PERCENT = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one request used, as its answer says it."""

    input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt, cached or not."""
        return (
            self.input_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
            + self.cache_read_tokens
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Pico-dollars per token (a millionth of the usual dollars per million tokens)."""

    input: int
    output: int
    write_5m: int
    write_1h: int
    read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one model costs."""

    rates: Rates
    #: Prompts above this cost `long_rates` for every token, those of the reply too.
    long_above_tokens: int | None = None
    long_rates: Rates | None = None

    def rates_for(self, usage: Usage) -> Rates:
        """Return the rates of a request with this usage."""
        if self.long_rates is None or self.long_above_tokens is None:
            return self.rates
        return self.long_rates if usage.prompt_tokens > self.long_above_tokens else self.rates


def _rates(input_: str, output: str, write_5m: str, write_1h: str, read: str) -> Rates:
    """Return rates from dollars per million tokens, as price lists give them."""
    return Rates(
        input=_pico(input_),
        output=_pico(output),
        write_5m=_pico(write_5m),
        write_1h=_pico(write_1h),
        read=_pico(read),
    )


def _pico(usd_per_million: str) -> int:
    """Return pico-dollars per token, exactly: `"6.25"` is 6,250,000."""
    whole, _, fraction = usd_per_million.partition(".")
    return int(whole) * 1_000_000 + int(fraction.ljust(6, "0"))


_HAIKU_4_5 = Price(rates=_rates("1", "5", "1.25", "2", "0.10"))
_OPUS = Price(rates=_rates("5", "25", "6.25", "10", "0.50"))

#: Dollars per million tokens: input, output, 5m write, 1h write, read. As listed in November 2026.
PRICES: Mapping[str, Price] = {
    "claude-fable-5-2": Price(rates=_rates("8", "40", "10", "16", "0.20")),
    "claude-fable-5-1": Price(rates=_rates("10", "50", "12.5", "20", "0.25")),
    "claude-opus-5-5": Price(rates=_rates("4", "20", "5", "8", "0.20")),
    "claude-opus-5": _OPUS,
    "claude-opus-4-8": _OPUS,
    "claude-opus-4-7": _OPUS,
    "claude-opus-4-6": _OPUS,
    "claude-opus-4-5": _OPUS,
    "claude-opus-4-5-20251101": _OPUS,
    "claude-sonnet-5-5": Price(rates=_rates("2", "10", "2.5", "4", "0.10")),
    "claude-sonnet-5": Price(rates=_rates("2", "10", "2.5", "4", "0.20")),
    "claude-haiku-5-5": Price(
        rates=_rates("0.10", "0.50", "0.125", "0.20", "0.01"),
        long_above_tokens=100_000,
        long_rates=_rates("0.50", "2.50", "0.625", "1.00", "0.05"),
    ),
    "claude-haiku-4-5": _HAIKU_4_5,
    "claude-haiku-4-5-20251001": _HAIKU_4_5,
}


def amount_pico_usd(model: str, usage: Usage, *, inference_geo: str = "global") -> int:
    """Return what `usage` costs, exactly."""
    rates = PRICES[model].rates_for(usage)
    base = (
        usage.input_tokens * rates.input
        + usage.cache_write_5m_tokens * rates.write_5m
        + usage.cache_write_1h_tokens * rates.write_1h
        + usage.cache_read_tokens * rates.read
        + usage.output_tokens * rates.output
    )
    # Every rate is a multiple of 10,000 pico-dollars, so the percentage is exact.
    return base * _US_PERCENT // 100 if inference_geo == "us" else base


def amount_nano_usd(pico_usd: int) -> int:
    """Return the amount that is charged: whole nano-dollars, rounded up."""
    return -(-pico_usd // _PICO_PER_NANO)


class Outcome(StrEnum):
    """How a request ended, and with it whether it is charged."""

    #: The whole answer was given.
    COMPLETE = "complete"
    #: A refusal before any output: its tokens are counted but not charged.
    REFUSED = "refused"
    #: The client left before the end of the answer: charged for what it got so far.
    DISCONNECTED = "disconnected"
    #: A fault cut the answer: charged for what was given.
    CUT = "cut"
    #: A fault kept a whole answer from the client: charged in full.
    LOST = "lost"
    #: Answered with an error status: free.
    ERROR = "error"
    #: Never answered, and the model never started: free.
    UNANSWERED = "unanswered"
    #: A request that costs nothing (`count_tokens`).
    FREE = "free"

    @property
    def billed(self) -> bool:
        """Whether the request's usage is charged."""
        return self in {Outcome.COMPLETE, Outcome.DISCONNECTED, Outcome.CUT, Outcome.LOST}


@dataclass(frozen=True, slots=True, kw_only=True)
class BillLine:
    """One request."""

    #: Order of arrival, from 1. Never used twice.
    sequence_no: int
    request_id: str
    #: Empty where there was no message.
    message_id: str
    #: Path of the request.
    endpoint: str
    #: What was asked for: `explorer`, `closing`, `solver`, `judge`; empty if it was not understood.
    kind: str
    model: str
    usage: Usage
    inference_geo: str
    amount_pico_usd: int
    amount_nano_usd: int
    outcome: Outcome
    billed: bool
    #: None where no status was ever sent.
    http_status: int | None
    stop_reason: str | None
    #: `metadata.user_id` of the request, None for none.
    user_id: str | None
    #: The fault that was played on this request; empty for none.
    fault: str
    received_ms: int
    ended_ms: int

    def as_json(self) -> dict[str, Any]:
        """Return the line as a JSON object."""
        return asdict(self)


class Bill:
    """All lines, in the order in which requests ended. Thread-safe."""

    def __init__(self, path: Path | None = None) -> None:
        """Start an empty bill.

        Args:
            path: A file to which every line is also written as JSON, flushed; None for none.
        """
        self._lock = threading.Lock()
        self._lines: list[BillLine] = []
        self._file: IO[str] | None = path.open("a", encoding="utf-8") if path else None

    def add(self, line: BillLine) -> None:
        """Put a line on the bill."""
        with self._lock:
            self._lines.append(line)
            self._write(line.as_json())

    def lines(self) -> tuple[BillLine, ...]:
        """Return every line since the start or the last reset."""
        with self._lock:
            return tuple(self._lines)

    @property
    def total_nano_usd(self) -> int:
        """The sum of all amounts."""
        return sum(line.amount_nano_usd for line in self.lines())

    def reset(self) -> None:
        """Start anew. The file keeps what it has and says where the new bill starts."""
        with self._lock:
            self._lines.clear()
            self._write({"reset": True})

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
