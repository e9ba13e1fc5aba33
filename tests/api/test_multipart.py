"""A form with a file in it, cut into pieces anywhere: what is read, and what is refused."""

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.api.multipart import file_form
from cmdop_appliance.errors import InvalidRequest

BOUNDARY = "----x7"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
KNOWN = ("path", "path_base64")
END = f"\r\n--{BOUNDARY}--\r\n".encode()


def part(name: str, value: bytes, *, filename: str | None = None) -> bytes:
    """One part with the boundary before it."""
    more = "" if filename is None else f'; filename="{filename}"'
    head = f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value


def whole(*parts: bytes) -> bytes:
    return b"".join(parts).removeprefix(b"\r\n") + END


async def sent(body: bytes, size: int):
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def read(body: bytes, *, size: int = 65536, content_type: str = TYPE):
    """(the fields, the file's bytes) of a body that comes in pieces of `size`."""
    async with file_form(content_type, sent(body, size), KNOWN) as (fields, file):
        data = b""
        async for piece in file:
            data += piece
    return fields, data


@pytest.mark.parametrize("size", [1, 2, 7, 65536])
async def test_fields_and_file_arrive_as_they_were_sent(size):
    content = b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n\0\xff--\r\r\n"
    body = whole(part("path", b"/tmp/\xff\n"), part("file", content, filename="../x"))
    assert await read(body, size=size) == ({"path": b"/tmp/\xff\n"}, content)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_content_survives_any_cuts(content, size):
    body = whole(part("file", content))
    assert trio.run(lambda: read(body, size=size)) == ({}, content)


async def test_a_large_file_is_handed_on_as_it_comes():
    content = random.Random(5).randbytes(3_000_000)
    form = part("file", content) + END
    held = 0

    async def pieces():
        nonlocal held
        for start in range(0, len(form), 100_000):
            held += len(form[start : start + 100_000])
            yield form[start : start + 100_000]

    got = b""
    async with file_form(TYPE, pieces(), KNOWN) as (_, file):
        async for piece in file:
            got += piece
            assert held - len(got) < 200_000
    assert got == content


REFUSED = {
    "no file": whole(part("path", b"/x")),
    "no part": END.removeprefix(b"\r\n"),
    "nothing": b"",
    "no end": part("file", b"abc"),
    "no form": b"abc" * 100,
    "two files": whole(part("file", b"a"), part("file", b"b")),
    "a field after the file": whole(part("file", b"a"), part("path", b"/x")),
    "a file of another name": whole(part("upload", b"a", filename="x"), part("file", b"a")),
    "an unknown field": whole(part("mode", b"0600"), part("file", b"a")),
    "a field twice": whole(part("path", b"/x"), part("path", b"/y"), part("file", b"a")),
    "a long field": whole(part("path", b"x" * 9000), part("file", b"a")),
    "an endless preamble": b"x" * 600_000 + whole(part("file", b"a")),
    "no disposition": f"--{BOUNDARY}\r\nX: y\r\n\r\nabc".encode() + END,
    "no name": f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nabc".encode() + END,
    "text after a boundary": whole(part("file", b"a").replace(b"x7\r", b"x7x\r")),
    "no text for a name": whole(part("file", b"a").replace(b'"file"', b'"\xff"')),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
async def test_what_is_no_form_with_one_file_is_refused(body):
    with pytest.raises(InvalidRequest):
        await read(body)


async def test_the_headers_of_a_part_are_bounded():
    with pytest.raises(InvalidRequest, match="headers"):
        await read(part("file", b"a", filename="x" * 600_000) + END, size=1000)


async def test_what_is_around_the_parts_is_passed_over():
    around = b"x\r\n-" * 500_000
    body = b"\r\n".join((around, whole(part("file", b"abc")), around))
    assert await read(body) == ({}, b"abc")


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'x' * 71}",
        f"multipart/mixed; boundary={BOUNDARY}",
    ],
)
async def test_another_content_type_is_refused(content_type):
    with pytest.raises(InvalidRequest, match="multipart/form-data"):
        await read(whole(part("file", b"a")), content_type=content_type)


async def test_a_file_that_breaks_off_never_comes_to_its_end():
    """Who writes what comes must not take a cut for the end."""
    content, got = b"abc" * 1000, bytearray()

    async def take():
        async with file_form(TYPE, sent(part("file", content), 100), KNOWN) as (_, file):
            async for piece in file:
                got.extend(piece)

    with pytest.raises(InvalidRequest):
        await take()
    assert content.startswith(got)
    assert len(got) > 2000


async def test_a_body_that_raises_raises_here():
    async def pieces():
        yield part("file", b"abc")
        raise LookupError("gone")

    async def take():
        async with file_form(TYPE, pieces(), KNOWN) as (_, file):
            async for _ in file:
                pass

    with pytest.raises(LookupError):
        await take()


async def test_a_hostile_name_is_shown_in_ascii_and_short():
    with pytest.raises(InvalidRequest) as refused:
        await read(whole(part("\u202e" + "x" * 1000, b""), part("file", b"a")))
    assert refused.value.message.isascii()
    assert len(refused.value.message) < 150
