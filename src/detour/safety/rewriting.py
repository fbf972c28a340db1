"""Layer 3: rewrites a prompt by rules or by a chat service, within a time limit."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from detour.errors import ConfigError, DetourError
from detour.safety.policy_file import EndpointSpec, RewriteSpec
from detour.safety.terms import plain_pattern

MAX_ANSWER_BYTES = 1 << 20
PIECE_BYTES = 1 << 14


class EndpointFailed(DetourError):
    """The chat service did not answer in time, or not with a prompt."""


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A prompt that replaces another one.

    Attributes:
        prompt: the new one.
        by: who wrote it.
        note: for the operator: why the endpoint did not.
    """

    prompt: str
    by: str
    note: str = ""


class Rewriter:
    """Rewrites prompts as a policy says."""

    def __init__(self, spec: RewriteSpec) -> None:
        """Compile the rules of a policy and read the address of its chat service.

        Raises:
            ConfigError: a rule's term has no letters, or several parts.
        """
        self.spec = spec
        self._rules = [(plain_pattern(rule.find, where="rewrite.rules"), rule.replace) for rule in spec.rules]

    def rewrite(self, prompt: str) -> Rewritten | None:
        """The new prompt; ``None`` where neither the chat service nor a rule made one.

        Args:
            prompt: as the client wrote it.
        """
        note = ""
        if self.spec.endpoint is not None:
            try:
                return Rewritten(prompt=ask_endpoint(self.spec.endpoint, prompt), by="endpoint")
            except EndpointFailed as error:
                note = str(error)
        changed = prompt
        for pattern, replacement in self._rules:
            changed = pattern.sub(replacement.replace("\\", r"\\"), changed)
        changed = re.sub(r"\s+", " ", changed).strip()
        if changed == re.sub(r"\s+", " ", prompt).strip() or not changed:
            return None
        return Rewritten(prompt=changed, by="rules", note=note)


def ask_endpoint(spec: EndpointSpec, prompt: str) -> str:
    """Ask a chat service with the OpenAI interface for the new prompt.

    The whole exchange has to be over within ``timeout_s``, also where the answer comes drop by drop.

    Raises:
        EndpointFailed: no connection, late, another status than 200, too large, or no text in the answer.
    """
    ends = time.monotonic() + spec.timeout_s
    body = {
        "model": spec.model,
        "messages": [
            {"role": "system", "content": spec.instruction},
            {"role": "user", "content": prompt},
        ],
        "temperature": 0,
        "stream": False,
    }
    try:
        answer = _posted(spec, json.dumps(body).encode(), ends)
        reply = json.loads(answer)
        text = reply["choices"][0]["message"]["content"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise EndpointFailed(f"{spec.url}: no new prompt ({said}).") from error
    if not isinstance(text, str) or not text.strip() or len(text) > spec.max_chars:
        raise EndpointFailed(f"{spec.url}: no new prompt (none, or longer than {spec.max_chars} characters).")
    return " ".join(text.strip().strip('"“”').split())


def _posted(spec: EndpointSpec, body: bytes, ends: float) -> bytes:
    """Body of the answer; redirects are not followed, since they would carry the key elsewhere."""
    connection = _connection(spec)
    headers: Mapping[str, str] = {"Content-Type": "application/json", **_authorisation(spec)}
    try:
        path = urlsplit(spec.url).path.rstrip("/") + "/chat/completions"
        connection.request("POST", path, body, dict(headers))
        _hurry(connection, ends)
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        found = b""
        while True:
            _hurry(connection, ends)
            piece = response.read1(PIECE_BYTES)
            found += piece
            if not piece:
                return found
            if len(found) > MAX_ANSWER_BYTES:
                raise ValueError(f"more than {MAX_ANSWER_BYTES >> 20} MiB")
    finally:
        connection.close()


def _connection(spec: EndpointSpec) -> http.client.HTTPConnection:
    parts = urlsplit(spec.url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, parts.port, timeout=spec.timeout_s, context=context)
    return http.client.HTTPConnection(host, parts.port, timeout=spec.timeout_s)


def _hurry(connection: http.client.HTTPConnection, ends: float) -> None:
    """Limit the next wait to the time that is left.

    Raises:
        TimeoutError: nothing is left.
    """
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    if connection.sock is not None:
        connection.sock.settimeout(left)


def _authorisation(spec: EndpointSpec) -> dict[str, str]:
    """The header with the key.

    Raises:
        ConfigError: the environment variable is not set.
    """
    if not spec.key_variable:
        return {}
    key = os.environ.get(spec.key_variable, "")
    if not key:
        raise ConfigError(
            f"rewrite.endpoint: the environment variable {spec.key_variable} is not set. Set it, or leave "
            "key_variable out."
        )
    return {"Authorization": f"Bearer {key}"}
