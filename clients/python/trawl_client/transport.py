"""Requests and answers, and what is common to all of them."""

from __future__ import annotations

import http.client
import json
from typing import Any, Mapping
from urllib.parse import quote as _quote, urlsplit


def quote(part: str) -> str:
    return _quote(part, safe="@")


class TrawlError(Exception):
    """A refusal or a failure: `status`, `code` and what the server says of it in `problem`."""

    def __init__(self, status: int, problem: Mapping[str, Any]):
        # The errors of /v1/embeddings and /v1/models are wrapped as OpenAI's are.
        inner = problem.get("error", problem)
        self.status = status
        self.problem = inner
        self.code: str = inner.get("code", "")
        self.retry_after_ms: int | None = inner.get("retry_after_ms")
        super().__init__(f"{status} {self.code}: {inner.get('detail') or inner.get('message', '')}")


class Transport:
    """One connection, kept open; not to be shared between threads."""

    def __init__(self, url: str, key: str | None = None, timeout: float = 60, headers: Mapping[str, str] | None = None):
        """`headers` go with every request: `x-timeout-ms`, `x-priority` and so on."""
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=timeout)
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

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads(self._ask(method, path, body))

    def text(self, method: str, path: str, body: Any = None) -> str:
        return self._ask(method, path, body).decode()

    def _ask(self, method: str, path: str, body: Any) -> bytes:
        headers, data = self._headers, None
        if body is not None:
            headers, data = {**headers, "content-type": "application/json"}, json.dumps(body).encode()
        try:
            self._connection.request(method, self._prefix + path, data, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            # The next request begins with a new connection.
            self._connection.close()
            raise
        if response.status < 300:
            return answer
        try:
            problem = json.loads(answer)
        except ValueError:
            problem = {"detail": answer.decode(errors="replace")}
        raise TrawlError(response.status, problem)
