"""What is done to names: looked at, deleted, made; and what of it is refused."""

import hashlib
import os
import re
import socket
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from cmdop_appliance.agent.files.failures import FileFailure, Stopped
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import (
    Copy,
    Delete,
    Done,
    Exist,
    Existing,
    List,
    Mkdir,
    Move,
    Read,
    Stat,
    Uploaded,
    Write,
)
from tests.support.agent_files import as_root, fails, get, mounted, put
from tests.support.file_calls import b, do, picture, refusal
from tests.support.nobody import succeeds_as_nobody

DEPTH = 200


def deep(top: Path, levels: int) -> Path:
    """So many directories within one another, made from within."""
    handle = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=handle)
        inner = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    return top / "d"


# ── stat and exist ───────────────────────────────────────────────────────────────────────────


def test_what_stands_at_a_path_is_told_a_link_not_followed(files, root):
    found = do(files, Stat(path=b(root / "tree/link")))
    assert (found.entry.type, found.entry.target) == ("symlink", b"inner/file")
    assert found.path == b(root / "tree/link")
    assert found.entry.name == b"link"
    assert do(files, Stat(path=b(root))).entry.name == b"root"
    assert "none" in refusal(files, Stat(path=b(root / "none")), "file_not_found")


def test_the_root_of_all_has_no_name(tmp_path, root):
    found = do(Files(tmp_path / "state", FilesPolicy()), Stat(path=b"/"))
    assert (found.path, found.entry.name, found.entry.type) == (b"/", b"", "directory")


def test_a_version_is_another_after_every_change(files, root):
    versions = [do(files, Stat(path=b(root / "file"))).version]
    for change in (
        lambda: (root / "file").write_text("longer content"),
        lambda: os.utime(root / "file", (1, 1)),
        lambda: (root / "new").rename(root / "file"),
    ):
        (root / "new").write_text("longer content")
        change()
        versions.append(do(files, Stat(path=b(root / "file"))).version)
    assert len(set(versions)) == 4


def test_a_checksum_is_of_the_file_that_a_path_leads_to(files, root):
    of_content = hashlib.sha256(b"content").digest()
    assert do(files, Stat(path=b(root / "file"))).sha256 is None
    assert do(files, Stat(path=b(root / "file"), checksum=True)).sha256 == of_content
    (root / "link").symlink_to("file")
    found = do(files, Stat(path=b(root / "link"), checksum=True))
    assert (found.entry.type, found.sha256) == ("symlink", of_content)


def test_what_has_no_content_has_no_checksum(files, root):
    os.mkfifo(root / "pipe")  # to open it would be to wait
    (root / "gone").symlink_to("nowhere")
    for name in ("tree", "pipe", "gone"):
        assert do(files, Stat(path=b(root / name), checksum=True)).sha256 is None


def test_existing_is_whatever_has_a_name_and_may_be_seen(files, root, tmp_path):
    os.mkfifo(root / "pipe")
    (root / "gone").symlink_to("nowhere")
    here = [root, root / "tree", root / "file", root / "pipe", root / "gone", root / "tree/out"]
    there = [root / "none", root / "file/x", tmp_path, tmp_path / "outside/kept", "/a\0b"]
    there += [root / ("x" * 256), root / "tree/out/kept", "/" + "x" * 4094]
    answer = do(files, Exist(paths=[b(path) for path in here + there]))
    assert answer == Existing(exist=[True] * len(here) + [False] * len(there))


def test_home_exists_by_its_short_name_as_far_as_it_is_open(home, root, tmp_path):
    (home / "~").mkdir()
    paths = [b"~", b"~/", b"~/file", b"~/none", b"~/../..", b"~/../../..", b"~user", b"~file"]
    exist = [True, True, True, False, True, False, False, False]
    at_home = Files(tmp_path / "state", FilesPolicy(roots=(str(root),)))
    assert do(at_home, Exist(paths=paths)).exist == exist
    assert do(at_home, Stat(path=b"~")).path == b(root / "way/user/~")  # elsewhere it is a name
    elsewhere = Files(tmp_path / "state", FilesPolicy(roots=(str(root / "tree"),)))
    assert do(elsewhere, Exist(paths=[b"", b"~"])).exist == [True, False]


# ── delete ───────────────────────────────────────────────────────────────────────────────────


def test_a_file_a_link_and_an_empty_directory_are_deleted_each_by_itself(files, root, tmp_path):
    (root / "empty").mkdir()
    for name in ("file", "tree/link", "tree/out", "empty"):
        assert do(files, Delete(path=b(root / name))) == Done()
        assert not os.path.lexists(root / name)
    assert (root / "tree/inner/file").read_text() == "deeper"
    assert (tmp_path / "outside/kept").read_text() == "kept"


def test_a_directory_with_something_in_it_goes_only_recursively(files, root, tmp_path):
    message = refusal(files, Delete(path=b(root / "tree")), "directory_not_empty")
    assert "recursive" in message
    assert (root / "tree/inner/file").exists()
    do(files, Delete(path=b(root / "tree"), recursive=True))
    assert not (root / "tree").exists()
    assert (tmp_path / "outside/kept").read_text() == "kept"  # no link was followed


def test_special_files_are_deleted_and_moved_but_never_copied(files, root):
    os.mkfifo(root / "tree/pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    for name in ("socket", "tree", "tree/pipe"):
        call = Copy(source=b(root / name), destination=b(root / "copy"))
        message = refusal(files, call, "not_a_regular_file")
        assert "pipe" in message or "socket" in message
    assert not (root / "copy").exists()
    do(files, Move(source=b(root / "socket"), destination=b(root / "moved")))
    assert stat.S_ISSOCK((root / "moved").lstat().st_mode)
    do(files, Delete(path=b(root / "moved")))
    do(files, Delete(path=b(root / "tree"), recursive=True))


def test_what_is_not_there_cannot_be_deleted(files, root):
    refusal(files, Delete(path=b(root / "none")), "file_not_found")
    refusal(files, Delete(path=b(root / "none"), recursive=True), "file_not_found")
    refusal(files, Delete(path=b(root / "file/x"), recursive=True), "not_a_directory")


def test_a_root_is_not_deleted_nor_moved_nor_replaced(files, root):
    (root / "d").mkdir()
    for call in (
        Delete(path=b(root)),
        Delete(path=b(root), recursive=True),
        Move(source=b(root), destination=b(root / "x")),
        Move(source=b(root / "d"), destination=b(root), overwrite=True),
        Copy(source=b(root / "d"), destination=b(root), overwrite=True),
    ):
        assert "files.roots" in refusal(files, call, "path_not_allowed")


def test_a_stopped_delete_leaves_the_rest(files, root):
    for number in range(20):
        (root / f"tree/{number}").touch()
    asked = iter(range(100))
    with pytest.raises(Stopped):
        do(files, Delete(path=b(root / "tree"), recursive=True), lambda: next(asked) > 10)
    assert 5 < len(list((root / "tree").iterdir())) < 24


def test_a_tree_beyond_any_use_is_refused_with_the_number(files, root):
    (root / "deep").mkdir()
    top = deep(root / "deep", DEPTH)
    call = Copy(source=b(root / "deep"), destination=b(root / "copy"))
    assert str(DEPTH) in refusal(files, call, "invalid_path")
    assert str(DEPTH) in refusal(
        files, Delete(path=b(root / "deep"), recursive=True), "invalid_path"
    )
    do(files, Delete(path=b(top), recursive=True))
    assert list((root / "deep").iterdir()) == []


# ── the agent's own ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("target", ["own", "own/key", "holder"])
def test_nothing_is_done_to_the_agents_own_directory_nor_to_what_holds_it(root, target):
    holder = root / "holder"
    (holder / "own").mkdir(parents=True)
    (holder / "own/key").write_text("secret")
    (holder / "other").write_text("other")
    files = Files(holder / "own", FilesPolicy())
    path = b(holder if target == "holder" else holder / target)
    before = picture(holder)
    calls = [
        Delete(path=path, recursive=True),
        Move(source=path, destination=b(root / "new")),
        Copy(source=path, destination=b(root / "new")),
    ]
    if target != "holder":
        calls += [
            List(path=path, limit=10),
            Stat(path=path, checksum=True),
            Delete(path=path),
            Mkdir(path=path + b"/x", parents=True),
            Copy(source=b(root / "file"), destination=path, overwrite=True),
            Move(source=b(root / "file"), destination=path + b"/file", overwrite=True),
        ]
    for call in calls:
        refusal(files, call, "path_not_allowed")
    if target != "holder":
        assert do(files, Exist(paths=[path])).exist == [False]
        with pytest.raises(FileFailure):
            files.open(Read(path=path))
        with pytest.raises(FileFailure):
            files.place(Write(path=path), lambda: False)
    assert picture(holder) == before
    assert not (root / "new").exists()


def test_directories_that_the_host_names_are_closed_like_the_agents_own(root, tmp_path):
    files = Files(tmp_path / "state", FilesPolicy(), keep_out=[root / "tree"])
    refusal(files, List(path=b(root / "tree"), limit=1), "path_not_allowed")
    refusal(files, Delete(path=b(root), recursive=True), "path_not_allowed")
    assert (root / "tree/inner/file").exists()


# ── what the agent needs ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def home(root, monkeypatch):
    """That of the agent's user, which a link leads to as well."""
    home = root / "homes/user"
    home.mkdir(parents=True)
    (home / "file").write_text("mine")
    (root / "way").symlink_to("homes")
    monkeypatch.setenv("HOME", str(root / "way/user"))
    return home


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize(
    "path", ["{home}", "{home}/", "{link}/user", "../user", "{home}/../user", "{home}/..//user/"]
)
def test_home_is_not_deleted_nor_moved_whatever_it_is_called(home, root, tmp_path, path, is_empty):
    files = Files(tmp_path / "state", FilesPolicy(roots=(str(root),)))
    if is_empty:
        (home / "file").unlink()
    before = picture(root)
    path = b(path.format(home=home, link=root / "way"))
    for call in (
        Delete(path=path),
        Delete(path=path, recursive=True),
        Move(source=path, destination=b(root / "new")),
        Move(source=b(root / "tree/inner"), destination=path.rstrip(b"/"), overwrite=True),
        Copy(source=b(root / "tree"), destination=path, overwrite=True),
    ):
        message = refusal(files, call, "path_not_allowed")
        assert "is, or holds, the home of the agent's user; delete or move what is in" in message
    assert picture(root) == before


@pytest.mark.parametrize("holder", ["homes", "way"])
def test_what_home_lies_in_or_is_reached_by_is_not_deleted_nor_moved(home, root, tmp_path, holder):
    files = Files(tmp_path / "state", FilesPolicy(roots=(str(root),)))
    before = picture(root)
    for call in (
        Delete(path=b(root / holder)),
        Delete(path=b(root / holder), recursive=True),
        Move(source=b(root / holder), destination=b(root / "new")),
    ):
        assert "home" in refusal(files, call, "path_not_allowed")
    assert picture(root) == before
    do(files, Copy(source=b(home), destination=b(root / "copy")))
    do(files, Delete(path=b"file"))
    do(files, Move(source=b(root / "copy/file"), destination=b"file"))
    assert (home / "file").read_text() == "mine"


@as_root
def test_home_is_not_deleted_by_another_mount_of_it(home, root, tmp_path):
    with mounted(root / "mount", "--bind", str(home)):
        files = Files(tmp_path / "state", FilesPolicy(roots=(str(root),)))
        call = Delete(path=b(root / "mount"), recursive=True)
        refusal(files, call, "path_not_allowed")
        assert (home / "file").read_text() == "mine"


@pytest.mark.parametrize("path", ["", ".", "./", "..", "tree/.", "tree/./", "tree/inner/..", "/."])
def test_what_has_no_name_is_not_deleted_nor_moved(home, root, tmp_path, path):
    files = Files(tmp_path / "state", FilesPolicy(roots=(str(root),)))
    before = picture(root)
    path = b(root) + b"/" + b(path) if path.startswith("tree") else b(path)
    for call in (
        Delete(path=path),
        Delete(path=path, recursive=True),
        Move(source=path, destination=b(root / "new")),
    ):
        assert "names" in refusal(files, call, "invalid_path")
    assert picture(root) == before


@pytest.fixture
def config(root):
    """agent.toml, by a way with links in it: `now` to `conf`, and `agent.toml` to `real/policy`."""
    (root / "conf").mkdir()
    (root / "real").mkdir()
    (root / "now").symlink_to("conf")
    (root / "conf/agent.toml").symlink_to(root / "real/policy")
    (root / "real/policy").write_text("[commands]\nexec = false\n")
    return root / "now/agent.toml"


@pytest.mark.parametrize("is_ours", [False, True])
def test_agent_toml_may_be_read_and_by_no_way_changed(root, tmp_path, config, is_ours):
    if is_ours:  # it is looked for in the agent's own directory, and a link there leads to it
        (tmp_path / "state/agent.toml").symlink_to(config)
    files = Files(
        tmp_path / "state", FilesPolicy(roots=(str(root),)), config=None if is_ours else config
    )
    before = picture(root)
    (root / "d").mkdir()
    for name in ("now/agent.toml", "conf/agent.toml", "real/policy"):
        assert get(files, root / name) == b"[commands]\nexec = false\n"
        with fails("path_not_allowed") as failure:
            put(files, root / name, b"")
        assert "agent.toml, which no hub may change" in failure.value.message
        with fails("path_not_allowed"):
            put(files, root / name, b"", upload="u")
        call = Copy(source=b(root / "file"), destination=b(root / name), overwrite=True)
        refusal(files, call, "path_not_allowed")
        for source in ("file", "d", "tree/link"):
            call = Move(source=b(root / source), destination=b(root / name), overwrite=True)
            refusal(files, call, "path_not_allowed")
    for name in ("now", "conf", "real", "now/agent.toml", "conf/agent.toml", "real/policy"):
        for call in (
            Delete(path=b(root / name)),
            Delete(path=b(root / name), recursive=True),
            Move(source=b(root / name), destination=b(root / "new")),
            Move(source=b(root / "file"), destination=b(root / name), overwrite=True),
        ):
            refusal(files, call, "path_not_allowed")
    (root / "d").rmdir()
    assert picture(root) == before
    put(files, root / "now/other", b"")  # beside it


def test_agent_toml_is_not_made_while_it_is_away(root, tmp_path, config):
    files = Files(tmp_path / "state", FilesPolicy(roots=(str(root),)), config=config)
    (root / "real/policy").unlink()
    for name in ("now/agent.toml", "conf/agent.toml", "real/policy"):
        with fails("path_not_allowed"):
            put(files, root / name, b"")
    for name in ("conf/agent.toml", "now"):
        (root / name).unlink()
        for call in (
            Copy(source=b(root / "tree"), destination=b(root / name)),
            Move(source=b(root / "tree"), destination=b(root / name)),
        ):
            refusal(files, call, "path_not_allowed")


def test_links_that_lead_to_nothing_and_on_hold_up_nobody(root, tmp_path):
    (root / "tangle0").symlink_to("./tangle1")
    (root / "tangle1").symlink_to("tree/../tangle0")
    files = Files(tmp_path / "state", FilesPolicy(roots=(str(root),)), config=root / "tangle0")
    do(files, Delete(path=b(root / "file")))
    refusal(files, Delete(path=b(root / "tangle0")), "path_not_allowed")


def test_the_way_to_the_agents_own_directory_stays(root, tmp_path):
    (root / "own").symlink_to(tmp_path / "state")
    files = Files(root / "own", FilesPolicy(roots=(str(root),)))
    refusal(files, Delete(path=b(root / "own")), "path_not_allowed")
    call = Move(source=b(root / "tree"), destination=b(root / "own"), overwrite=True)
    refusal(files, call, "path_not_allowed")


# ── a slash at the end ───────────────────────────────────────────────────────────────────────


def test_a_path_that_ends_in_a_slash_is_one_of_a_directory_for_every_call(files, root):
    (root / "link").symlink_to("tree")
    file, link, new = (b(root / name) + b"/" for name in ("file", "link", "new"))
    for call in (
        List(path=file, limit=1),
        Stat(path=file),
        Delete(path=file),
        Delete(path=link),
        Delete(path=link, recursive=True),
        Move(source=file, destination=b(root / "x")),
        Move(source=link, destination=b(root / "x")),
        Copy(source=file, destination=b(root / "x")),
        Move(source=b(root / "file"), destination=new),
        Copy(source=b(root / "file"), destination=new),
        Copy(source=b(root / "tree/inner"), destination=file, overwrite=True),
    ):
        refusal(files, call, "not_a_directory")
    with fails("not_a_directory"):
        get(files, file)
    assert not (root / "new").exists()
    assert do(files, Stat(path=link)).entry.type == "directory"
    assert do(files, Exist(paths=[file, link, new])).exist == [False, True, False]
    assert do(files, Mkdir(path=new)).entry.name == b"new"
    do(files, Move(source=new, destination=b(root / "newer/")))
    do(files, Copy(source=link, destination=b(root / "newest") + b"/"))
    do(files, Delete(path=b(root / "newer") + b"/"))
    assert (root / "newest/file").read_text() == "a file"
    assert (root / "tree/file").exists()


# ── mkdir ────────────────────────────────────────────────────────────────────────────────────


def test_a_directory_is_made_with_what_the_umask_leaves_or_with_the_mode(files, root):
    found = do(files, Mkdir(path=b(root / "new")))
    umask = os.umask(0)
    os.umask(umask)
    assert found.entry.mode == 0o777 & ~umask
    assert do(files, Mkdir(path=b(root / "other"), mode=0o1777)).entry.mode == 0o1777
    assert do(files, Mkdir(path=b(root / "closed"), mode=0)).entry.mode == 0


def test_a_directory_may_have_a_mode_that_shuts_out_its_maker():
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        (Path(place) / "state").mkdir()

        def make() -> None:
            call = Mkdir(path=b(place) + b"/new", mode=0o200)
            files = Files(Path(place) / "state", FilesPolicy(roots=(place,)))
            assert do(files, call).entry.mode == 0o200

        assert succeeds_as_nobody(make)


def test_a_directory_keeps_the_group_that_the_one_above_hands_down(files, root):
    (root / "tree").chmod(0o2755)
    assert do(files, Mkdir(path=b(root / "tree/new"), mode=0o750)).entry.mode == 0o2750


def test_directories_above_are_made_only_if_that_was_asked_for(files, root):
    path = b(root / "x/y/z")
    message = refusal(files, Mkdir(path=path), "file_not_found")
    assert f"{root}/x, on the way to" in message
    assert "`parents`" in message
    for kind in (Move, Copy):
        call = kind(source=b(root / "file"), destination=path)
        message = refusal(files, call, "file_not_found")
        assert message == f"{root}/x, on the way to {root}/x/y/z, does not exist; make it first"
    assert not (root / "x").exists()
    do(files, Mkdir(path=path, parents=True, mode=0o700))
    assert stat.S_IMODE((root / "x/y/z").stat().st_mode) == 0o700
    refusal(files, Mkdir(path=path), "file_exists")
    assert do(files, Mkdir(path=path, parents=True)).entry.mode == 0o700


def test_many_may_make_the_same_directories_at_a_time(files, root):
    """As a copy of a tree does, by several connections."""
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            path = b(root / f"{number}/x/y/z")
            found = pool.map(
                lambda _, path=path: do(files, Mkdir(path=path, parents=True)), "12345678"
            )
            assert {answer.entry.type for answer in found} == {"directory"}


def test_a_directory_does_not_take_the_place_of_anything(files, root, tmp_path):
    (root / "link").symlink_to("tree")
    (root / "gone").symlink_to("made")
    for name in ("file", "tree", "link", "gone"):
        refusal(files, Mkdir(path=b(root / name)), "file_exists")
    refusal(files, Mkdir(path=b(root / "file"), parents=True), "file_exists")
    refusal(files, Mkdir(path=b(root / "file/x"), parents=True), "not_a_directory")
    refusal(files, Mkdir(path=b(root / "tree/out/x"), parents=True), "path_not_allowed")
    assert do(files, Mkdir(path=b(root / "link"), parents=True)).entry.type == "directory"
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["kept"]


# ── the policy ───────────────────────────────────────────────────────────────────────────────

READS = (List(path=b"", limit=1), Stat(path=b""), Exist(paths=[b""]), Read(path=b""))
CHANGES = (
    Write(path=b"x"),
    Uploaded(path=b"x", upload="u"),
    Delete(path=b"x"),
    Move(source=b"x", destination=b"y"),
    Mkdir(path=b"x"),
)
COPY = Copy(source=b"x", destination=b"y")


@pytest.mark.parametrize(
    ("call", "key"),
    [
        *[(call, "files.read") for call in (*READS, COPY)],
        *[(call, "files.write") for call in (*CHANGES, COPY)],
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_agent_toml_denies_is_refused_by_its_key(root, tmp_path, call, key):
    policy = FilesPolicy(read=key != "files.read", write=key != "files.write", roots=(str(root),))
    files = Files(tmp_path / "state", policy)
    place = partial(files.place, is_stopped=lambda: False)
    ask = {Read: files.open, Write: place}.get(type(call), partial(do, files))
    with pytest.raises(FileFailure, match=re.escape(f"({key})")) as caught:
        ask(call)
    assert caught.value.code == "path_not_allowed"
