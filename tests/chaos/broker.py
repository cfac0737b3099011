"""A bad wire between workers and their broker: messages to the queues are lost, or come twice.

Rule: the broker and its clients stay whole. A message that is lost was acknowledged to its sender, as
by a broker that loses its memory; one that comes twice was sent once. Nothing else is touched.

It is done without a word more or less on the wire: where a client says `LPUSH queue message`, the
server hears `LLEN queue` (lost) or `LPUSH queue message message` (doubled); each is answered by one
number.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from worker.core.commands import Queue

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

__all__ = ["BadWire"]

_QUEUES = tuple(f":{queue.value}".encode() for queue in Queue)
_CHUNK_BYTES = 65_536


class BadWire:
    """A proxy in front of a Redis server, in a thread of its own; calm until told otherwise.

    What happens to a message is drawn from the seed, in the order in which messages come.
    """

    def __init__(self, server_port: int, *, seed: int) -> None:
        self._server_port = server_port
        self._draw = random.Random(seed)  # noqa: S311 - chance of a test
        self._lost = self._doubled = 0.0
        #: Messages to the queues that passed whole, were lost, or were doubled.
        self.seen: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        """Listen on a free port of loopback."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None, "it listens inside its `with`"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def storm(self, *, lost: float, doubled: float) -> None:
        """Lose and double these shares of the messages from now on, 0..1 each."""
        self._lost, self._doubled = lost, doubled

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _accept(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)
        server_out: asyncio.StreamWriter | None = None
        with suppress(OSError, EOFError, asyncio.CancelledError):
            server_in, server_out = await asyncio.open_connection("127.0.0.1", self._server_port)
            await _first_of(self._hear(client_in, server_out), _copy(server_in, client_out))
        for writer in (client_out, server_out):
            if writer is not None:
                writer.close()
                with suppress(OSError, asyncio.CancelledError):
                    await writer.wait_closed()

    async def _hear(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        """Hand a client's commands on, one by one."""
        while True:
            server.write(_told(self._changed(await _command(client))))
            await server.drain()

    def _changed(self, words: Sequence[bytes]) -> Sequence[bytes]:
        if words[0].upper() != b"LPUSH" or not words[1].endswith(_QUEUES):
            return words
        luck = self._draw.random()
        if luck < self._lost:
            self.seen["lost"] += 1
            return (b"LLEN", words[1])
        if luck < self._lost + self._doubled:
            self.seen["doubled"] += 1
            return (*words, *words[2:])
        self.seen["whole"] += 1
        return words


async def _command(client: asyncio.StreamReader) -> tuple[bytes, ...]:
    """Return the next command, an array of bulk strings as clients send it.

    Raises:
        EOFError: There is none any more.
    """
    return tuple([await _bulk(client) for _ in range(await _number(client, b"*"))])


async def _bulk(client: asyncio.StreamReader) -> bytes:
    body = await client.readexactly(await _number(client, b"$") + 2)
    return body[:-2]


async def _number(client: asyncio.StreamReader, mark: bytes) -> int:
    line = await client.readuntil(b"\r\n")
    assert line.startswith(mark), f"no client of Redis says {line!r}"
    return int(line[1:])


def _told(words: Sequence[bytes]) -> bytes:
    parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)]
    return b"".join(parts)


async def _copy(server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
    while chunk := await server.read(_CHUNK_BYTES):
        client.write(chunk)
        await client.drain()


async def _first_of(*talks: Coroutine[None, None, None]) -> None:
    """Return when one side has ended; the other one is ended too."""
    tasks = [asyncio.create_task(talk) for talk in talks]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
