"""One error tree. Each error is one line that says what is wrong, where, what was found and what to do next.

A traceback is for our own bugs only: the command line prints the message of a ``DetourError`` and exits with
its ``exit_code``; the server will answer with the same words.
"""


class DetourError(Exception):
    """Something the user can put right. ``str(error)`` is the whole message."""

    exit_code: int = 1
    label: str = "error"
    """What the command line writes before the message; a check that ran and found something is no error."""


class ConfigError(DetourError):
    """A setting is unknown, malformed or contradicts another one."""

    exit_code = 2


class DataError(DetourError):
    """Pictures or captions are missing, unreadable or beyond the limits."""

    exit_code = 3


class BaseError(DetourError):
    """A base model is not there, lacks a part or is of a family that is not known."""

    exit_code = 4


class AdapterError(DetourError):
    """An adapter file is broken, hostile, or made for another base."""

    exit_code = 5


class ShapeMismatch(AdapterError):
    """Two tensors that must agree on a dimension do not."""


class TrainingDiverged(DetourError):
    """The loss or a gradient is not finite; the weights before the step were kept."""

    exit_code = 6


class PictureNotFinite(DetourError):
    """A picture has NaN or infinite values, which no file can hold; other tools show it black."""


class GradientProofFailed(DetourError):
    """An adapter layer gets no gradient, or a base tensor gets one; training refuses to start."""

    exit_code = 7


class ProofFailed(DetourError):
    """The finished adapter does not do what its file claims."""

    exit_code = 8


class RunError(DetourError):
    """A run folder is taken, locked, incomplete, or does not match what resumes it."""

    exit_code = 9


class StorageError(DetourError):
    """Writing failed: disk full, no permission, folder gone."""

    exit_code = 10


class MissingExtra(DetourError):
    """An optional dependency is needed; the message names the extra that installs it."""

    exit_code = 11


class HubError(DetourError):
    """The hub did not take what was pushed; what is here is as it was."""

    exit_code = 13


class RequirementNotMet(DetourError):
    """An evaluation answers a ``--require`` with no, or cannot answer it."""

    exit_code = 14
    label = "requirement not met"


class ProcessLost(DetourError):
    """Another one of several processes that train together ended."""

    exit_code = 12


class TaskOpen(DetourError):
    """A task of a lab is not passed yet; a notebook shows the one line in place of a traceback."""

    exit_code = 16

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Unwell(DetourError):
    """The doctor found something serious."""

    exit_code = 17
    label = "found"


class QueueFull(DetourError):
    """The drawing engine has as many pictures waiting as it takes."""

    exit_code = 18


class Withheld(DetourError):
    """A safety policy refused or held pictures of a call; the others were handed out."""

    exit_code = 19
    label = "withheld"


class LogBroken(DetourError):
    """An entry of the safety log was changed, removed or inserted."""

    exit_code = 20
    label = "log broken"


class NotReproduced(DetourError):
    """A picture that was drawn again differs, or cannot be drawn again."""

    exit_code = 21
    label = "not equal"


class Interrupted(DetourError):
    """Stopped by Ctrl-C after the running step; the message says how to go on."""

    exit_code = 130


class Terminated(Interrupted):
    """Stopped by SIGTERM, as schedulers send it, after the running step; everything is saved."""

    exit_code = 143


def nearest(word: str, choices: list[str]) -> str:
    """``" Did you mean 'steps'?"`` for the choice that looks most like ``word``, or an empty string."""
    from difflib import get_close_matches

    close = get_close_matches(word, choices, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
