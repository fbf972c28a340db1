"""Formats errors as the clients of each HTTP interface expect them."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from detour.errors import DetourError
from detour.printing import printable
from detour.serving.refusals import OverQuota, RefusedByPolicy, ServeError

LONGEST_MESSAGE = 1000


def error_response(path: str, error: DetourError) -> JSONResponse:
    """HTTP response for a refused request, in the format of the interface that ``path`` belongs to."""
    status = error.status if isinstance(error, ServeError) else 500
    code = error.code if isinstance(error, ServeError) else "failed"
    param = error.param if isinstance(error, ServeError) else None
    message = printable(str(error), longest=LONGEST_MESSAGE)
    headers = {}
    if isinstance(error, ServeError) and error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, OverQuota):
        headers["x-should-retry"] = "false"  # the OpenAI client would ask twice more
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="detour"'
    if status in (408, 413):
        headers["connection"] = "close"
    reason = error.reason if isinstance(error, RefusedByPolicy) else None
    body = envelope(path, status=status, code=code, message=message, param=param, reason=reason)
    return JSONResponse(body, status_code=status, headers=headers)


def envelope(
    path: str, *, status: int, code: str, message: str, param: str | None = None, reason: str | None = None
) -> dict[str, Any]:
    """JSON body of an error."""
    if path.startswith("/sdapi/"):
        return {"error": code, "detail": message, "body": "", "errors": message}
    if is_openai(path):
        return {
            "error": {"message": message, "type": _openai_type(status, code), "param": param, "code": code}
        }
    error = {"code": code, "message": message}
    if param is not None:
        error["param"] = param
    if reason is not None:
        error["reason"] = reason
    return {"error": error}


def is_openai(path: str) -> bool:
    """Whether a path belongs to the OpenAI interface."""
    return path.startswith(("/v1/images", "/v1/models"))


def _openai_type(status: int, code: str) -> str:
    if code == "moderation_blocked":
        return "image_generation_user_error"
    if code == "quota_spent":
        return "insufficient_quota"
    return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, "server_error" if status >= 500 else "invalid_request_error"
    )
