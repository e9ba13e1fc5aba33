"""/dl: the programs that machines fetch, and the script that has them do it."""

import hashlib
import os
import random
import sys
from collections import Counter
from contextlib import AsyncExitStack, aclosing

import pytest

from cmdop_appliance.api import programs
from cmdop_appliance.errors import ChangedDuringRead, RateLimited
from tests.support.site import open_site

SYSTEM = os.uname()
OWN = f"cmdop-{SYSTEM.sysname.lower()}-{SYSTEM.machine}"
NAME = "cmdop-testos-cpu_64"
CONTENT = random.Random(1).randbytes(700_001)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """DATA/dl with one program, and what is none; nothing was built in the checkout."""
    monkeypatch.setattr(programs, "_CHECKOUT", tmp_path / "checkout")
    folder = tmp_path / "dl"
    (folder / "cmdop-a-directory").mkdir(parents=True)
    for name in ("notes.txt", "cmdop-", "cmdop-x", "cmdop-Linux-x", "cmdop-a-b.old"):
        (folder / name).write_text("none")
    (folder / NAME).write_bytes(CONTENT)
    return folder


@pytest.fixture
async def site(tmp_path, folder):
    async with open_site(tmp_path) as site:
        yield site


async def test_a_program_is_listed_fetched_and_can_be_checked(site):
    digest = hashlib.sha256(CONTENT).hexdigest()
    listed = {"name": NAME, "platform": "testos-cpu_64", "size": len(CONTENT), "sha256": digest}
    offered = (await site.get("/dl")).json
    assert offered == {"files": [listed], "key_pin": None, "public_url": None}
    answer = await site.get(f"/dl/{NAME}")
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers["content-disposition"] == f'attachment; filename="{NAME}"'
    assert answer.headers["content-security-policy"] == "sandbox"
    assert (await site.get(f"/dl/{NAME}.sha256")).body == f"{digest}  {NAME}\n".encode()


async def test_how_large_a_program_is_can_be_asked_for(site):
    answer = await site.get(f"/dl/{NAME}", "HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(CONTENT)))
    assert answer.body == b""


async def test_a_program_that_gets_shorter_meanwhile_is_broken_off(folder):
    async with aclosing(programs._read(folder / NAME, Counter(), "192.0.2.1")) as stream:
        assert await anext(stream) == len(CONTENT)
        assert CONTENT.startswith(await anext(stream))
        os.truncate(folder / NAME, 10)
        with pytest.raises(ChangedDuringRead):
            await anext(stream)


async def test_so_many_downloads_go_on_at_once_and_no_more(folder):
    downloads = Counter()

    async def begin(address):
        stream = programs._read(folder / NAME, downloads, address)
        await on.enter_async_context(aclosing(stream))
        assert await anext(stream) == len(CONTENT)
        return stream

    async with AsyncExitStack() as on:
        first, *_ = [await begin("192.0.2.1") for _ in range(4)]
        with pytest.raises(RateLimited) as refused:
            await begin("192.0.2.1")
        assert refused.value.retry_after > 0
        await first.aclose()
        await begin("192.0.2.1")
        for number in range(28):
            await begin(f"192.0.2.{2 + number // 4}")
        with pytest.raises(RateLimited):
            await begin("192.0.2.99")
    assert downloads == {}


async def test_who_fetches_too_many_at_once_is_told_when_to_come_again(site, monkeypatch):
    monkeypatch.setattr(programs, "_AT_ONCE_BY_ADDRESS", 0)
    answer = await site.get(f"/dl/{NAME}")
    assert (answer.status, answer.error["code"]) == (429, "rate_limited")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_program_that_is_replaced_has_another_checksum_at_once(site, folder):
    before = (await site.get(f"/dl/{NAME}.sha256")).body
    new = folder / "new"
    new.write_bytes(CONTENT[::-1])
    new.replace(folder / NAME)
    assert (await site.get(f"/dl/{NAME}.sha256")).body != before
    assert (await site.get(f"/dl/{NAME}")).body == CONTENT[::-1]


async def test_nothing_else_of_the_data_directory_is_served(site, folder):
    (folder.parent / "admin.key").write_text("secret")
    for name in (
        *("notes.txt", "cmdop-", "cmdop-x", "cmdop-Linux-x", "cmdop-a-b.old", "cmdop-a-directory"),
        *(
            "..%2fadmin.key",
            "..",
            "admin.key",
            f"{NAME}.sha256.sha256",
            "join.sh.sha256",
            ".sha256",
        ),
    ):
        assert (await site.get(f"/dl/{name}")).status == 404, name


def test_the_own_program_is_the_one_that_runs_or_what_the_checkout_built(tmp_path, monkeypatch):
    built = tmp_path / "dist/cmdop"
    monkeypatch.setattr(programs, "_CHECKOUT", tmp_path)
    assert programs.find_programs(tmp_path) == {}
    built.parent.mkdir()
    built.touch()
    assert programs.find_programs(tmp_path) == {OWN: built}
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    onefile = tmp_path / "onefile"
    onefile.touch()
    monkeypatch.setenv("CMDOP_ONEFILE", str(onefile))
    assert programs.find_programs(tmp_path) == {OWN: onefile}
    chosen = tmp_path / "dl" / OWN
    chosen.parent.mkdir()
    chosen.touch()
    assert programs.find_programs(tmp_path) == {OWN: chosen}


async def test_the_script_leads_back_to_where_it_was_fetched(site):
    answer = await site.get("/dl/join.sh", Host="hub.example:8080")
    assert answer.headers["content-type"] == "text/x-shellscript; charset=utf-8"
    for host in ("hub.example:8080", "192.0.2.7", "[2001:db8::1]:3006", "my_box"):
        script = (await site.get("/dl/join.sh", Host=host)).body.decode()
        assert f"http://{host}" in script
    script = (await site.get("/dl/join.sh", Host="hub", X_Forwarded_Proto="https")).body.decode()
    assert "https://hub" in script


async def test_a_host_that_is_none_gets_no_script(site):
    for host in ("a;reboot", "$(reboot)", "a b", "a'", "a/b", "a@b", "`a`", "[::1", "a:b", "é"):
        answer = await site.get("/dl/join.sh", Host=host)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request"), host


async def test_the_public_url_is_taken_where_it_is_the_one_that_was_asked(tmp_path):
    async with open_site(tmp_path, public_url="https://hub.example") as site:
        script = (await site.get("/dl/join.sh", Host="HUB.example")).body.decode()
        assert "hub=https://hub.example\n" in script
        script = (await site.get("/dl/join.sh", Host="192.0.2.7:3006")).body.decode()
        assert "hub=http://192.0.2.7:3006\n" in script
        assert (await site.get("/dl")).json["public_url"] == "https://hub.example"
