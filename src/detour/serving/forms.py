"""Reads forms with files (``multipart/form-data``) whose bodies are in memory, within the limits of the guard."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from email.parser import Parser

from detour.serving.refusals import BadRequest

MAX_PARTS = 64
MAX_HEAD_BYTES = 8192
"""Bytes of the headers of one part."""


def read_form(body: bytes, content_type: str) -> Mapping[str, list[bytes]]:
    """Split a form into its fields.

    Args:
        body: of the request.
        content_type: its header, which names the boundary.

    Returns:
        name of each field → contents of its parts, in order; a list field is written ``name[]``.

    Raises:
        BadRequest: no form, more than 64 parts, or a part without a name.

    Source: RFC 7578 and RFC 2046, section 5.1.1.
    """
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary("")
    if not boundary.isascii() or not 0 < len(boundary) <= 70:
        raise BadRequest("the form names no boundary, or one that is longer than 70 characters.")
    mark = b"\r\n--" + boundary.encode()
    if body.count(mark) > MAX_PARTS:
        raise BadRequest(f"the form has more than {MAX_PARTS} parts.")
    _, *parts = (b"\r\n" + body).split(mark)
    if not parts or not parts[-1].startswith(b"--"):
        raise BadRequest("the form does not end with its boundary.")
    fields: dict[str, list[bytes]] = {}
    for part in parts[:-1]:
        name, content = _field(part)
        fields.setdefault(name, []).append(content)
    return fields


def _field(part: bytes) -> tuple[str, bytes]:
    """Name and content of one part."""
    head, blank, content = part.partition(b"\r\n\r\n")
    if not blank or len(head) > MAX_HEAD_BYTES:
        raise BadRequest("a part of the form has no headers, or more than 8 KiB of them.")
    header = Parser().parsestr(head.decode("utf-8", "replace").lstrip(), headersonly=True)
    name = header.get_param("name", header="content-disposition")
    if not isinstance(name, str) or not name:
        raise BadRequest("a part of the form has no name.")
    return name, content
