"""Artifacts in any S3-compatible store, through boto3.

Rule: every write carries the SHA-256 of what was meant, and every error of botocore leaves here
as `Unavailable` (wait) or `Misconfigured` (fix it, with the cure).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import random
import shutil
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

from worker.artifacts.files import replacing
from worker.errors import DiagnosisError, Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import botocore.session
    from botocore.exceptions import ClientError
    from botocore.loaders import JSONFileLoader
    from types_boto3_s3.client import S3Client

__all__ = ["S3Artifacts"]

_T = TypeVar("_T")

#: As many as a worker has slots; beyond it botocore opens connections that it does not keep.
_POOL_CONNECTIONS = 32
_COPY_BYTES = 1 << 20
#: How often a conditional write is tried while another one for the same key is under way (409).
_CONFLICT_TRIES = 6
_CONFLICT_WAIT_MS = 50

_ABSENT = frozenset({"NoSuchKey", "404"})
_EXISTS = frozenset({"PreconditionFailed", "412"})
_CONFLICT = frozenset({"ConditionalRequestConflict", "OperationAborted", "409"})

#: Codes that say "fix something", with what to fix. `_cure` adds those that a status tells.
_CURES = {
    "NoSuchBucket": "There is no such bucket: create it, or correct its name in the settings.",
    "RequestTimeTooSkewed": "The clocks of this machine and of the store differ: correct them.",
    "AuthorizationHeaderMalformed": "The store is in another region: correct it in the settings.",
    "EntityTooLarge": "The object is too large for the store: raise its limit.",
    "NotImplemented": "The store lacks conditional writes (If-None-Match) or checksums: take one "
    "that has them, such as SeaweedFS 4, MinIO or AWS.",
}
_KEYS_CURE = "The access key, its secret or its permissions are wrong: correct the settings."
_PLACE_CURE = "The bucket is at another address: correct the endpoint or the region."
_PATH_CURE = "Check the endpoint, its certificate and the proxy settings."
_OTHER_CURE = "The store refuses such requests: check endpoint, bucket and permissions."

#: 4xx that pass by themselves: a busy or broken path, or bytes that were damaged under way.
_PASSING = frozenset(
    {"BadDigest", "InvalidDigest", "RequestTimeout", "SlowDown", "Throttling"}
    | {"XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"}
)
#: Whose addresses are kept: the store, and where roles and single sign-on get their keys.
_SERVICES = frozenset({"s3", "sts", "sso", "oidc", "portal.sso"})
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501


class S3Artifacts:
    """Objects in one bucket. Safe to share between threads; close it when done."""

    def __init__(
        self,
        bucket: str,
        *,
        endpoint_url: str | None = None,
        region: str = "us-east-1",
        access_key: str | None = None,
        secret_key: str | None = None,
        connect_timeout_ms: int = 3_000,
        read_timeout_ms: int = 20_000,
        attempts: int = 4,
    ) -> None:
        """Build a client; nothing is sent yet.

        Args:
            bucket: The bucket, which must exist.
            endpoint_url: None for AWS itself.
            region: Any name where the store has none.
            access_key: None for what boto3 finds itself: a role, the environment, a profile.
            secret_key: Belongs to `access_key`.
            connect_timeout_ms: For each try.
            read_timeout_ms: The longest silence within a try.
            attempts: How often botocore sends a request that fails in passing, the first included.

        Raises:
            Misconfigured: boto3 cannot build a client from these.
        """
        self._bucket = bucket
        self._where = f"bucket {bucket!r} at {endpoint_url or 'AWS'}"
        self._s3: S3Client = self._translated(
            "set up the client",
            lambda: _client(
                endpoint_url=endpoint_url,
                region=region,
                access_key=access_key,
                secret_key=secret_key,
                timeouts_s=(connect_timeout_ms / 1000, read_timeout_ms / 1000),
                attempts=attempts,
            ),
        )

    # ------------------------------------------------------------------------------------- writing

    def put(self, key: str, body: bytes, *, content_type: str) -> None:
        """Write an object with a checksum, overwriting."""
        self._translated(
            f"write {key!r}",
            lambda: self._s3.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=body,
                ContentType=content_type,
                **_checksum(hashlib.sha256(body).digest()),
            ),
        )

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        """Write an object only if there is none; False where one exists.

        False may also mean that this very write arrived although its answer was lost and it was
        sent again: a caller to whom that matters compares the object with its own.
        """
        return self._create(
            key,
            lambda: self._s3.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=body,
                ContentType=content_type,
                IfNoneMatch="*",
                **_checksum(hashlib.sha256(body).digest()),
            ),
        )

    def put_file(self, key: str, path: Path, *, content_type: str) -> bool:
        """Write a file of up to 5 GiB as a new object, streamed; False where one exists."""
        with path.open("rb") as file:
            checksum = _checksum(hashlib.file_digest(file, "sha256").digest())

            def put() -> object:
                file.seek(0)
                return self._s3.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=file,
                    ContentType=content_type,
                    IfNoneMatch="*",
                    **checksum,
                )

            return self._create(key, put)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        self._translated(
            f"delete {key!r}", lambda: self._s3.delete_object(Bucket=self._bucket, Key=key)
        )

    # ------------------------------------------------------------------------------------- reading

    def get(self, key: str) -> bytes | None:
        """Return an object, None where there is none."""

        def read() -> bytes:
            reply = self._s3.get_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
            with contextlib.closing(reply["Body"]) as body:
                return body.read()

        return self._unless(_ABSENT, f"read {key!r}", read)

    def get_file(self, key: str, path: Path) -> bool:
        """Write an object to `path`, whole or not at all; False where there is none."""

        def read() -> bool:
            reply = self._s3.get_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
            with contextlib.closing(reply["Body"]) as body, replacing(path) as file:
                shutil.copyfileobj(body, file, _COPY_BYTES)
            return True

        return self._unless(_ABSENT, f"read {key!r}", read) is not None

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        found = self._unless(
            _ABSENT,
            f"look for {key!r}",
            lambda: self._s3.head_object(Bucket=self._bucket, Key=key),
        )
        return found is not None

    def list(self, prefix: str) -> tuple[str, ...]:
        """Return the keys under a prefix, sorted."""

        def read() -> tuple[str, ...]:
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix
            )
            found = (item.get("Key") for page in pages for item in page.get("Contents", ()))
            return tuple(sorted(key for key in found if key is not None))

        return self._translated(f"list {prefix!r}", read)

    def uri(self, key: str) -> str:
        """Return `s3://bucket/key`."""
        return f"s3://{self._bucket}/{key}"

    def close(self) -> None:
        """Close the connections."""
        self._s3.close()

    # -------------------------------------------------------------------------------------- errors

    def _create(self, key: str, put: Callable[[], object]) -> bool:
        """Carry out a conditional write, again while another one is in its way."""
        for tries in range(1, _CONFLICT_TRIES + 1):
            try:
                return self._unless(_EXISTS, f"write {key!r}", put) is not None
            except Unavailable as error:
                if error.facts.get("code") not in _CONFLICT or tries == _CONFLICT_TRIES:
                    raise
                time.sleep(tries * _CONFLICT_WAIT_MS * random.uniform(0.5, 1.5) / 1000)  # noqa: S311  # jitter
        raise AssertionError("unreachable")

    def _unless(self, codes: frozenset[str], doing: str, call: Callable[[], _T]) -> _T | None:
        """Return what `call` returns, None where the store answers with one of `codes`."""
        try:
            return self._translated(doing, call)
        except DiagnosisError as error:
            if error.facts.get("code") in codes:
                return None
            raise

    def _translated(self, doing: str, call: Callable[[], _T]) -> _T:
        """Return what `call` returns, with botocore's errors said in ours."""
        # Loaded with the client at the latest; here only so that importing this module is free.
        from botocore import exceptions  # noqa: PLC0415

        try:
            return call()
        except exceptions.ClientError as exc:
            raise self._refusal(doing, exc) from exc
        except (exceptions.SSLError, exceptions.ProxyConnectionError) as exc:
            raise Misconfigured(f"Cannot {doing} in {self._where}: {exc}. {_PATH_CURE}") from exc
        except RecursionError as exc:
            # botocore asks an endpoint that redirects everything for the way until its stack ends.
            raise Misconfigured(
                f"Cannot {doing} in {self._where}: redirected. {_PLACE_CURE}"
            ) from exc
        except (
            exceptions.ConnectionError,
            exceptions.HTTPClientError,
            exceptions.IncompleteReadError,
            exceptions.FlexibleChecksumError,
        ) as exc:
            raise Unavailable(f"Cannot {doing} in {self._where}: {exc}") from exc
        except exceptions.BotoCoreError as exc:
            raise Misconfigured(f"Cannot {doing} in {self._where}: {exc}. {_KEYS_CURE}") from exc

    def _refusal(self, doing: str, exc: ClientError) -> DiagnosisError:
        """Return what an answer of the store means."""
        code = exc.response.get("Error", {}).get("Code", "")
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = f"Cannot {doing} in {self._where}: the store said {code or status!r}."
        facts: dict[str, Any] = {"code": code or str(status), "status": status}
        server_fault = status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED
        if server_fault or status == _TOO_MANY_REQUESTS or code in _PASSING | _CONFLICT:
            return Unavailable(said, **facts)
        return Misconfigured(f"{said} {_cure(code, status)}", **facts)


def _cure(code: str, status: int) -> str:
    """Return what to do about a refusal."""
    if code in _CURES:
        return _CURES[code]
    match status:
        case 401 | 403:
            return _KEYS_CURE
        case 301 | 302 | 307 | 308:
            return _PLACE_CURE
        case 413:
            return _CURES["EntityTooLarge"]
        case 501:
            return _CURES["NotImplemented"]
        case _:
            return _OTHER_CURE


def _checksum(sha256: bytes) -> dict[str, Any]:
    """Return the arguments that have the store compare what arrives with this hash."""
    return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": base64.b64encode(sha256).decode()}


def _client(
    *,
    endpoint_url: str | None,
    region: str,
    access_key: str | None,
    secret_key: str | None,
    timeouts_s: tuple[float, float],
    attempts: int,
) -> S3Client:
    """Build the boto3 client. Imported here: boto3 takes 40 MB, and not every worker uploads."""
    import boto3.session  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        signature_version="s3v4",
        connect_timeout=timeouts_s[0],
        read_timeout=timeouts_s[1],
        max_pool_connections=_POOL_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # Other stores have no bucket names in their DNS.
        s3={"addressing_style": "path"},
    )
    try:
        client = boto3.session.Session(botocore_session=_lean_session()).client(
            "s3",
            config=config,
            endpoint_url=endpoint_url,
            region_name=region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
        )
    except ValueError as exc:  # a malformed endpoint
        raise Misconfigured(f"Cannot use the S3 settings: {exc}. {_PLACE_CURE}") from exc
    client.meta.events.register_last("before-call.s3", _send_at_once)
    return client


def _lean_session() -> botocore.session.Session:
    """Return a session that keeps of botocore's descriptions only what a client of S3 reads.

    They hold the documentation of every operation and the addresses of every service: 10 MB.
    """
    import botocore.session  # noqa: PLC0415
    from botocore.loaders import create_loader  # noqa: PLC0415

    session = botocore.session.Session()
    loader = create_loader(session.get_config_variable("data_path"))
    loader.file_loader = cast("JSONFileLoader", _LeanFiles(loader.file_loader))
    session.register_component("data_loader", loader)
    return session


class _LeanFiles:
    """Reads botocore's JSON files without what nobody here looks at."""

    def __init__(self, files: JSONFileLoader) -> None:
        self._files = files

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self._files.exists(path)

    def load_file(self, path: str) -> Any:  # noqa: ANN401 - a file holds what it holds
        """Return what the file holds, None where there is none."""
        return _lean(self._files.load_file(path))


def _lean(value: Any) -> Any:  # noqa: ANN401 - a part of a JSON file
    """Return `value` in plain dictionaries, without documentation and foreign services."""
    if isinstance(value, list):
        return [_lean(part) for part in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    if "services" in fields:
        fields["services"] = {k: v for k, v in fields["services"].items() if k in _SERVICES}
    return {
        # Empty and not gone: botocore reads some of it, to pass it on.
        name: "" if name == "documentation" and isinstance(part, str) else _lean(part)
        for name, part in fields.items()
    }


def _send_at_once(params: dict[str, Any], **_: Any) -> None:
    """Send a body from memory without asking first.

    botocore waits up to 1 s for "100 Continue" before each body. That saves sending a bundle that
    is there already, but costs a round trip, and the whole second where writers compete for a key.
    """
    if isinstance(params.get("body"), io.BytesIO):
        params["headers"].pop("Expect", None)
