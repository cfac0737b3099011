from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.unit.bundle.homes import make_home
from worker.bundle import BundleCache, pack
from worker.errors import BundleInvalid, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from worker.bundle import PackedBundle

LARGE = 10**9


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[PackedBundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return [
        pack(
            make_home(folder / f"home-{number}", traces=[{"trace_id": f"trace-{number}"}]),
            folder / "packed",
        )
        for number in range(8)
    ]


class Store:
    """Where bundles are fetched from; counts how often."""

    def __init__(self, bundles: list[PackedBundle]) -> None:
        self._paths = {bundle.sha256: bundle.path for bundle in bundles}
        self.fetched: list[str] = []

    def fetch(self, sha256: str) -> Callable[[Path], None]:
        def fetch(target: Path) -> None:
            self.fetched.append(sha256)
            shutil.copyfile(self._paths[sha256], target)

        return fetch


def folders(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.is_dir()}


def size_of_one(directory: Path, bundle: PackedBundle, store: Store) -> int:
    cache = BundleCache(directory, LARGE)
    cache.get(bundle.sha256, store.fetch(bundle.sha256)).close()
    cache.close()
    return sum(p.stat().st_size for p in (directory / bundle.sha256).rglob("*") if p.is_file())


def test_a_bundle_is_fetched_once_and_read_by_all(
    tmp_path: Path, bundles: list[PackedBundle]
) -> None:
    store, sha256 = Store(bundles), bundles[0].sha256
    cache = BundleCache(tmp_path, LARGE)

    with cache.get(sha256, store.fetch(sha256)) as first:
        with cache.get(sha256, store.fetch(sha256)) as second:
            assert first.traces is second.traces
        assert first.traces.get("trace-0") is not None
    cache.close()

    with BundleCache(tmp_path, LARGE).get(sha256, store.fetch(sha256)) as again:
        assert again.sha256 == sha256
        assert again.benchmark.task_ids == ("task-1",)
    assert store.fetched == [sha256]


def test_what_was_unused_for_longest_is_evicted(
    tmp_path: Path, bundles: list[PackedBundle]
) -> None:
    store = Store(bundles)
    room = int(size_of_one(tmp_path / "probe", bundles[0], store) * 2.5)
    cache = BundleCache(tmp_path / "cache", room)

    for bundle in (bundles[0], bundles[1], bundles[0], bundles[2]):
        cache.get(bundle.sha256, store.fetch(bundle.sha256)).close()

    assert folders(tmp_path / "cache") == {bundles[0].sha256, bundles[2].sha256}


def test_a_bundle_in_use_is_never_evicted(tmp_path: Path, bundles: list[PackedBundle]) -> None:
    store = Store(bundles)
    cache = BundleCache(tmp_path, max_bytes=1)

    with cache.get(bundles[0].sha256, store.fetch(bundles[0].sha256)) as held:
        for bundle in bundles[1:4]:
            cache.get(bundle.sha256, store.fetch(bundle.sha256)).close()
        assert bundles[0].sha256 in folders(tmp_path)
        assert held.traces.get("trace-0") is not None

    # Given back, it no longer stands in the way of the limit.
    assert folders(tmp_path) == set()
    assert {path.name for path in tmp_path.iterdir()} == {"cache.lock"}


@pytest.mark.parametrize("name", ["traces.db", "traces.index", "benchmark.json", "inventory.json"])
def test_a_damaged_bundle_is_fetched_again_even_while_somebody_holds_it(
    tmp_path: Path, bundles: list[PackedBundle], name: str
) -> None:
    store, sha256 = Store(bundles), bundles[0].sha256
    with BundleCache(tmp_path, LARGE).get(sha256, store.fetch(sha256)):
        (tmp_path / sha256 / name).write_bytes(b"damaged")

        with BundleCache(tmp_path, LARGE).get(sha256, store.fetch(sha256)) as bundle:
            assert bundle.traces.get("trace-0") is not None
    assert store.fetched == [sha256, sha256]


def test_a_broken_transfer_is_repeated_and_a_wrong_object_is_refused(
    tmp_path: Path, bundles: list[PackedBundle]
) -> None:
    right, wrong = bundles[0], bundles[1]
    given = iter([wrong.path, right.path, wrong.path, wrong.path])

    def fetch(target: Path) -> None:
        shutil.copyfile(next(given), target)

    cache = BundleCache(tmp_path, LARGE)
    cache.get(right.sha256, fetch).close()
    with pytest.raises(BundleInvalid, match="fetched 2 times"):
        cache.get(bundles[2].sha256, fetch)
    with pytest.raises(BundleInvalid, match="hashed to nothing"):
        cache.get(bundles[3].sha256, lambda _: None)

    assert folders(tmp_path) == {right.sha256}


def test_what_fetching_raises_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    def fetch(target: Path) -> None:
        target.write_bytes(b"half")
        raise Unavailable("the object store is away")

    with pytest.raises(Unavailable, match="away"):
        BundleCache(tmp_path, LARGE).get("0" * 64, fetch)

    assert {path.suffix for path in tmp_path.iterdir()} == {".lock", ".install"}


@pytest.mark.parametrize("name", ["", "../x", "0" * 63, "A" * 64, "0" * 64 + "\n", "0" * 65])
def test_only_a_hash_is_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleInvalid, match="SHA-256"):
        BundleCache(tmp_path, LARGE).get(name, lambda _: None)


def test_a_forgotten_bundle_is_given_back(tmp_path: Path, bundles: list[PackedBundle]) -> None:
    store = Store(bundles)
    cache = BundleCache(tmp_path, max_bytes=1)
    forgotten = cache.get(bundles[0].sha256, store.fetch(bundles[0].sha256))
    assert forgotten.sha256 in folders(tmp_path)

    del forgotten
    gc.collect()
    cache.close()

    assert folders(tmp_path) == set()


def test_leftovers_of_the_dead_are_cleaned_away(
    tmp_path: Path, bundles: list[PackedBundle]
) -> None:
    store, sha256 = Store(bundles), bundles[0].sha256
    for name in (f"{sha256}.partial", f"{'1' * 64}.partial", f"{'2' * 64}.gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "traces.db").write_bytes(b"half")
    (tmp_path / f"{'3' * 64}.download").write_bytes(b"half")
    (tmp_path / f"{'4' * 64}.lock").touch()

    BundleCache(tmp_path, LARGE).get(sha256, store.fetch(sha256)).close()

    assert {path.name for path in tmp_path.iterdir()} == {
        *(sha256, f"{sha256}.lock", f"{sha256}.install", "cache.lock")
    }


def test_threads_that_want_one_bundle_fetch_it_once(
    tmp_path: Path, bundles: list[PackedBundle]
) -> None:
    store, sha256 = Store(bundles), bundles[0].sha256
    cache = BundleCache(tmp_path, LARGE)
    together = threading.Barrier(16)

    def read(_: int) -> int:
        together.wait(30)
        with cache.get(sha256, store.fetch(sha256)) as bundle:
            return bundle.traces.list().total

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(read, range(16))) == [1] * 16
    assert store.fetched == [sha256]


def test_threads_share_a_cache_that_is_too_small_for_them(
    tmp_path: Path, bundles: list[PackedBundle]
) -> None:
    store = Store(bundles)
    cache = BundleCache(tmp_path, max_bytes=1)

    def read(turn: int) -> bool:
        number = turn % len(bundles)
        bundle = bundles[number]
        with cache.get(bundle.sha256, store.fetch(bundle.sha256)) as opened:
            return opened.traces.get(f"trace-{number}") is not None

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(64)))
    cache.close()
    assert folders(tmp_path) == set()


READER = """
import shutil, sys
from pathlib import Path
from worker.bundle import BundleCache

cache = BundleCache(Path(sys.argv[1]), int(sys.argv[2]))
for turn in range(12):
    for path in map(Path, sys.argv[3:]):
        with cache.get(path.name.split(".")[0], lambda target: shutil.copyfile(path, target)) as b:
            assert b.traces.list().total == 1, path
print("read")
"""


@pytest.mark.parametrize("max_bytes", [1, LARGE])
def test_processes_share_a_cache(
    tmp_path: Path, bundles: list[PackedBundle], max_bytes: int
) -> None:
    paths = [str(bundle.path) for bundle in bundles[:3]]
    arguments = [sys.executable, "-c", READER, str(tmp_path), str(max_bytes)]
    readers = [
        subprocess.Popen([*arguments, *order], stdout=subprocess.PIPE, text=True)
        for order in (paths, paths[::-1], paths)
    ]
    said = [reader.communicate(timeout=50)[0] for reader in readers]

    assert said == ["read\n"] * 3
    kept = bundles[:3] if max_bytes == LARGE else []
    assert folders(tmp_path) == {bundle.sha256 for bundle in kept}


HOLDER = """
import shutil, sys
from pathlib import Path
from worker.bundle import BundleCache

path = Path(sys.argv[2])
held = BundleCache(Path(sys.argv[1]), 1).get(
    path.name.split(".")[0], lambda target: shutil.copyfile(path, target)
)
print("held", flush=True)
sys.stdin.read()
"""


def test_what_another_process_uses_stays_until_that_process_dies(
    tmp_path: Path, bundles: list[PackedBundle]
) -> None:
    store, cache = Store(bundles), BundleCache(tmp_path, max_bytes=1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), str(bundles[0].path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        cache.get(bundles[1].sha256, store.fetch(bundles[1].sha256)).close()
        assert bundles[0].sha256 in folders(tmp_path)
        holder.kill()
    cache.get(bundles[1].sha256, store.fetch(bundles[1].sha256)).close()

    assert folders(tmp_path) == set()
