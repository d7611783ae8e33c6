"""A vLLM server that somebody started, through what it serves: completions, its models and version, its metrics and settings."""

import http.client
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from simulator.drafting.prometheus import samples
from traces.errors import InputError

CONNECT_S = 10.0
"""How long a connection may take; an answer may take longer, as requests wait their turn."""


@dataclass
class Answer:
    """What came back of one request: times by `time.perf_counter`, and with each part of it the tokens that it brought."""

    sent_s: float
    chunk_s: list[float] = field(default_factory=list)
    chunks: list[list[int]] = field(default_factory=list)
    finished_s: float = 0.0
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def token_ids(self) -> list[int]:
        """All tokens."""
        return [token for chunk in self.chunks for token in chunk]


class RefusedError(Exception):
    """A server's word on what it did not do."""


class Server:
    """The server at a URL, which may end in /v1 as clients are given it; InputError where there is none."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        parts = urlsplit(self.url)
        try:
            self._host, self._port, self._path = parts.hostname, parts.port, parts.path
        except ValueError:
            self._host = None
        if parts.scheme not in ("http", "https") or not self._host:
            raise InputError(f"--attach {url!r:.80}: is no address: give one such as http://127.0.0.1:8000")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.stop = threading.Event()

    def get(self, path: str) -> bytes | None:
        """What is there; None where the server says that nothing is."""
        try:
            status, content = self._get(path)
        except (OSError, http.client.HTTPException) as error:
            raise InputError(
                f"{self.url}: cannot be reached ({_reason(error)}): start the server, or correct --attach"
            ) from None
        if status == 401:
            raise InputError(f"{self.url}: asks for a key, and none is sent: start it without --api-key")
        return content if status == 200 else None

    def document(self, path: str) -> dict[str, Any] | None:
        """The JSON object that is there; None where there is none."""
        content = self.get(path)
        try:
            found = None if content is None else json.loads(content)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def metrics(self) -> dict[str, float]:
        """Counters and gauges, summed over engines, by their names; with [i] where there is one for each draft position."""
        found: dict[str, float] = defaultdict(float)
        for _, name, labels, value in samples(self._metrics_text()):
            found[f"{name}[{labels['position']}]" if "position" in labels else name] += float(value)
        return dict(found)

    def cache_config(self) -> dict[str, str]:
        """Settings of its KV cache, as it writes them; empty where its metrics do not tell."""
        told = (one.labels for one in samples(self._metrics_text()) if one.name == "vllm:cache_config_info")
        return next(told, {})

    def complete(self, asked: dict[str, Any]) -> Answer:
        """Ask for one completion and wait for all of it. RefusedError where it is not given, or breaks off.

        Parts are dated as they come and read when all are there, so that reading delays none. It gives up between parts once
        `stop` is set.
        """
        body = json.dumps(asked | {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True})
        answer, lines = Answer(0.0), list[bytes]()
        connection = self._connection()
        try:
            connection.connect()
            connection.sock.settimeout(None)
            answer.sent_s = time.perf_counter()
            connection.request("POST", f"{self._path}/v1/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise RefusedError(f"{response.status}: {_message(response.read())}")
            while (line := response.readline()) and not self.stop.is_set():
                if line.startswith(b"data: "):
                    lines.append(line[6:])
                    answer.chunk_s.append(time.perf_counter())
        except (OSError, http.client.HTTPException) as error:
            lines.append(json.dumps({"error": {"message": _reason(error)}}).encode())
        finally:
            connection.close()
        return read_answer(answer, lines)

    def _connection(self) -> http.client.HTTPConnection:
        assert self._host is not None
        return self._kind(self._host, self._port, timeout=CONNECT_S)

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request("GET", self._path + path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _metrics_text(self) -> str:
        content = self.get("/metrics")
        if content is None:
            raise InputError(
                f"{self.url}: serves no /metrics, which tell what was drafted and accepted: start it without --disable-log-stats"
            )
        return content.decode(errors="replace")


def read_answer(answer: Answer, lines: list[bytes]) -> Answer:
    """The answer out of its lines, one for each of its chunk_s; RefusedError where it is not whole."""
    dates_s, answer.chunk_s = answer.chunk_s, []
    for number, line in enumerate(lines):
        if line.startswith(b"[DONE]"):
            break
        try:
            part = json.loads(line)
        except (ValueError, RecursionError):
            raise RefusedError(f"a part of its answer is not JSON: {line[:60]!r}") from None
        if "error" in part:
            raise RefusedError(f"{_message(line)}, after {len(answer.token_ids)} tokens")
        answer.usage = part.get("usage") or answer.usage
        for choice in part.get("choices", ()):
            if choice.get("token_ids") is None:
                raise RefusedError("its answers have no token_ids: it needs a vLLM that knows return_token_ids")
            if choice["token_ids"]:
                answer.chunks.append(choice["token_ids"])
                answer.chunk_s.append(dates_s[number])
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    if answer.finish_reason is None or not answer.usage:
        raise RefusedError(f"the answer broke off, after {len(answer.token_ids)} tokens")
    answer.finished_s = dates_s[-1]
    return answer


def _message(content: bytes) -> str:
    try:
        text = json.loads(content)["error"]["message"]
    except (ValueError, RecursionError, KeyError, TypeError):
        text = content.decode(errors="replace")
    return " ".join(str(text).split())[:200].rstrip(".") or "nothing said"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
