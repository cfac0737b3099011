"""Epochs and marks are read back as they were written, or refused."""

from __future__ import annotations

import json

import pytest

from worker.core.epoch import Mark
from worker.errors import UnknownVersion
from worker.ports import Account
from worker.wire.epoch import (
    StoredEpoch,
    StoredMark,
    decode_epoch,
    decode_mark,
    encode_epoch,
    encode_mark,
)

EPOCH = StoredEpoch(epoch="00000001-a", fleet="diagnosis", began_ms=1, why="provisioned")
MARK = StoredMark(
    epoch="00000001-a",
    mark=Mark(3, "x"),
    at_ms=1,
    killed=False,
    accounts=(Account(scope="fleet", cap_nusd=5, posted_nusd=1, held_nusd=0),),
)


def test_what_was_written_is_read() -> None:
    assert decode_epoch(encode_epoch(EPOCH)) == EPOCH
    assert decode_mark(encode_mark(MARK)) == MARK


def test_what_a_newer_worker_says_besides_is_passed_over() -> None:
    told = json.loads(encode_mark(MARK))
    told["accounts"][0]["colour"] = "green"

    assert decode_mark(json.dumps({**told, "more": 1}).encode()) == MARK


@pytest.mark.parametrize("posted", ["many", None, 1.5, {}])
def test_an_amount_that_is_none_is_refused(posted: object) -> None:
    told = json.loads(encode_mark(MARK))
    told["accounts"][0]["posted_nusd"] = posted

    with pytest.raises(UnknownVersion, match="as a mark"):
        decode_mark(json.dumps(told).encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"v": 2}', b'{"v": 1}'])
def test_what_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(UnknownVersion, match="as an epoch"):
        decode_epoch(raw)
