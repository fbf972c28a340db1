"""Errors of the interfaces whose connections wait for pictures, for jobs that end without one."""

from detour.serving.jobs import Job
from detour.serving.refusals import RefusedByPolicy, ServeError


class Ended(ServeError):
    """Error of a job that ended before it was drawn."""

    status, code = 409, "cancelled"


class DrawingFailed(ServeError):
    """Error of a picture that could not be drawn."""

    status, code = 422, "failed"


def cause_for_client(state: str, cause: str | None) -> str:
    """Cause of a missing picture in words that its client may read."""
    return "a person will look at it" if state == "held" else cause or state


def why_none(job: Job) -> ServeError:
    """Error for a job that has no picture to show."""
    first = job.pictures[0]
    if first.state in ("refused", "held"):
        reason = first.code or "held"
        return RefusedByPolicy(cause_for_client(first.state, first.cause), reason=reason)
    if first.state in ("cancelled", "expired"):
        return Ended(cause_for_client(first.state, first.cause), code=first.state)
    return DrawingFailed(cause_for_client(first.state, first.cause), code=first.code or "failed")
