"""Requests and answers, and what is common to all of them."""

from __future__ import annotations

import http.client
import json
import selectors
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote as _quote, urlsplit


def quote(part: str) -> str:
    return _quote(part, safe="@")


def entity_tag(generation: str | None) -> str | None:
    """A generation as `ETag` and `If-Match` have it."""
    return None if generation is None else f'"{generation}"'


class TrawlError(Exception):
    """A refusal or a failure: `status`, `code`, the `request_id` of the server's log, and what the server says of it in `problem`."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after: str | None = None, request_id: str | None = None):
        # The errors of /v1/embeddings and /v1/models are wrapped as OpenAI's are; those of a proxy may be a text.
        inner = problem.get("error", problem)
        if not isinstance(inner, Mapping):
            inner = {"detail": str(inner)}
        self.status = status
        self.problem = inner
        self.code: str = inner.get("code", "")
        self.request_id = request_id
        self.retry_after_ms: int | None = inner.get("retry_after_ms")
        if self.retry_after_ms is None and retry_after and retry_after.isdecimal():
            self.retry_after_ms = 1000 * int(retry_after)
        super().__init__(f"{status} {self.code}: {inner.get('detail') or inner.get('message', '')}")


class Transport:
    """One connection, kept open; not to be shared between threads."""

    def __init__(self, url: str, key: str | None = None, timeout: float = 60, headers: Mapping[str, str] | None = None):
        """`headers` go with every request: `x-timeout-ms`, `x-priority` and so on."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url!r}, expected http://HOST:PORT or https://HOST:PORT")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        # Without a port, the class would look for one in the host, and find it in an IPv6 address.
        port = kind.default_port if parts.port is None else parts.port
        self._connection = kind(parts.hostname, port, timeout=timeout)
        self._prefix = parts.path.rstrip("/")
        self._headers = dict(headers or {})
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str | None] | None = None) -> Any:
        return json.loads(self._ask(method, path, body, headers))

    def text(self, method: str, path: str, body: Any = None) -> str:
        return self._ask(method, path, body).decode()

    def _ask(self, method: str, path: str, body: Any, given: Mapping[str, str | None] | None = None) -> bytes:
        headers = {**self._headers, **{name: value for name, value in (given or {}).items() if value is not None}}
        data = None
        if body is not None:
            headers, data = {**headers, "content-type": "application/json"}, json.dumps(body).encode()
        try:
            self._drop_ended()
            self._connection.request(method, self._prefix + path, data, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except BaseException:
            # The next request begins with a new connection, also after an interrupt.
            self._connection.close()
            raise
        if response.status < 300:
            return answer
        try:
            problem = json.loads(answer)
        except ValueError:
            problem = None
        if not isinstance(problem, dict):
            problem = {"detail": answer.decode(errors="replace")}
        raise TrawlError(response.status, problem, response.getheader("retry-after"), response.getheader("x-request-id"))

    def _drop_ended(self) -> None:
        """Closes a connection that the server has ended meanwhile, as it does after half a minute without a request."""
        if self._connection.sock is None:
            return
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection.sock, selectors.EVENT_READ)
            # Nothing was asked, so there is nothing to read but the end.
            if selector.select(0):
                self._connection.close()
