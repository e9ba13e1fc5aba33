"""A form with one file in it (RFC 7578), as browsers and `curl -F` send it, read as it arrives.

Nothing is held but the text fields before the file, which are short, and the piece of the file
that is under way. Werkzeug's parser is not used: where the network cuts a body in the midst of a
boundary, it takes a part of that for content (werkzeug #3285).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Final

from cmdop_appliance.errors import InvalidRequest

MEDIA: Final = "multipart/form-data"
FILE: Final = "file"  # the name of the part that is the file

_NEWLINE: Final = b"\r\n"
# The headers of a part; a browser's are some 200 bytes and the file's name.
_HEADERS_BYTES: Final = 16 * 1024
# One text field: a path, as base64 at the most.
_FIELD_BYTES: Final = 8 * 1024
# A boundary, as RFC 2046 §5.1.1 has it.
_BOUNDARY_CHARS: Final = 70


@asynccontextmanager
async def file_form(
    content_type: str, pieces: AsyncGenerator[bytes, None], known: Collection[str]
) -> AsyncIterator[tuple[dict[str, bytes], AsyncGenerator[bytes, None]]]:
    """The text fields of a form, of the names that are `known`, then the bytes of its file.

    The file comes last, and these come to an end only if the form did.

    Raises:
        InvalidRequest: here, or from the bytes: it is no such form.
    """
    async with aclosing(pieces):
        form = _Form(pieces, _boundary(content_type))
        fields = await _read_fields(form, known)
        async with aclosing(_file(form)) as file:
            yield fields, file


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary("")
    if header.get_content_type() != MEDIA or not 0 < len(boundary) <= _BOUNDARY_CHARS:
        raise InvalidRequest(
            f"the body must be {MEDIA} with a boundary", hint="PUT takes the bytes as they are"
        )
    return boundary.encode("latin-1", "replace")


async def _read_fields(form: "_Form", known: Collection[str]) -> dict[str, bytes]:
    """The text fields up to the file, whose bytes come next."""
    fields: dict[str, bytes] = {}
    while (name := await form.next_part()) != FILE:
        if name is None:
            raise InvalidRequest(f"the form has no part {FILE}")
        if name not in known or name in fields:
            names = ", ".join([*sorted(known), FILE])
            raise InvalidRequest(
                f"form part {_quoted(name)}: there may be one each of {names}",
                hint="all else goes into the query",
            )
        text = b""
        async with aclosing(form.content()) as content:
            async for piece in content:
                text += piece
                if len(text) > _FIELD_BYTES:
                    raise InvalidRequest(f"form part {name} has more than {_FIELD_BYTES} bytes")
        fields[name] = text
    return fields


async def _file(form: "_Form") -> AsyncGenerator[bytes, None]:
    async with aclosing(form.content()) as content:
        async for piece in content:
            yield piece
    name = await form.next_part()
    if name is not None:
        raise InvalidRequest(f"form part {_quoted(name)}: nothing may follow the file")


def _quoted(name: str) -> str:
    return ascii(name[:40])


class _Form:
    """The parts of a body, in turn: `next_part`, and then all of its `content`."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], boundary: bytes) -> None:
        self._pieces = pieces
        self._delimiter = _NEWLINE + b"--" + boundary
        self._buffer = bytearray(_NEWLINE)  # the first boundary needs none before it
        self._is_begun = False

    async def next_part(self) -> str | None:
        """The name of the next part; None: that was all, and all of the body is read."""
        if not self._is_begun:
            self._is_begun = True
            async with aclosing(self.content()) as preamble:
                async for _ in preamble:
                    pass
        while len(self._buffer) < len(b"--"):
            await self._read()
        if self._buffer.startswith(b"--"):
            async for _ in self._pieces:  # what is behind the end means nothing
                pass
            return None
        end = await self._find_end_of_headers()
        padding, _, headers = bytes(self._buffer[:end]).partition(_NEWLINE)
        del self._buffer[: end + 2 * len(_NEWLINE)]
        name = BytesHeaderParser().parsebytes(headers).get_param("name", "", "content-disposition")
        if padding.strip(b" \t") or not name or not isinstance(name, str):
            raise InvalidRequest("the form is malformed: a part has no name")
        return name

    async def content(self) -> AsyncGenerator[bytes, None]:
        """What there is up to the next boundary."""
        buffer, delimiter = self._buffer, self._delimiter
        while (end := buffer.find(delimiter)) < 0:
            # Whatever may be the beginning of a boundary stays, until the rest of it is here.
            end = buffer.find(b"\r", max(0, len(buffer) - len(delimiter) + 1))
            piece = bytes(buffer) if end < 0 else bytes(buffer[:end])
            del buffer[: len(piece)]
            if piece:
                yield piece
            await self._read()
        piece = bytes(buffer[:end])
        del buffer[: end + len(delimiter)]
        if piece:
            yield piece

    async def _find_end_of_headers(self) -> int:
        while (end := self._buffer.find(2 * _NEWLINE)) < 0:
            if len(self._buffer) > _HEADERS_BYTES:
                raise InvalidRequest(f"a part's headers have more than {_HEADERS_BYTES} bytes")
            await self._read()
        return end

    async def _read(self) -> None:
        piece = await anext(self._pieces, None)
        if piece is None:
            raise InvalidRequest("the form is malformed, or its end is missing")
        self._buffer += piece
