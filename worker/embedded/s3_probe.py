"""Whether an S3 server stores and gives back an object: one signed request, without an S3 client.

Rule: it asks for what clients will ask for. A server that answers on its port may still refuse every
object for seconds, while its parts find each other.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

__all__ = ["S3Probe"]

_TIMEOUT_S = 1.0
_REGION = "us-east-1"
_CONTENT = b"stored"
_SIGNED = "host;x-amz-content-sha256;x-amz-date"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Probe:
    """A probe of an S3 server on loopback."""

    port: int
    access_key: str
    secret_key: str
    #: `/bucket/key` of an object that nobody else uses.
    path: str

    def succeeds(self) -> bool:
        """Whether the object can be read; writes it where it is missing, to be read next time.

        Raises:
            OSError: Nobody answers.
        """
        status, date = self._send("GET", {}, b"")
        if status != HTTPStatus.FORBIDDEN or not date:
            return False
        # The server's own clock: a signature is good for a quarter of an hour around it.
        at = f"{parsedate_to_datetime(date):%Y%m%dT%H%M%SZ}"
        status, _ = self._send("GET", self._signature("GET", b"", at), b"")
        if status == HTTPStatus.NOT_FOUND:
            self._send("PUT", self._signature("PUT", _CONTENT, at), _CONTENT)
        return status == HTTPStatus.OK

    def _send(self, method: str, headers: dict[str, str], body: bytes) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, self.path, body, headers)
            response = connection.getresponse()
            response.read()
            return response.status, response.headers.get("date", "")
        except HTTPException:
            return 0, ""
        finally:
            connection.close()

    def _signature(self, method: str, body: bytes, at: str) -> dict[str, str]:
        """Return the headers of AWS Signature Version 4."""
        hashed = hashlib.sha256(body).hexdigest()
        headers = {"x-amz-content-sha256": hashed, "x-amz-date": at}
        signed = f"host:127.0.0.1:{self.port}\nx-amz-content-sha256:{hashed}\nx-amz-date:{at}\n"
        request = f"{method}\n{self.path}\n\n{signed}\n{_SIGNED}\n{hashed}"
        scope = f"{at[:8]}/{_REGION}/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = _mac(key, part)
        signature = _mac(key, f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{digest}").hex()
        credential = f"Credential={self.access_key}/{scope}"
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={_SIGNED}, Signature={signature}"
        )
        return headers


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
