"""Keeps the libraries' progress bars and advice off the terminal while models are loaded."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

# While transformers and diffusers load a model they change settings of the whole process (levels of logging, and how
# modules make their parameters): a second load at the same time gets parameters on the meta device (transformers 5.23).
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the libraries for the block; their settings come back afterwards. One thread at a time is inside."""
    with _ONE_AT_A_TIME, _quiet():
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    levels = (diffusers_logging.get_verbosity(), transformers_logging.get_verbosity())
    logs = (diffusers_logging, transformers_logging)
    with_bars = [log for log in logs if log.is_progress_bar_enabled()]
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    for log in logs:
        log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        for log in with_bars:
            log.enable_progress_bar()
