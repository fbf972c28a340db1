"""Reads and writes JSON files with a schema version; older versions are read, and nothing else."""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from detour.errors import RunError
from detour.evaluation.compared import Part
from detour.files import write_text


class Document(Part):
    """A JSON file; ``schema`` is the version of its layout."""

    schema_: Literal[1, 2] = Field(default=2, alias="schema")

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )


D = TypeVar("D", bound=Document)


def write_document(path: Path, document: Document) -> None:
    """Write a document atomically.

    Raises:
        StorageError: disk full or folder not writable.
    """
    write_text(path, document.model_dump_json(indent=2, by_alias=True) + "\n")


def read_document(path: Path, kind: type[D], *, command: str) -> D:
    """Read a document that :func:`write_document` wrote.

    Args:
        path: of the file.
        kind: what it holds.
        command: that writes it, for the error.

    Raises:
        RunError: missing, or of no schema version that is known.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}). Run {command} first.") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise RunError(
            f"{path}: no {kind.__name__.lower()} of schema 1 or 2 ('{place}': {problem['msg']}). Run {command} again."
        ) from error
