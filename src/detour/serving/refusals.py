"""Errors of requests, independent of how each HTTP interface formats them."""

from detour.errors import DetourError


class ServeError(DetourError):
    """Base class of all errors of requests.

    Attributes:
        status: of the HTTP answer.
        code: short and stable, for programs.
        param: field that is the cause, if one is.
        retry_after_s: seconds after which asking again makes sense; ``None``: never, as it stands.
    """

    status = 400
    code = "bad_request"
    retry_after_s: int | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or self.code


class BadRequest(ServeError):
    """The request asks for a picture that cannot be drawn."""


class NotFound(ServeError):
    """The thing does not exist, or this key may not know of it."""

    status, code = 404, "not_found"


class NoKey(ServeError):
    """A key is missing or unknown."""

    status, code = 401, "invalid_api_key"


class NotAllowed(ServeError):
    """The key, host or origin may not do this."""

    status, code = 403, "forbidden"


class TooLate(ServeError):
    """The thing existed and is gone, or did not arrive in time."""

    status, code = 408, "timeout"


class TooLarge(ServeError):
    """The body is larger than the limit."""

    status, code = 413, "body_too_large"


class WrongType(ServeError):
    """The body is not of the type that the path takes."""

    status, code = 415, "unsupported_media_type"


class Unprocessable(ServeError):
    """A field is invalid, or an Idempotency-Key was used with another body."""

    status, code = 422, "invalid_request"


class Conflict(ServeError):
    """The action was done already, or is not possible any more."""

    status, code = 409, "conflict"


class RefusedByPolicy(ServeError):
    """The policy refuses the request or all its pictures.

    Attributes:
        reason: code of the layer that refused.
    """

    code = "moderation_blocked"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message, param="prompt")
        self.reason = reason


class TooBusy(ServeError):
    """The queue is full."""

    status, code = 429, "queue_full"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverQuota(ServeError):
    """The key has used its quota of today, so a retry is useless before tomorrow."""

    status, code = 429, "quota_spent"


class NotReady(ServeError):
    """The server is loading, stopping, or cannot write."""

    status, code = 503, "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
