"""Bodies of any size on their way in and out: nothing is held, and no client is waited for long.

Real sockets, and a machine that says what the test wants.
"""

import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cmdop_appliance.auth import GRANTABLE, Scope
from cmdop_appliance.hub import transfers
from cmdop_appliance.protocol.files import Opened, Read, Write
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.messages import FileCall, FileCredit, FileEnd, FileStop
from cmdop_appliance.store import api_keys, events
from tests.api.bulk_target import Client, Target, bulk_target
from tests.api.hostile_target import reset, until
from tests.support.records import REACH

MIB = 1024 * 1024
SHA = b"s" * 32


@pytest.fixture
async def target(tmp_path):
    async with bulk_target(tmp_path) as target:
        yield target


def opened(size: int) -> Opened:
    return Opened(path=b"/f", size=size, first=0, end=size, version="v1", modified_ms=1)


async def upload(target: Target, client: Client, body: bytes, **headers: str) -> None:
    """A whole upload, which the machine puts in place."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: client.send("PUT", target.path("upload"), body, **headers))
        number, _ = await target.machine.called(Write)
        await target.machine.place(number)
        data, end = await target.machine.taken(number)
        assert data == body
        await target.machine.commit(end)


# ── in ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 1, 200_000, 5 * MIB])
async def test_a_body_reaches_the_machine_whole(target, size):
    client = await target.connect()
    await upload(target, client, bytes(range(256)) * (size // 256 + 1))
    assert (await client.reply()).data["complete"] is True


async def test_a_chunked_body_reaches_the_machine_whole(target):
    client = await target.connect()
    await client.begin("PUT", target.path("upload"), Transfer_Encoding="chunked")
    await client.stream.send_all(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n")
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    data, end = await target.machine.taken(number)
    assert data == b"abcde"
    await target.machine.commit(end)
    assert (await client.reply()).status == 200


async def test_a_client_is_stopped_while_the_machine_takes_nothing(target):
    """What it has sent is in the machine's credit and a few pieces; the rest is still with it."""
    client = await target.connect()
    await client.begin("PUT", target.path("upload"), Content_Length=str(200 * MIB))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, client, 200)
        number, _ = await target.machine.called(Write)
        await target.machine.place(number)
        await until(lambda: target.read["bytes"] > MIB)
        await wait_all_tasks_blocked(0.1)
        assert target.read["bytes"] < 2 * MIB
        await target.machine.fail(number, "no_space")
        assert (await client.reply()).code == "no_space"


async def test_a_request_behind_an_upload_is_answered_on_the_same_connection(target):
    client = await target.connect()
    head = (
        f"PUT {target.path('upload')} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {target.key}"
    )
    body = b"\r\nContent-Length: 3\r\n\r\nabc"
    other = f"GET /v1/auth/me HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {target.key}\r\n\r\n"
    await client.stream.send_all((head.encode() + body) * 2 + other.encode())
    for _ in range(2):
        number, _ = await target.machine.called(Write)
        await target.machine.place(number)
        data, end = await target.machine.taken(number)
        assert data == b"abc"
        await target.machine.commit(end)
    answers = b""
    while answers.count(b"HTTP/1.1 200") < 3:
        answers += await client.stream.receive_some()
    assert answers.index(b"/f") < answers.index(b'"permissions"')


@pytest.mark.parametrize("end", ["close", "reset", "eof"])
async def test_a_client_that_goes_away_in_the_midst_commits_nothing(target, end):
    client = await target.connect()
    await client.begin("PUT", target.path("upload"), Content_Length="1000")
    await client.more(b"abc")
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    data = await target.machine.link.hear()
    assert data.data == b"abc"
    match end:
        case "close":
            await client.stream.aclose()
        case "reset":
            reset(client.stream)
        case "eof":
            await client.stream.send_eof()
    assert await target.machine.link.expect(FileStop) == FileStop(id=number)


async def test_a_broken_chunk_commits_nothing(target):
    client = await target.connect()
    await client.begin("PUT", target.path("upload"), Transfer_Encoding="chunked")
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    await client.stream.send_all(b"3\r\nabc\r\nzz\r\n")
    assert (await client.reply()).status == 400
    assert (await target.machine.link.hear()).data == b"abc"
    await target.machine.link.expect(FileStop)


async def test_a_client_that_sends_nothing_for_long_is_let_go(tmp_path):
    async with bulk_target(tmp_path, idle_s=0.2) as target:
        client = await target.connect()
        await client.begin("PUT", target.path("upload"), Content_Length="1000")
        await client.more(b"abc")
        number, _ = await target.machine.called(Write)
        await target.machine.place(number)
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert reply.headers["connection"] == "close"
        await target.machine.link.hear()
        await target.machine.link.expect(FileStop)


async def test_a_machine_that_takes_nothing_for_long_is_waited_for_no_more(target, monkeypatch):
    monkeypatch.setattr(transfers, "_NO_ROOM_S", 0.2)
    client = await target.connect()
    await client.begin("PUT", target.path("upload"), Content_Length=str(100 * MIB))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, client, 100)
        number, _ = await target.machine.called(Write)
        await target.machine.place(number)
        reply = await client.reply()
    assert (reply.status, reply.code) == (503, "unavailable")
    assert await stopped(target) == number


async def test_a_failure_of_the_machine_is_told_while_the_client_is_silent(target):
    client = await target.connect()
    await client.begin("PUT", target.path("upload"), Content_Length="1000")
    await client.more(b"abc")
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    assert (await target.machine.link.hear()).data == b"abc"
    await target.machine.fail(number, "no_space")
    assert (await client.reply()).code == "no_space"


async def test_a_key_that_is_revoked_while_the_machine_has_no_room_is_told(target):
    key_id, secret = await target.new_key([Scope.FILES_WRITE])
    client = await target.connect(secret)
    await client.begin("PUT", target.path("upload"), Content_Length=str(100 * MIB))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, client, 100)
        number, _ = await target.machine.called(Write)
        await target.machine.place(number)
        await target.live.hub.store.run(api_keys.delete, REACH, key_id)
        assert (await client.reply()).code == "unauthorized"
    assert await stopped(target) == number


async def test_a_key_that_is_revoked_while_its_upload_waits_for_the_machine_commits_nothing(target):
    key_id, secret = await target.new_key([Scope.FILES_WRITE])
    client = await target.connect(secret)
    await client.send("PUT", target.path("upload"), b"abc")
    number, _ = await target.machine.called(Write)
    await target.live.hub.store.run(api_keys.delete, REACH, key_id)
    assert (await client.reply()).code == "unauthorized"
    assert await stopped(target) == number


async def test_what_is_being_put_in_place_is_not_broken_off_by_a_key_that_is_revoked(target):
    key_id, secret = await target.new_key([Scope.FILES_WRITE])
    client = await target.connect(secret)
    await client.send("PUT", target.path("upload"), b"abc")
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    _, end = await target.machine.taken(number)
    await target.live.hub.store.run(api_keys.delete, REACH, key_id)
    await trio.sleep(1.5)  # a key is looked at once a second
    await target.machine.commit(end)
    assert (await client.reply()).code == "unauthorized"
    found = await target.live.hub.store.run(events.after, REACH, 0, 100)
    assert "file.uploaded" in [event.type for event in found]


FORM = {"Content_Type": "multipart/form-data; boundary=x7", "Content_Length": "1000"}
PATH_PART = b'--x7\r\nContent-Disposition: form-data; name="path"\r\n\r\n/f'
FILE_PART = b'\r\n--x7\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc'


async def test_a_key_that_is_revoked_while_the_fields_of_its_form_arrive_is_told(target):
    key_id, secret = await target.new_key([Scope.FILES_WRITE])
    client = await target.connect(secret)
    await client.begin("POST", target.path("upload", ""), Expect="100-continue", **FORM)
    assert await client.is_told_to_go_on()  # the key was good
    await client.more(PATH_PART)
    await target.live.hub.store.run(api_keys.delete, REACH, key_id)
    reply = await client.reply()
    assert (reply.code, reply.headers["connection"]) == ("unauthorized", "close")


async def test_a_key_that_is_revoked_while_a_form_is_sent_again_is_told(target):
    key_id, secret = await target.new_key([Scope.FILES_WRITE])
    again = {**FORM, "Idempotency_Key": "again"}
    client = await target.connect(secret)
    body = PATH_PART + FILE_PART + b"\r\n--x7--\r\n"
    await client.send("POST", target.path("upload", ""), body, **again | length(body))
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    _, end = await target.machine.taken(number)
    await target.machine.commit(end)
    assert (await client.reply()).status == 200
    await client.begin("POST", target.path("upload", ""), Expect="100-continue", **again)
    assert await client.is_told_to_go_on()
    await client.more(PATH_PART + FILE_PART)
    await target.live.hub.store.run(api_keys.delete, REACH, key_id)
    assert (await client.reply()).code == "unauthorized"


def length(body: bytes) -> dict[str, str]:
    return {"Content_Length": str(len(body))}


async def push(client: Client, mib: int) -> None:
    for _ in range(mib):
        await client.more(bytes(MIB))


async def stopped(target: Target) -> int:
    """The call that the machine is told to stop next."""
    while not isinstance(message := await target.machine.link.hear(), FileStop):
        assert isinstance(message, Data | FileCredit)
    return message.id


async def test_a_key_that_is_revoked_in_the_midst_commits_nothing(target):
    key_id, secret = await target.new_key([Scope.FILES_WRITE])
    client = await target.connect(secret)
    await client.begin("PUT", target.path("upload"), Transfer_Encoding="chunked")
    await client.stream.send_all(b"3\r\nabc\r\n")
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    assert (await target.machine.link.hear()).data == b"abc"
    await target.live.hub.store.run(api_keys.delete, REACH, key_id)
    assert (await client.reply()).code == "unauthorized"
    await target.machine.link.expect(FileStop)


async def test_a_json_body_that_stops_arriving_ends_its_request_and_its_connection(tmp_path):
    async with bulk_target(tmp_path, body_s=0.2) as target:
        client = await target.connect()
        headers = {"Content_Type": "application/json", "Content_Length": "1000"}
        await client.begin("POST", "/v1/commands", **headers)
        await client.more(b"{")
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "invalid_request")
        await until(lambda: not target.server._connections)


# ── refused ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_failure_of_the_machine_is_told_while_the_client_still_sends(target):
    client = await target.connect()
    await client.begin("PUT", target.path("upload"), Content_Length=str(100 * MIB))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, client, 100)
        number, _ = await target.machine.called(Write)
        await target.machine.place(number)
        await target.machine.link.hear()
        await target.machine.fail(number, "no_space")
        reply = await client.reply()
        assert (reply.status, reply.code) == (507, "no_space")
        assert reply.headers["connection"] == "close"
        # All of it can be sent: no reset, which could have overtaken the answer.


async def test_whoever_asks_first_sends_nothing_of_what_is_refused(target):
    client = await target.connect()
    await client.begin("PUT", target.path("upload"), Content_Length="9", Expect="100-continue")
    number, _ = await target.machine.called(Write)
    await target.machine.fail(number, "path_not_allowed")
    assert not await client.is_told_to_go_on()
    reply = await client.reply()
    assert (reply.code, reply.headers["connection"]) == ("path_not_allowed", "close")


async def test_whoever_asks_first_is_told_to_go_on_when_the_machine_has_room(target):
    client = await target.connect()
    await client.begin("PUT", target.path("upload"), Content_Length="3", Expect="100-continue")
    number, _ = await target.machine.called(Write)
    await target.machine.place(number)
    assert await client.is_told_to_go_on()
    await client.more(b"abc")
    data, end = await target.machine.taken(number)
    assert data == b"abc"
    await target.machine.commit(end)
    assert (await client.reply()).status == 200


REFUSED = {
    "no key": ("PUT", "/v1/files/upload?machine_id=x&path=/f", "nonsense", 401, "unauthorized"),
    "no path": ("PUT", "/v1/files/upload?machine_id=x", None, 400, "invalid_request"),
    "no machine": ("PUT", "/v1/files/upload?path=/f", None, 400, "invalid_request"),
    "unknown": ("PUT", "/v1/machines/x/files/upload?path=/f", None, 404, "machine_not_found"),
    "dots": ("PUT", "/v1/machines/../files/upload?path=/f", None, 404, "not_found"),
    "slashes": ("PUT", "/v1//files/upload?machine_id=x&path=/f", None, 404, "not_found"),
    "escaped": ("PUT", "/v1/machines/x%2ffiles/upload?path=/f", None, 404, "not_found"),
    "behind": ("PUT", "/v1/files/upload/x?machine_id=x&path=/f", None, 404, "not_found"),
    "patch": ("PATCH", "/v1/files/upload?machine_id=x&path=/f", None, 405, "method_not_allowed"),
    "post": ("POST", "/v1/files/download?machine_id=x&path=/f", None, 405, "method_not_allowed"),
    "credential": ("PUT", "/v1/files/upload?path=/f&token=x", None, 400, "invalid_request"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
async def test_what_is_refused_is_refused_before_its_body(target, case):
    method, path, key, status, code = case
    client = await target.connect(key)
    await client.begin(method, path, Content_Length="1000000")
    await client.more(b"abc")
    reply = await client.reply()
    assert (reply.status, reply.code) == (status, code)
    if status == 405:
        assert reply.headers["allow"]


async def test_a_key_without_the_scope_is_refused_before_its_body(target):
    _, secret = await target.new_key(set(GRANTABLE) - {Scope.FILES_WRITE, Scope.ADMIN})
    client = await target.connect(secret)
    await client.begin("PUT", target.path("upload"), Content_Length="1000000")
    reply = await client.reply()
    assert (reply.status, reply.code) == (403, "forbidden")


async def test_a_refusal_without_a_body_keeps_the_connection(target):
    client = await target.connect()
    for _ in range(2):
        await client.send("GET", "/v1/machines/x/files/download?path=/f")
        assert (await client.reply()).status == 404


# ── out ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 1, 900_000])
async def test_a_file_comes_whole_and_the_connection_stays(target, size):
    client = await target.connect()
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    for _ in range(2):
        await client.send("GET", target.path("download"))
        number, asked = await target.machine.called(Read)
        assert asked == Read(path=b"/f")
        await target.machine.send(number, opened(size), content)
        await target.machine.link.say(FileEnd(id=number, end=size, sha256=SHA))
        reply = await client.reply()
        assert (reply.status, reply.body, reply.is_whole) == (200, content, True)


async def test_a_file_that_changes_ends_the_connection_short_of_its_length(target, caplog):
    client = await target.connect()
    await client.send("GET", target.path("download"))
    number, _ = await target.machine.called(Read)
    await target.machine.send(number, opened(100_000), bytes(50_000))
    await client.until_body()
    await target.machine.fail(number, "changed_during_read")
    reply = await client.reply()
    assert (reply.status, reply.headers["content-length"]) == (200, "100000")
    assert not reply.is_whole
    (record,) = [record for record in caplog.records if record.name.startswith("cmdop.api")]
    assert (record.message, record.code) == ("answer broken off", "changed_during_read")
    assert record.exc_info is None


async def test_a_failure_before_the_first_byte_is_an_answer(target):
    client = await target.connect()
    await client.send("GET", target.path("download"))
    number, _ = await target.machine.called(Read)
    await target.machine.answer(number, opened(100_000))
    await target.machine.fail(number, "changed_during_read")
    reply = await client.reply()
    assert (reply.status, reply.code) == (409, "changed_during_read")


@pytest.mark.parametrize("when", ["before", "in the midst"])
async def test_a_download_ends_with_its_client(target, when):
    """Also where the machine says nothing: it has only so many places for calls."""
    client = await target.connect()
    await client.send("GET", target.path("download"))
    number, _ = await target.machine.called(Read)
    if when == "in the midst":
        await target.machine.send(number, opened(100_000), bytes(50_000))
        await client.until_body()
    await client.stream.aclose()
    assert await target.machine.link.expect(FileStop) == FileStop(id=number)


async def test_a_machine_is_not_read_further_than_its_client_reads(target):
    client = await target.connect()
    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await client.send("GET", target.path("download"))
    number, _ = await target.machine.called(Read)
    size = 100 * MIB
    await target.machine.answer(number, opened(size))
    given, sent = MIB, 0  # credit
    while sent < 50 * MIB:
        while sent + 65536 <= given:
            await target.machine.link.say(Data(number, sent, bytes(65536)))
            sent += 65536
        with trio.move_on_after(0.5) as patience:
            message = await target.machine.link.hear()
            assert isinstance(message, FileCredit)
            given = message.offset
        if patience.cancelled_caught:
            break
    assert sent < 10 * MIB  # what the kernel holds for both ends, and the credit
    reset(client.stream)


async def test_a_key_that_is_revoked_in_the_midst_gets_no_more(target):
    key_id, secret = await target.new_key([Scope.FILES_READ])
    client = await target.connect(secret)
    await client.send("GET", target.path("download"))
    number, _ = await target.machine.called(Read)
    await target.machine.send(number, opened(100_000), bytes(50_000))
    await client.until_body()
    await target.live.hub.store.run(api_keys.delete, REACH, key_id)
    reply = await client.reply()
    assert (reply.status, reply.is_whole) == (200, False)
    assert await stopped(target) == number


async def test_a_key_that_is_revoked_before_the_first_byte_of_a_file_is_told(target):
    key_id, secret = await target.new_key([Scope.FILES_READ])
    client = await target.connect(secret)
    await client.send("GET", target.path("download"))
    number, _ = await target.machine.called(Read)
    await target.machine.answer(number, opened(100_000))
    await target.live.hub.store.run(api_keys.delete, REACH, key_id)
    assert (await client.reply()).code == "unauthorized"
    assert await stopped(target) == number


async def test_a_key_that_is_revoked_gets_nothing_more_however_slowly_its_client_reads(tmp_path):
    """What waits for it in the hub's memory is dropped, and so is what waits in the kernel's."""
    async with bulk_target(tmp_path, send_timeout_s=600) as target:
        key_id, secret = await target.new_key([Scope.FILES_READ])
        client = await target.connect(secret)
        client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.send("GET", target.path("download"))
        number, _ = await target.machine.called(Read)
        size = 50 * MIB
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give, target, number, size)
            await client.until_body()
            await target.live.hub.store.run(api_keys.delete, REACH, key_id)
            await until(lambda: not target.server._connections)
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.BrokenResourceError):  # reset: nothing is on its way any more
            await drain(client.stream)


async def drain(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


async def give(target: Target, number: int, size: int) -> None:
    """A file, as far as the machine is given credit for it."""
    await target.machine.answer(number, opened(size))
    given, sent = MIB, 0
    while sent < size:
        while sent + 65536 <= given:
            await target.machine.link.say(Data(number, sent, bytes(65536)))
            sent += 65536
        if isinstance(message := await target.machine.link.hear(), FileStop):
            return
        given = message.offset


async def test_a_key_that_is_revoked_while_a_file_is_opened_gets_nothing(target):
    key_id, secret = await target.new_key([Scope.FILES_READ])
    client = await target.connect(secret)
    await client.send("GET", target.path("download"))
    number, _ = await target.machine.called(Read)
    await target.live.hub.store.run(api_keys.delete, REACH, key_id)
    await trio.sleep(1.0)  # a key is looked at once a second
    await target.machine.answer(number, opened(100_000))
    assert (await client.reply()).code == "unauthorized"
    assert await target.machine.link.expect(FileStop) == FileStop(id=number)


async def test_head_is_get_without_its_body(target):
    client = await target.connect()
    await client.send("HEAD", target.path("download"))
    number, _ = await target.machine.called(Read)
    await target.machine.answer(number, opened(100_000))
    reply = await client.reply()
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-length"] == "100000"
    await target.machine.link.expect(FileStop)
    await client.send("GET", target.path("download"))
    await target.machine.link.expect(FileCall)
    await target.machine.fail(number + 1, "file_not_found")
    assert (await client.reply()).code == "file_not_found"
