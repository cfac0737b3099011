from __future__ import annotations

import json
import os
import sqlite3
import tarfile
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings

from tests.unit.bundle.homes import CONFIG, make_home, pack_and_open, tau_home, write_store
from tests.unit.traces.test_sqlite import rows
from worker.bundle import pack
from worker.bundle.redaction import MASK, Redactor
from worker.bundle.snapshot import copy_store, export_store
from worker.errors import BundleInvalid
from worker.traces.source import STEP_COLUMNS, TRACE_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct-horse-EXAMPLE"
TAU_SECRETS = (PASSWORD, "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")


def members(packed: Path) -> dict[str, bytes]:
    with tarfile.open(packed) as archive:
        found = {info.name: archive.extractfile(info) for info in archive.getmembers()}
        return {name: file.read() for name, file in found.items() if file is not None}


def test_a_home_packs_to_a_file_named_after_its_hash(tmp_path: Path) -> None:
    packed = pack(tau_home(), tmp_path)

    assert packed.path.name == f"{packed.sha256}.tar.gz"
    assert packed.size_bytes == packed.path.stat().st_size
    assert set(members(packed.path)) == {
        "agents/airline/system_prompt.md",
        "benchmark.json",
        "bundle.json",
        "config.toml",
        "tools/descriptions.toml",
        "traces.db",
    }
    assert [path.name for path in tmp_path.iterdir()] == [packed.path.name]


def test_no_credential_of_the_home_leaves_the_machine(tmp_path: Path) -> None:
    packed = pack(tau_home(), tmp_path)

    for name, content in members(packed.path).items():
        assert not [secret for secret in TAU_SECRETS if secret.encode() in content], name


def test_a_credential_is_masked_wherever_the_home_repeats_it(tmp_path: Path) -> None:
    home = make_home(
        tmp_path / "home",
        traces=[
            {
                "trace_id": f"t-{PASSWORD}",
                "query": f"it is {PASSWORD}!",
                "result": f"x{PASSWORD}".encode(),
                "metadata": json.dumps({PASSWORD: [PASSWORD]}),
                "messages": json.dumps([{"content": json.dumps({"p": PASSWORD})}]),
            }
        ],
        steps=[{"trace_id": f"t-{PASSWORD}", "output": f'{{"broken": "{PASSWORD}'}],
        samples=[
            {
                "trace_id": "t",
                "query": f"Say {PASSWORD}",
                "reference_answer": PASSWORD,
                "metadata": {"note": [PASSWORD]},
            }
        ],
        prompts={"a": f"The password is {PASSWORD}."},
        tools=f'[login]\ndescription = "logs in with {PASSWORD}"\n',
    )

    packed = pack(home, tmp_path / "out")

    for name, content in members(packed.path).items():
        assert PASSWORD.encode() not in content, name
    assert packed.masked_cells == 7


def test_the_same_home_packs_to_the_same_bytes(tmp_path: Path) -> None:
    home = make_home(
        tmp_path / "home",
        traces=[{"trace_id": f"t{number}", "query": "q" * number} for number in range(50)],
        steps=[{"trace_id": f"t{number}", "step_index": 0} for number in range(50)],
        prompts={"b": "B", "a": "A"},
        tools='[z]\ndescription = "Z"\n[a]\ndescription = "A"\n',
    )
    first = pack(home, tmp_path / "one")
    for path in home.rglob("*"):
        os.utime(path, (0, 0))

    second = pack(home, tmp_path / "two")

    with tarfile.open(first.path) as archive:
        found = archive.getmembers()
    assert [info.name for info in found] == sorted(info.name for info in found)
    assert {(i.mtime, i.uid, i.gid, i.uname, i.gname) for i in found} == {(0, 0, 0, "", "")}
    assert first.path.read_bytes()[4:8] == b"\0" * 4, "gzip, too, has a time in its header"
    assert second.sha256 == first.sha256
    assert second.path.read_bytes() == first.path.read_bytes()


@settings(max_examples=30)
@given(traces=rows(TRACE_COLUMNS), steps=rows(STEP_COLUMNS))
def test_the_same_rows_export_to_the_same_bytes_and_rows(
    tmp_path_factory: pytest.TempPathFactory,
    traces: list[dict[str, Any]],
    steps: list[dict[str, Any]],
) -> None:
    folder = tmp_path_factory.mktemp("export")
    store = write_store(folder / "traces.db", traces, steps)
    masked = 0
    for name in ("one.db", "two.db"):
        copy_store(store, folder / f"copy-{name}")
        masked = export_store(folder / f"copy-{name}", folder / name, Redactor())

    assert (folder / "one.db").read_bytes() == (folder / "two.db").read_bytes()
    with closing(sqlite3.connect(folder / "one.db")) as connection:
        connection.text_factory = bytes
        found = connection.execute("SELECT * FROM traces ORDER BY id").fetchall()
    with closing(sqlite3.connect(store)) as connection:
        connection.text_factory = bytes
        expected = connection.execute("SELECT rowid, * FROM traces ORDER BY 1").fetchall()
    if not masked:
        assert found == expected


def test_what_was_deleted_from_the_store_does_not_come_along(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", traces=[{"trace_id": "gone", "query": "SWORDFISH " * 500}])
    with closing(sqlite3.connect(home / "traces.db")) as connection, connection:
        connection.execute("DELETE FROM traces")
        connection.execute("CREATE TABLE private(note)")
        connection.execute("INSERT INTO private VALUES ('MARLIN')")

    content = members(pack(home, tmp_path / "out").path)["traces.db"]

    assert b"SWORDFISH" not in content
    assert b"MARLIN" not in content


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_packing_while_a_writer_writes_gives_one_moment(tmp_path: Path, journal: str) -> None:
    home = make_home(tmp_path / "home")
    stop = threading.Event()
    started = threading.Event()

    def write() -> None:
        # Every transaction adds a trace with two steps, so any moment has twice as many steps.
        with closing(sqlite3.connect(home / "traces.db", timeout=30)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.execute("PRAGMA wal_autocheckpoint = 20")
            number = 0
            while not stop.is_set():
                with connection:
                    connection.execute(
                        "INSERT INTO traces(trace_id, query) VALUES (?, ?)",
                        (f"t{number}", "x" * 2_000),
                    )
                    for index in range(2):
                        connection.execute(
                            "INSERT INTO trace_steps(trace_id, step_index) VALUES (?, ?)",
                            (f"t{number}", index),
                        )
                number += 1
                started.set()
                # A writer that never rests would starve readers of a store without WAL.
                stop.wait(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert started.wait(30)
        for number in range(4):
            with pack_and_open(home, tmp_path / f"bundle-{number}") as bundle:
                report = bundle.report.traces
                assert report.steps == 2 * report.traces
                assert report.orphan_steps == 0
                assert report.traces > 0
    finally:
        stop.set()
        writer.join()


def test_rows_that_are_still_in_the_log_are_packed(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    with closing(sqlite3.connect(home / "traces.db")) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("INSERT INTO traces(trace_id) VALUES ('in the log')")
        connection.commit()

        with pack_and_open(home, tmp_path / "b") as bundle:
            assert bundle.traces.get("in the log") is not None


def test_a_store_that_stays_locked_is_refused_and_never_read_torn(tmp_path: Path) -> None:
    store = make_home(tmp_path / "home") / "traces.db"
    with closing(sqlite3.connect(store, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")

        with pytest.raises(BundleInvalid, match=r"locked by a writer for 0\.1 s"):
            copy_store(store, tmp_path / "copy.db", wait_s=0.1)

        writer.execute("ROLLBACK")
    copy_store(store, tmp_path / "copy.db", wait_s=0.1)


def test_a_task_about_keys_is_packed_as_it_is_scored(tmp_path: Path) -> None:
    sample = {"trace_id": "t", "query": "Write an AWS key id", "reference_answer": TAU_SECRETS[1]}

    with pack_and_open(make_home(tmp_path / "home", samples=[sample]), tmp_path / "b") as bundle:
        assert bundle.benchmark.samples[0].reference_answer == TAU_SECRETS[1]


# -------------------------------------------------------------------------------------- odd homes


def test_a_home_that_is_none_is_refused_by_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()

    with pytest.raises(BundleInvalid, match="is missing"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(BundleInvalid, match="is not a directory"):
        pack(tmp_path / "file", tmp_path / "out")
    with pytest.raises(BundleInvalid, match=r"holds no traces\.db"):
        pack(tmp_path / "empty", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_home_without_a_benchmark_wants_one_named(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    (home / "benchmark.json").rename(tmp_path / "mine.json")

    with pytest.raises(BundleInvalid, match=r"no benchmark\.json"):
        pack(home, tmp_path / "out")

    assert pack(home, tmp_path / "out", benchmark=tmp_path / "mine.json").size_bytes


def test_a_bad_benchmark_is_named_by_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"samples": [{"trace_id": "t"}]}')

    with pytest.raises(
        BundleInvalid, match=r"mine\.json has unusable samples: samples\[0\]\.query"
    ):
        pack(make_home(tmp_path / "home"), tmp_path / "out", benchmark=tmp_path / "mine.json")
    with pytest.raises(BundleInvalid, match=r"nowhere\.json' cannot be read"):
        pack(make_home(tmp_path / "b"), tmp_path / "out", benchmark=tmp_path / "nowhere.json")


def test_a_store_that_is_none_is_refused(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    (home / "traces.db").write_bytes(b"junk" * 1_000)

    with pytest.raises(BundleInvalid, match="not a database"):
        pack(home, tmp_path / "out")


def test_no_link_leads_out_of_the_home(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", prompts={"good": "inside"})
    (tmp_path / "private.md").write_text("SWORDFISH")
    (home / "agents" / "evil").mkdir()
    (home / "agents" / "evil" / "system_prompt.md").symlink_to(tmp_path / "private.md")

    packed = pack(home, tmp_path / "out")

    assert "agents/evil/system_prompt.md" not in members(packed.path)
    assert any("link out of the home" in remark for remark in packed.remarks)
    (home / "traces.db").rename(tmp_path / "elsewhere.db")
    (home / "traces.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(BundleInvalid, match="link out of the home"):
        pack(home, tmp_path / "out")


def test_what_can_be_left_out_is_left_out_and_said(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", config=None, tools="not = = toml", prompts={"x" * 200: "p"})
    (home / "agents" / "large").mkdir()
    (home / "agents" / "large" / "system_prompt.md").write_bytes(b"x" * (2**20 + 1))

    packed = pack(home, tmp_path / "out")

    said = "\n".join(packed.remarks)
    for word in ("holds no config.toml", "not valid TOML", "no usable name", "1,048,577 bytes"):
        assert word in said
    assert members(packed.path)["config.toml"] == b""


def test_a_configuration_that_is_no_toml_still_hides_its_credentials(tmp_path: Path) -> None:
    home = make_home(
        tmp_path / "home",
        config=CONFIG + "\n[broken",
        traces=[{"trace_id": "t", "query": f"it is {PASSWORD}"}],
    )

    found = members(pack(home, tmp_path / "out").path)

    assert not [name for name, content in found.items() if PASSWORD.encode() in content]
    with pack_and_open(home, tmp_path / "b") as bundle:
        trace = bundle.traces.get("t")
        assert trace is not None
        assert trace.query == f"it is {MASK}"
