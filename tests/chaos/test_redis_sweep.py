"""The deployed Lua scripts in the sweep: what memory leaves after a strike, Redis leaves as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.laws import Came, broken_laws, came_of, left_by
from tests.chaos.points import Way
from tests.chaos.redis_stores import RedisStores
from tests.chaos.stories import STORIES, WHOLE
from tests.chaos.sweep import Sweep
from tests.chaos.world import World
from worker.embedded.valkey import ValkeyServer
from worker.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.figures import Figures
    from tests.chaos.stories import Story
    from worker.steps.workspace import Workspace

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout("600")]

#: Operations that write: the others leave nothing behind in Redis, so memory has told of them.
_WRITES = frozenset(
    f"journal.{name}"
    for name in (
        "append",
        "beat",
        "claim",
        "commit",
        "create",
        "drive",
        "release",
        "retry",
        "sweep",
    )
) | frozenset(
    f"ledger.{name}"
    for name in (
        *("charge_unknown", "expire_overdue", "extend", "narrow", "open_account", "reserve"),
        *("sent", "settle", "void"),
    )
)
_HOW = "virtual clock, the deployed scripts in Valkey; tests/chaos/test_redis_sweep.py"


class ForgetfulConnection(redis.Connection):
    """Carries out every script, and then loses its reply once; of `spared` every other time.

    What a sweep tells is told by its reply alone: if all of them were lost, nobody would ever hear.
    """

    spared = ""
    lost = 0
    _loses = False
    #: One thread, so one command at a time: the repeat of a lost one gets through.
    _lost_last = False
    _spare = False

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        cls = ForgetfulConnection
        self._loses = args[0] == "EVALSHA" and not cls._lost_last
        if self._loses and args[1] == cls.spared:
            self._loses = cls._spare = not cls._spare
        super().send_command(*args, **kwargs)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        reply = cast("Any", super().read_response(*args, **kwargs))
        cls = ForgetfulConnection
        cls._lost_last = self._loses
        if self._loses:
            self._loses = False
            cls.lost += 1
            raise redis.ConnectionError("the reply was lost")
        return reply


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A Valkey that forgets at a crash: no crash of it is asked for here."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"), appendfsync="no")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def client(server: ValkeyServer) -> Iterator[redis.Redis]:
    with connect(server.url) as client:
        yield client


@pytest.mark.parametrize("story", STORIES.values(), ids=lambda story: story.name)
def test_redis_leaves_the_same_bytes_as_memory(
    workspace: Workspace, client: redis.Redis, story: Story
) -> None:
    memory, valkey = (World(story, workspace, stores=s) for s in (None, RedisStores(client)))
    memory.run()
    valkey.run()

    assert valkey.points == memory.points
    assert left_by(valkey) == left_by(memory)


def test_redis_survives_every_strike_as_memory_does(
    workspace: Workspace, client: redis.Redis, figures: Figures
) -> None:
    memory = Sweep(WHOLE, workspace)
    valkey = Sweep(WHOLE, workspace, stores=lambda: RedisStores(client))
    runs, different = 0, list[str]()

    for number, way in memory.places((Way.BEFORE, Way.AFTER)):
        if memory.points[number].name not in _WRITES:
            continue
        runs += 1
        theirs, ours = (sweep.run({number: way}) for sweep in (memory, valkey))
        if left_by(ours) != left_by(theirs) or ours.started != theirs.started or ours.wrong:
            different.append(f"{memory.points[number].name} {way.value}: {ours.wrong}")

    figures.most("Redis differs from memory", len(different), f"of {runs} runs", 0, _HOW)
    assert runs > 150
    assert not different


def test_a_session_survives_that_every_reply_of_redis_is_lost_once(
    workspace: Workspace, server: ValkeyServer, client: redis.Redis, figures: Figures
) -> None:
    calm = Sweep(WHOLE, workspace).calm
    pool = redis.ConnectionPool.from_url(
        server.url,
        connection_class=ForgetfulConnection,
        decode_responses=True,
        retry=Retry(NoBackoff(), 3),
    )
    with redis.Redis.from_pool(pool) as forgetful:
        stores = RedisStores(client, forgetful)
        ForgetfulConnection.spared = stores.journal._scripts["sweep"]._script.sha
        world = World(WHOLE, workspace, stores=stores)
        world.run()

    left = left_by(world)
    broken = broken_laws(world, left, calm)
    assert ForgetfulConnection.lost > 90
    assert broken == []
    assert came_of(world, left, calm, broken=False) in {Came.SAME, Came.LATER}
    figures.most(
        "every reply of Redis lost once: broken laws",
        len(broken),
        f"after {ForgetfulConnection.lost} lost replies",
        0,
        _HOW,
    )
