"""Keeps the libraries' progress bars and advice off the terminal while models are loaded."""

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the libraries for the block; their settings come back afterwards."""
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
