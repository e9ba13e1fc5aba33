"""Upload and download: what is asked of the machine, and what is answered (contract.md §5)."""

import base64
import hashlib
import json
import re
from itertools import count
from urllib.parse import unquote_to_bytes

import pytest

from cmdop_appliance.auth import Scope
from cmdop_appliance.model import Event
from cmdop_appliance.protocol.files import Kept, Opened, Read, Uploaded, Write, Written
from cmdop_appliance.protocol.messages import FileEnd, FileStop
from cmdop_appliance.store import events
from tests.api.bulk_target import Client, Reply, Target, bulk_target
from tests.support.records import REACH

CONTENT = b"content"
SHA = hashlib.sha256(CONTENT).digest()
TYPE = "multipart/form-data; boundary=x7"
_numbers = count()


@pytest.fixture
async def target(tmp_path):
    async with bulk_target(tmp_path) as target:
        yield target


def written(path: bytes = b"/f") -> Written:
    return Written(path=path, size=7, sha256=SHA, created=True)


def opened(first: int = 0, end: int = 7, size: int = 7, **fields) -> Opened:
    plain = {"path": b"/f", "version": "v1", "modified_ms": 1_700_000_000_000}
    return Opened(first=first, end=end, size=size, **{**plain, **fields})


def form(*parts: tuple[str, bytes]) -> bytes:
    head = 'Content-Disposition: form-data; name="{}"\r\n\r\n'
    made = [b"--x7\r\n" + head.format(name).encode() + text for name, text in parts]
    return b"\r\n".join([*made, b"--x7--\r\n"])


async def put(target: Target, query: str, *, flat: bool = False, body: bytes = CONTENT) -> Client:
    """A client that has sent an upload."""
    client = await target.connect()
    path = (target.flat_path if flat else target.path)("upload", query)
    await client.send("PUT", path, body)
    return client


async def get(target: Target, file: Opened | None = None, **headers: str) -> tuple[Read, Reply]:
    """(what the machine was asked, what came back) of a download; `file` is what it opens."""
    client = await target.connect()
    await client.send("GET", target.path("download"), **headers)
    number, asked = await target.machine.called(Read)
    file = file or opened()
    await target.machine.send(number, file, CONTENT)
    await target.machine.link.say(FileEnd(id=number, end=file.end, sha256=None))
    return asked, await client.reply()


# ── up ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("flat", [False, True])
async def test_an_upload_asks_for_what_its_query_says(target, flat):
    query = (
        f"path=/a%20b/%FF%2B&mode=0640&owner=www&group=33&create_parents=true&overwrite=false"
        f"&if_match={'AB' * 32}&sha256={SHA.hex()}"
    )
    client = await put(target, query, flat=flat)
    number, asked = await target.machine.called(Write)
    assert asked == Write(
        path=b"/a b/\xff+",
        mode=0o640,
        owner="www",
        group="33",
        create_parents=True,
        overwrite=False,
        if_match=b"\xab" * 32,
    )
    await target.machine.place(number)
    data, end = await target.machine.taken(number)
    assert (data, end.sha256) == (CONTENT, SHA)
    await target.machine.answer(number, written(b"/a b/\xff+"))
    assert (await client.reply()).data == {
        "path": "/a b/\ufffd+",
        "path_base64": base64.b64encode(b"/a b/\xff+").decode(),
        "size": 7,
        "created": True,
        "sha256": SHA.hex(),
        "upload_id": None,
        "complete": True,
    }


async def test_what_arrives_without_a_checksum_gets_the_hubs(target):
    client = await put(target, "path=/f")
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    assert (await target.machine.taken(number))[1].sha256 == SHA
    await target.machine.answer(number, written())
    assert (await client.reply()).status == 200


async def test_a_file_that_is_in_place_is_an_event(target):
    client = await put(target, "path=/%FF")
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    await target.machine.taken(number)
    assert not await uploads(target)
    await target.machine.answer(number, written(b"/\xff"))
    await client.reply()
    (event,) = await uploads(target)
    assert event.machine_id == target.machine.machine_id
    assert event.data["path"] == "/\ufffd"
    assert (event.data["size"], event.data["sha256"]) == (7, SHA.hex())


async def uploads(target: Target) -> list[Event]:
    found = await target.live.hub.store.run(events.after, REACH, 0, 100)
    return [event for event in found if event.type == "file.uploaded"]


async def test_a_part_of_an_upload_is_kept_and_is_no_event(target):
    client = await put(target, "path=f&upload_id=u-1&offset=5")
    number, asked = await target.machine.called(Write)
    assert asked == Write(path=b"f", upload="u-1", offset=5)
    await target.machine.place(number, path=b"/home/f", offset=5)
    data, end = await target.machine.taken(number, 5)
    assert (data, end.sha256) == (CONTENT, None)
    await target.machine.answer(number, Kept(offset=12))
    assert (await client.reply()).data == {
        "path": "/home/f",
        "path_base64": None,
        "upload_id": "u-1",
        "offset": 12,
        "complete": False,
    }
    assert not await uploads(target)


async def test_the_part_with_the_checksum_completes_an_upload(target):
    client = await put(target, f"path=/f&upload_id=u&offset=7&sha256={SHA.hex()}", body=b"")
    number, asked = await target.machine.called(Write)
    assert asked.offset == 7
    await target.machine.place(number, offset=7)
    assert (await target.machine.taken(number, 7))[1].sha256 == SHA
    await target.machine.answer(number, written())
    answer = (await client.reply()).data
    assert (answer["upload_id"], answer["complete"]) == ("u", True)
    assert len(await uploads(target)) == 1


async def test_an_upload_that_stands_elsewhere_says_where(target):
    client = await put(target, "path=/f&upload_id=u&offset=9")
    number, _ = await target.machine.called(Write)
    await target.machine.fail(number, "offset_mismatch", offset=4)
    reply = await client.reply()
    assert (reply.status, reply.code) == (409, "offset_mismatch")
    assert json.loads(reply.body)["error"]["details"] == {"offset": 4}


@pytest.mark.parametrize("flat", [False, True])
async def test_how_much_has_arrived_can_be_asked(target, flat):
    client = await target.connect()
    path = (target.flat_path if flat else target.path)("upload", "path=/f&upload_id=u")
    await client.send("GET", path)
    number, asked = await target.machine.called(Uploaded)
    assert asked == Uploaded(path=b"/f", upload="u")
    await target.machine.answer(number, Kept(offset=3))
    answer = (await client.reply()).data
    assert (answer["path"], answer["upload_id"], answer["offset"]) == ("/f", "u", 3)


BAD_UPLOADS = [
    "",
    "path=",
    "path=/f&path_base64=L2Y=",
    "path_base64=!",
    "path=/f&offset=3",
    "path=/f&upload_id=u&offset=-1",
    "path=/f&upload_id=u&offset=x",
    "path=/f&upload_id=a/b",
    "path=/f&upload_id=",
    "path=/f&sha256=ab",
    f"path=/f&sha256={'g' * 64}",
    f"path=/f&if_match={'a' * 65}",
    "path=/f&mode=rw",
    "path=/f&mode=0o644",
    "path=/f&mode=8",
    "path=/f&mode=77777",
    "path=/f&owner=",
    "path=/f&create_parents=perhaps",
]
# What says that the body is not simply the file.
NOT_PLAIN = [
    ({"Content_Range": "bytes 1000-1006/1007"}, ["upload_id", "offset"]),
    ({"Content_Range": ""}, ["upload_id", "offset"]),
    ({"Content_Encoding": "gzip"}, ["without"]),
    ({"Content_Encoding": "identity"}, ["without"]),
    ({"Content_Type": TYPE}, ["POST"]),
    ({"Content_Type": "Multipart/mixed; boundary=x"}, ["POST"]),
]


@pytest.mark.parametrize("query", BAD_UPLOADS)
async def test_an_upload_that_cannot_be_read_is_refused(target, query):
    client = await put(target, query)
    reply = await client.reply()
    assert (reply.status, reply.code) == (400, "invalid_request")


async def test_a_switch_is_told_that_it_is_on_or_off(target):
    client = await put(target, "path=/f&overwrite=maybe")
    error = json.loads((await client.reply()).body)["error"]
    assert error["details"] == {"overwrite": "must be true or false"}


@pytest.mark.parametrize(("headers", "remedy"), NOT_PLAIN)
async def test_a_body_that_is_not_the_file_itself_is_refused_with_what_to_do(
    target, headers, remedy
):
    client = await target.connect()
    await client.send("PUT", target.path("upload"), CONTENT, **headers)
    reply = await client.reply()
    assert (reply.status, reply.code) == (400, "invalid_request")
    hint = json.loads(reply.body)["error"]["hint"]
    assert all(word in hint for word in remedy)


@pytest.mark.parametrize("media", ["application/x-www-form-urlencoded", "text/html", "x", ""])
async def test_a_body_of_any_other_type_is_the_file(target, media):
    client = await target.connect()
    await client.send("PUT", target.path("upload"), CONTENT, Content_Type=media)
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    assert (await target.machine.taken(number))[0] == CONTENT
    await target.machine.answer(number, written())
    assert (await client.reply()).status == 200


async def test_a_path_that_no_machine_has_is_refused(target):
    for path in ("a%00b", "x" * 4096):
        client = await put(target, f"path={path}")
        assert (await client.reply()).code == "invalid_path"


# ── a form ───────────────────────────────────────────────────────────────────────────────────────


async def post(
    target: Target, body: bytes, query: str = "", *, client: Client | None = None, **headers: str
) -> Client:
    client = client or await target.connect()
    headers = {"Content_Type": TYPE, **headers}
    await client.send("POST", target.path("upload", query), body, **headers)
    return client


@pytest.mark.parametrize(
    ("fields", "query"),
    [
        ([("path", b"/\xff b")], ""),
        ([("path_base64", base64.b64encode(b"/\xff b"))], ""),
        ([], "path=/%FF%20b"),
    ],
)
async def test_a_form_is_put_where_its_field_or_its_query_says(target, fields, query):
    client = await post(target, form(*fields, ("file", CONTENT)), f"{query}&mode=600")
    number, asked = await target.machine.called(Write)
    assert asked == Write(path=b"/\xff b", mode=0o600)
    await target.machine.place(number)
    data, end = await target.machine.taken(number)
    assert (data, end.sha256) == (CONTENT, SHA)
    await target.machine.answer(number, written())
    assert (await client.reply()).data["sha256"] == SHA.hex()


@pytest.mark.parametrize(
    ("body", "query"),
    [
        (form(("file", b"x")), ""),
        (form(("path", b"/f")), ""),
        (form(("path", b"/f"), ("file", b"x")), "path=/f"),
        (form(("mode", b"600"), ("file", b"x")), "path=/f"),
        (b"x", "path=/f"),
        (b"", "path=/f"),
    ],
)
async def test_a_form_that_cannot_be_read_is_refused_before_the_machine_is_asked(
    target, body, query
):
    client = await post(target, body, query)
    reply = await client.reply()
    assert (reply.status, reply.code) == (400, "invalid_request")


async def test_a_form_is_told_that_its_path_comes_before_its_file(target):
    client = await post(target, form(("file", b"x"), ("path", b"/f")))
    error = json.loads((await client.reply()).body)["error"]
    assert (error["message"], error["details"]) == ("the form has no `path` before its file", {})


async def test_a_form_without_its_end_commits_nothing(target):
    client = await post(target, form(("file", CONTENT))[:-6], "path=/f")
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    assert (await client.reply()).code == "invalid_request"
    await target.machine.link.hear()
    assert await target.machine.link.expect(FileStop) == FileStop(id=number)


async def test_a_form_that_is_sent_again_is_put_in_place_once(target):
    again = {"Idempotency_Key": f"key-{next(_numbers)}"}
    body = form(("path", b"/f"), ("file", CONTENT))
    client = await post(target, body, **again)
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    await target.machine.taken(number)
    await target.machine.answer(number, written())
    first = await client.reply()
    second = await (await post(target, body, **again)).reply()
    assert first.status == second.status == 200
    assert second.data == first.data
    assert len(await uploads(target)) == 1
    for other, query in (
        (form(("path", b"/f"), ("file", b"another")), ""),
        (form(("path", b"/f"), ("file", b"")), ""),
        (form(("path", b"/g"), ("file", CONTENT)), ""),
        (body, "mode=600"),
    ):
        reply = await (await post(target, other, query, **again)).reply()
        assert reply.code == "idempotency_conflict"


async def test_a_form_that_failed_leaves_its_key_free(target):
    again = {"Idempotency_Key": f"key-{next(_numbers)}"}
    body = form(("path", b"/f"), ("file", CONTENT))
    for code in ("no_space", None):
        client = await post(target, body, **again)
        number, _ = await target.machine.called(Write)
        await target.machine.place(number)
        await target.machine.taken(number)
        if code:
            await target.machine.fail(number, code)
            assert (await client.reply()).code == code
        else:
            await target.machine.answer(number, written())
            assert (await client.reply()).status == 200


# ── down ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_file_says_what_it_is(target):
    _, reply = await get(target)
    assert (reply.status, reply.body) == (200, CONTENT)
    headers = {name: reply.headers[name] for name in sorted(reply.headers)}
    del headers["date"], headers["x-request-id"]
    assert headers == {
        "accept-ranges": "bytes",
        "cache-control": "no-cache",
        "content-disposition": 'attachment; filename="f"',
        "content-length": "7",
        "content-security-policy": "sandbox",
        "content-type": "application/octet-stream",
        "etag": '"v1"',
        "last-modified": "Tue, 14 Nov 2023 22:13:20 GMT",
        "x-content-type-options": "nosniff",
    }


async def test_a_file_whose_checksum_is_known_is_tagged_with_it(target):
    _, reply = await get(target, opened(sha256=SHA))
    assert reply.headers["etag"] == f'"{SHA.hex()}"'


@pytest.mark.parametrize(
    "name",
    [
        b"plain-1.tar.gz",
        b"a b",
        b'quo"te',
        b"back\\slash",
        b"new\r\nSet-Cookie: x=1",
        b"\x01\x1b[31m\x7f",
        "größe\u202e".encode(),
        b"\xff\xfe",
        b"100%25;filename*=x",
        b"x" * 255,
        b"..",
    ],
)
async def test_a_name_is_told_whatever_is_in_it(target, name):
    _, reply = await get(target, opened(path=b"/dir/" + name))
    text = reply.headers["content-disposition"]
    match = re.fullmatch(
        r"""attachment; filename="([A-Za-z0-9 ._()+,=@~-]*)"(?:; filename\*=UTF-8''(.*))?""", text
    )
    assert match, text
    told = unquote_to_bytes(match[2]) if match[2] is not None else match[1].encode()
    assert told == name.decode(errors="replace").encode()
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("modified_ms", [-(2**62), -1, 0, 2**62])
async def test_a_time_that_no_header_can_say_is_told_as_nearly_as_it_can(target, modified_ms):
    _, reply = await get(target, opened(modified_ms=modified_ms))
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", reply.headers["last-modified"])


@pytest.mark.parametrize("version", ['"', "a b\r\nX: y", "\u20ac", "x" * 4096, ""])
async def test_a_version_of_any_text_makes_a_tag_that_is_known_again(target, version):
    _, reply = await get(target, opened(version=version))
    tag = reply.headers["etag"]
    assert re.fullmatch(r'"[!#-~]{0,2000}"', tag)
    _, again = await get(target, opened(version=version), If_None_Match=tag)
    assert again.status == 304


# What is asked for, and from where to where that is of seven bytes.
RANGES = {
    "bytes=0-2": ((0, 3), (0, 3)),
    "bytes=2-2": ((2, 1), (2, 3)),
    "bytes=3-": ((3, None), (3, 7)),
    "bytes=-2": ((-2, None), (5, 7)),
    "Bytes=0-999999999999999999": ((0, 10**18), (0, 7)),
}


@pytest.mark.parametrize(("header", "parts"), RANGES.items(), ids=RANGES)
async def test_one_range_is_a_part(target, header, parts):
    part, (first, end) = parts
    asked, reply = await get(target, opened(first, end), Range=header)
    assert (asked.offset, asked.length) == part
    assert (reply.status, reply.body) == (206, CONTENT[first:end])
    assert reply.headers["content-range"] == f"bytes {first}-{end - 1}/7"
    assert reply.headers["content-length"] == str(end - first)


@pytest.mark.parametrize(
    "header", ["bytes=0-1,3-4", "lines=0-1", "bytes=5-2", "bytes=-", "bytes=x-", "0-1"]
)
async def test_what_is_not_one_range_is_the_whole(target, header):
    asked, reply = await get(target, Range=header)
    assert asked == Read(path=b"/f")
    assert (reply.status, reply.body) == (200, CONTENT)
    assert "content-range" not in reply.headers


@pytest.mark.parametrize(("header", "at"), [("bytes=7-", 7), ("bytes=-0", 0)])
async def test_a_part_that_is_not_there_is_416_with_the_size(target, header, at):
    _, reply = await get(target, opened(at, at), Range=header)
    assert (reply.status, reply.code) == (416, "range_not_satisfiable")
    assert reply.headers["content-range"] == "bytes */7"


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ('"v1"', "v1"),
        (f'"{SHA.hex()}"', SHA.hex()),
        ('"a%20b"', "a b"),
        ('W/"v1"', ""),
        ("Tue, 14 Nov 2023 22:13:20 GMT", ""),
    ],
)
async def test_a_part_of_a_file_that_must_be_the_same(target, tag, version):
    asked, reply = await get(target, opened(2, 5), Range="bytes=2-4", If_Range=tag)
    assert asked.if_version == version
    assert reply.status == 206
    _, reply = await get(target, opened(), Range="bytes=2-4", If_Range=tag)
    assert (reply.status, reply.body) == (200, CONTENT)
    assert "content-range" not in reply.headers


@pytest.mark.parametrize(
    "known", ['"v1"', 'W/"v1"', '"x", "v1"', "*", f'"{SHA.hex()}"', '"v1" ,"y"']
)
async def test_what_the_caller_has_is_not_sent(target, known):
    client = await target.connect()
    await client.send("GET", target.path("download"), If_None_Match=known)
    number, _ = await target.machine.called(Read)
    await target.machine.answer(number, opened(sha256=SHA))
    reply = await client.reply()
    assert (reply.status, reply.body) == (304, b"")
    assert reply.headers["etag"] == f'"{SHA.hex()}"'
    assert await target.machine.link.expect(FileStop) == FileStop(id=number)


async def test_what_the_caller_has_of_another_version_is_sent(target):
    _, reply = await get(target, If_None_Match='"v0", "v1x", v1')
    assert (reply.status, reply.body) == (200, CONTENT)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("file_not_found", 404),
        ("file_permission_denied", 403),
        ("path_not_allowed", 403),
        ("is_a_directory", 400),
        ("changed_during_read", 409),
    ],
)
async def test_a_file_that_cannot_be_read_is_an_error_of_the_contract(target, code, status):
    client = await target.connect()
    await client.send("GET", target.flat_path("download", "path=/%ff"))
    number, asked = await target.machine.called(Read)
    assert asked.path == b"/\xff"
    await target.machine.fail(number, code)
    reply = await client.reply()
    assert (reply.status, reply.code) == (status, code)


async def test_each_way_needs_its_own_permission(target):
    _, reads = await target.new_key([Scope.FILES_READ])
    _, writes = await target.new_key([Scope.FILES_WRITE])
    for key, method, name in (
        (reads, "PUT", "upload"),
        (reads, "POST", "upload"),
        (reads, "GET", "upload"),
        (writes, "GET", "download"),
    ):
        client = await target.connect(key)
        await client.send(method, target.path(name))
        assert (await client.reply()).code == "forbidden"


async def test_a_machine_that_is_away_is_said_to_be(target):
    await target.machine.link.cut()
    for method, name in (("PUT", "upload"), ("GET", "download")):
        client = await target.connect()
        await client.send(method, target.path(name))
        reply = await client.reply()
        assert (reply.status, reply.code) == (409, "session_not_active")
