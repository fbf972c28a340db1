"""The page of reviewers: sign-in, queue, one decision a key. Its data comes from ``/v1/reviews``."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from detour.serving.guard import needs_key
from detour.serving.keys import LOCAL, Client, KeyRing
from detour.serving.refusals import NoKey, NotAllowed
from detour.serving.service import Service
from detour.serving.sessions import COOKIE, LIFE_S, Session, Sessions
from detour.serving.settings import ServeSpec

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: nothing inline, nothing from elsewhere, in no frame."""
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PARTS = {"page.js": "text/javascript", "page.css": "text/css"}


class SignIn(BaseModel):
    """A key with the scope review; empty on loopback, where none is needed."""

    model_config = ConfigDict(extra="forbid")

    key: Annotated[str, Field(max_length=500)] = ""


def page_routes(spec: ServeSpec, service: Service, keys: KeyRing, sessions: Sessions) -> APIRouter:
    """Build the routes under ``/review``, which serve the page of reviewers and their sessions.

    Args:
        spec: settings; whether a key is needed.
        service: whose policy says how many people must agree.
        keys: who may sign in.
        sessions: of those who have.
    """
    routes = APIRouter(include_in_schema=False)
    folder = files("detour.serving") / "pages"
    shell = (folder / "review.html").read_text(encoding="utf-8")
    parts = {name: (folder / name).read_text(encoding="utf-8") for name in PARTS}

    @routes.get("/review")
    def page(request: Request) -> Response:
        """Show the queue to whoever may review, and a field for the key to everybody else."""
        client: Client | None = request.state.client
        is_open = client is None and not needs_key(spec)
        status = 200 if is_open or client is not None else 401
        return Response(shell, status_code=status, media_type="text/html; charset=utf-8", headers=HEADERS)

    @routes.get("/review/{name}.{kind}")
    def part(name: str, kind: str) -> Response:
        """Give the script or the style of the page."""
        found = parts.get(f"{name}.{kind}")
        if found is None:
            return Response(status_code=404, headers=HEADERS)
        media = f"{PARTS[f'{name}.{kind}']}; charset=utf-8"
        return Response(found, media_type=media, headers=HEADERS)

    def session_facts(client: Client, session: Session) -> dict[str, object]:
        needed = 2 if service.policy.rules.two_persons else 1
        return {"name": client.name, "csrf": session.csrf, "needed": needed}

    @routes.get("/review/session")
    def look(request: Request) -> JSONResponse:
        """Say who is signed in, with the token that the page sends with each decision."""
        client: Client | None = request.state.client
        session = sessions.find(request.cookies.get(COOKIE, ""))
        if client is None or session is None:
            raise NoKey("nobody is signed in. Sign in on the page /review.")
        return JSONResponse(session_facts(client, session), headers=HEADERS)

    @routes.post("/review/session")
    def sign_in(body: SignIn, request: Request) -> JSONResponse:
        """Sign in with a key; the cookie is sent by pages of this server alone and cannot be read by scripts."""
        client = keys.find(body.key) if body.key else None if needs_key(spec) else LOCAL
        if client is None:
            raise NoKey("this key is unknown. Make one with 'detour serve key add NAME --scope review'.")
        if not client.may("review"):
            raise NotAllowed(
                "this key does not have the scope 'review'. "
                "Make one that has it with 'detour serve key add NAME --scope review'.",
                code="scope_missing",
            )
        name, session = sessions.begin(client.id)
        answer = JSONResponse(session_facts(client, session), headers=HEADERS)
        answer.set_cookie(
            COOKIE,
            name,
            max_age=int(LIFE_S),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @routes.delete("/review/session")
    def sign_out(request: Request) -> Response:
        """End the session of the reviewer who signs out."""
        sessions.end(request.cookies.get(COOKIE, ""))
        answer = Response(status_code=204, headers=HEADERS)
        answer.delete_cookie(COOKIE)
        return answer

    return routes
