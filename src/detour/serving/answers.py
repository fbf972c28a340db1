"""What the interfaces that wait for their pictures say where there are none."""

from detour.serving.jobs import Job
from detour.serving.refusals import RefusedByPolicy, ServeError


class Ended(ServeError):
    """The job ended before it was drawn."""

    status, code = 409, "cancelled"


class DrawingFailed(ServeError):
    """The picture could not be drawn."""

    status, code = 422, "failed"


def told_cause(state: str, cause: str | None) -> str:
    """Why there is no picture, as its client may know it."""
    return "a person will look at it" if state == "held" else cause or state


def why_none(job: Job) -> ServeError:
    """The error for a job of which no picture can be shown."""
    first = job.pictures[0]
    if first.state in ("refused", "held"):
        reason = first.code or "held"
        return RefusedByPolicy(told_cause(first.state, first.cause), reason=reason)
    if first.state in ("cancelled", "expired"):
        return Ended(told_cause(first.state, first.cause), code=first.state)
    return DrawingFailed(told_cause(first.state, first.cause), code=first.code or "failed")
