"""Standard output and error that outlive their readers: a pipe that closes or a terminal that goes stops no run."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

READER_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO)
"""A pipe without a reader, and a terminal that hung up. A full disk is none of them and stays an error."""


class LastingStream:
    """A text stream whose writes are dropped once nobody can read them any more; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, or drop the text.

        Raises:
            OSError: any failure but a reader that is gone.
        """
        try:
            return self.stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what is waiting.

        Raises:
            OSError: any failure but a reader that is gone.
        """
        try:
            self.stream.flush()
        except OSError as error:
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _drop(self, error: OSError) -> None:
        """Hand the stream to the system's null device: what is written later, or waits in buffers, is dropped."""
        if error.errno not in READER_GONE:
            raise error
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self.stream.fileno())
            finally:
                os.close(nowhere)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Make standard output and error last inside the block; what waits in them is written at the end."""
    before = sys.stdout, sys.stderr
    lasting = [LastingStream(stream) for stream in before if stream is not None]
    if len(lasting) < len(before):  # a program without a console has none
        yield
        return
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in lasting)
    try:
        yield
    finally:
        for stream in lasting:
            stream.flush()
        sys.stdout, sys.stderr = before
