"""Checks every request before its route: host, origin, key, and a small, timely body: flat JSON or a form."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from detour.errors import ConfigError, DetourError
from detour.serving.envelopes import error_response
from detour.serving.keys import LOCAL, Client, KeyRing, Scope
from detour.serving.refusals import BadRequest, NoKey, NotAllowed, TooLarge, TooLate, WrongType
from detour.serving.sessions import COOKIE, CSRF_HEADER, Sessions
from detour.serving.settings import ServeSpec

OPEN_PATHS = ("/healthz", "/readyz", "/favicon.ico")
"""Paths that are answered without a key."""
TOKEN_PATH = "/v1/pictures/"
"""Path whose unguessable last part replaces the key, for clients that fetch addresses without a header."""
ADMIN_PATHS = ("/metrics",)
"""Paths that need a key with the scope ``admin``."""
REVIEW_PATH = "/v1/reviews"
"""Path that needs a key with the scope ``review``."""
PAGE_PATH = "/review"
"""The page of reviewers and what belongs to it; nothing of a job is on it, and its own routes ask who calls."""
SIGN_IN = ("POST", "/review/session")
"""Needs no session; its body is JSON of this origin, and holds the key."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PNG_INFO = "/sdapi/v1/png-info"
REFERENCE_PATHS = ("/v1/jobs", "/sdapi/v1/txt2img", "/sdapi/v1/img2img")
"""Paths whose bodies may hold reference pictures."""
START_PATHS = ("/v1/jobs", "/sdapi/v1/img2img", "/v1/images/edits")
"""Paths whose bodies may hold a start picture."""
FORM_PATHS = ("/v1/images/edits",)
"""Paths whose bodies are forms with files (``multipart/form-data``); all others are JSON."""


NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _is_under(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


def needs_key(spec: ServeSpec) -> bool:
    """Whether every client must have a key: beyond loopback, and where the settings ask for it."""
    return spec.require_key or not is_loopback(spec.host)


def require_key(spec: ServeSpec, keys: KeyRing, *, said: str) -> None:
    """Refuse an address that other machines reach while there is no key.

    Args:
        spec: address and state folder.
        keys: of the state folder.
        said: the address as it was given, for the message.

    Raises:
        ConfigError: beyond loopback without a key.
    """
    if not is_loopback(spec.host) and not keys.records:
        raise ConfigError(
            f"{said} can be reached from other machines, and there is no key. Make one first: "
            f"detour serve key add NAME --state {spec.state}"
        )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware; requests that pass have their client in ``scope["state"]``."""

    def __init__(self, app: ASGIApp, *, spec: ServeSpec, keys: KeyRing, sessions: Sessions) -> None:
        """Guard the application ``app``."""
        self.app, self.spec, self.keys, self.sessions = app, spec, keys, sessions
        self.needs_key = needs_key(spec)

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answer with an error, or call the application behind."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            scope.setdefault("state", {})["client"] = self._client(scope["path"], headers, scope["method"])
            if scope["method"] not in SAFE_METHODS:
                receive = _Replay(await self._body(scope["path"], headers, receive), receive)
        except DetourError as error:
            await error_response(scope["path"], error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        """Refuse requests with the host name of another site, which DNS rebinding would send here."""
        host = _name_of(headers.get("host", ""))
        on_loopback = is_loopback(self.spec.host)
        known = {self.spec.host.strip("[]"), *self.spec.allow_hosts}
        if not (host in known or is_loopback(host) or (not on_loopback and not self.spec.allow_hosts)):
            raise NotAllowed(
                "this server is not called by that name. Allow it with --allow-host.", code="bad_host"
            )
        origin = headers.get("origin")
        if origin is None or origin in self.spec.allow_origins:
            return
        if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise NotAllowed(
                "pages of this origin may not call this server. Allow it with --allow-origin.",
                code="bad_origin",
            )

    def _client(self, path: str, headers: Headers, method: str) -> Client | None:
        """Client of a request; ``None`` where no key is needed.

        Raises:
            NoKey: a key is missing or unknown.
            NotAllowed: the key has not the scope.
        """
        if path in OPEN_PATHS or path.startswith(TOKEN_PATH):
            return None
        given = _key_in(headers)
        client = self.keys.find(given) if given else None
        is_page, is_review = _is_under(path, PAGE_PATH), _is_under(path, REVIEW_PATH)
        if (is_page or is_review) and not given:
            client = self._signed_in(path, headers, method)
            if is_page:
                return client
        if client is None and given and self.keys.records:
            raise NoKey("this key is unknown. Make one with 'detour serve key add NAME'.")
        if client is None:
            if self.needs_key:
                raise NoKey(
                    "a key is needed: Authorization: Bearer KEY. Make one with 'detour serve key add NAME'."
                )
            client = LOCAL
        needed: Scope = "admin" if path in ADMIN_PATHS else "review" if is_page or is_review else "draw"
        if not client.may(needed):
            raise NotAllowed(
                f"this key does not have the scope '{needed}'. "
                f"Make one that has it with 'detour serve key add NAME --scope {needed}'.",
                code="scope_missing",
            )
        return client

    def _signed_in(self, path: str, headers: Headers, method: str) -> Client | None:
        """Client of the review page's session cookie; ``None`` without one.

        Raises:
            NotAllowed: a browser wants to change something and does not show the token of its session: the cookie alone
                may be sent by a browser that a page of another site has led here.
        """
        cookie = SimpleCookie()
        with contextlib.suppress(CookieError):
            cookie.load(headers.get("cookie", ""))
        session = self.sessions.find(cookie[COOKIE].value) if COOKIE in cookie else None
        from_browser = session is not None or "origin" in headers
        if method not in SAFE_METHODS and from_browser and (method, path) != SIGN_IN:
            token = "" if session is None else session.csrf
            shown = headers.get(CSRF_HEADER, "")
            if not token or not secrets.compare_digest(token.encode(), shown.encode("utf-8", "replace")):
                raise NotAllowed("the token of the session is missing. Reload the page.", code="csrf")
        if session is None:
            return None
        return LOCAL if session.key == LOCAL.id and not self.needs_key else self.keys.by_id(session.key)

    async def _body(self, path: str, headers: Headers, receive: Receive) -> bytes:
        limits = self.spec.limits
        most = limits.max_png_bytes if path == PNG_INFO else limits.max_body_bytes
        if self.spec.starts.enabled and path in START_PATHS:
            most = max(most, self.spec.starts.max_body_bytes)
        if self.spec.references is not None and path in REFERENCE_PATHS:
            most = max(most, self.spec.references.max_body_bytes)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
            raise TooLarge(f"the body has {int(length):,} bytes; the limit is {most:,}.")
        try:
            body = await asyncio.wait_for(_read(receive, most), limits.body_timeout_s)
        except TimeoutError:
            raise TooLate(f"the body did not arrive within {limits.body_timeout_s:g} s.") from None
        if body:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if path in FORM_PATHS:
                if kind != "multipart/form-data":
                    raise WrongType("the body must be a form, with content-type: multipart/form-data.")
                return body
            if kind != "application/json":
                raise WrongType("the body must be JSON, with content-type: application/json.")
            _check_depth(body, limits.max_json_depth)
        return body


class _Replay:
    """Replays the body that was read already, then continues with the connection."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()


async def _read(receive: Receive, most: int) -> bytes:
    parts, total = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the connection ended within the body.")
        part = message.get("body", b"")
        total += len(part)
        if total > most:
            raise TooLarge(f"the body has more bytes than the limit of {most:,}.")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _check_depth(body: bytes, most: int) -> None:
    """Refuse JSON that is nested beyond the limit, before a parser recurses into it.

    Takes a few passes of C code over the body, for it runs on the event loop: a body of 20 MB takes less than 0.1 s.
    """
    if body.count(b"[") + body.count(b"{") <= most:
        return
    # Within strings, escapes first: what is left of a string has no quote in it, and every second part is outside.
    outside = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    brackets = outside.translate(bytes.maketrans(b"{}", b"[]"), NO_BRACKETS)
    for _ in range(most):
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    if b"[" in brackets:
        raise BadRequest(
            f"the body is nested more than {most} deep, or its brackets do not match.", code="too_deep"
        )


def _name_of(host: str) -> str:
    """Host name without its port: ``localhost`` of ``localhost:8188``, ``::1`` of ``[::1]:8188``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _key_in(headers: Headers) -> str:
    """Key of a request: bearer token, x-api-key, or the password of basic authentication, which A1111's clients
    send.
    """
    scheme, _, value = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            text = base64.b64decode(value.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return ""
        return text.rpartition(":")[2]
    return headers.get("x-api-key", "").strip()
