"""Where a path leads: to what the kernel would find, and never out of the roots."""

import os
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.reading import open_regular
from cmdop_appliance.agent.files.roots import Place, Roots, means_directory
from cmdop_appliance.agent.files.trees import remove
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.limits import PATH_BYTES
from tests.support.agent_files import as_root
from tests.support.descriptors import open_descriptors
from tests.support.nobody import succeeds_as_nobody

LINKS = 40  # that are followed on one way
SOMEBODY = 1234  # neither root nor the owner of anything


def b(path: object) -> bytes:
    return os.fsencode(str(path))


def roots_of(*roots: object, keep_out=(), home: object = "/") -> Roots:
    return Roots(FilesPolicy(roots=tuple(map(str, roots))), keep_out, b(home))


def real(roots: Roots, path: object, *, follow: bool = True) -> bytes:
    """Where it leads; the place is what it says."""
    with roots.place(path if isinstance(path, bytes) else b(path), follow=follow) as place:
        if place.status is not None and place.name != b".":
            assert os.path.samestat(place.status, os.lstat(place.real))
        directory = Path(os.fsdecode(place.real))
        if place.name != b".":
            directory = directory.parent
        assert os.path.samestat(os.stat(".", dir_fd=place.parent), directory.stat())
        return place.real


def refusal(roots: Roots, path: object, *, follow: bool = True) -> FileFailure:
    before = open_descriptors()
    with pytest.raises(FileFailure) as caught:
        real(roots, path, follow=follow)
    assert open_descriptors() == before
    return caught.value


@pytest.fixture
def root(tmp_path):
    """A root with a little in it, and something beside it."""
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_text("here")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("there")
    return root


# ── from where ───────────────────────────────────────────────────────────────────────────────


def test_a_relative_path_counts_from_home_and_an_empty_one_is_home(root):
    roots = roots_of(root, home=root / "a")
    assert real(roots, b"file") == b(root / "a/file")
    assert real(roots, b"") == real(roots, b".") == b(root / "a")
    assert real(roots, b"../a/b") == b(root / "a/b")


def test_an_empty_path_is_the_first_root_where_home_is_not_open(root, tmp_path):
    roots = roots_of(root, root / "a", home=tmp_path / "outside")
    assert real(roots, b"") == b(root)
    assert refusal(roots, b"secret").code == "path_not_allowed"


def test_a_path_is_told_as_it_was_asked_for_without_what_means_nothing(root):
    (root / "link").symlink_to("a")
    with roots_of(root).place(b(root) + b"//./link//b/", follow=True) as place:
        assert place.path == b(root / "link/b")
        assert place.real == b(root / "a/b")
    with roots_of(root).place(b(root) + b"/link/../link/file", follow=True) as place:
        assert place.path == place.real == b(root / "a/file")


def test_without_roots_nothing_is_open():
    assert refusal(roots_of(), b"/").code == "path_not_allowed"
    assert refusal(roots_of(), b"").code == "path_not_allowed"


# ── confined ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["..", "../outside", "../outside/secret", "/", "/etc/passwd"])
def test_what_is_outside_is_refused_by_the_key_of_agent_toml(root, path):
    failure = refusal(roots_of(root), b(root) + b"/" + b(path) if path[0] == "." else b(path))
    assert failure.code == "path_not_allowed"
    assert "files.roots" in failure.message


def test_a_name_that_begins_like_a_root_is_outside(root, tmp_path):
    (tmp_path / "root2").mkdir()
    assert refusal(roots_of(root), tmp_path / "root2").code == "path_not_allowed"


@pytest.mark.parametrize(
    "text", ["../outside", "{outside}", "a/../../outside", "/proc/self/root/{outside}"]
)
def test_a_link_that_leads_out_is_refused_wherever_it_stands(root, tmp_path, text):
    (root / "link").symlink_to(text.format(outside=tmp_path / "outside"))
    roots = roots_of(root)
    assert refusal(roots, root / "link").code == "path_not_allowed"
    assert refusal(roots, root / "link/secret").code == "path_not_allowed"
    assert refusal(roots, root / "link/secret", follow=False).code == "path_not_allowed"
    assert real(roots, root / "link", follow=False) == b(root / "link")  # it may be deleted


def test_a_link_above_the_roots_is_not_even_looked_at(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert refusal(roots_of(root), tmp_path / "link/a").code == "path_not_allowed"


def test_links_inside_are_followed_absolute_ones_too(root):
    (root / "relative").symlink_to("a")
    (root / "absolute").symlink_to(root / "relative")
    (root / "a/up").symlink_to("../absolute/file")
    roots = roots_of(root)
    assert real(roots, root / "absolute/up") == b(root / "a/file")
    assert real(roots, root / "absolute/up", follow=False) == b(root / "a/up")
    (root / "nowhere").symlink_to("a/new")
    assert real(roots, root / "nowhere") == b(root / "a/new")


def test_a_path_may_lead_out_of_one_root_into_another(root, tmp_path):
    roots = roots_of(root, tmp_path / "outside")
    assert real(roots, root / "../outside/secret") == b(tmp_path / "outside/secret")


def test_a_root_that_is_a_link_goes_by_both_names(root, tmp_path):
    (tmp_path / "name").symlink_to(root)
    (root / "back").symlink_to(tmp_path / "name/a")
    roots = roots_of(tmp_path / "name")
    assert real(roots, tmp_path / "name/a/file") == b(root / "a/file")
    assert real(roots, root / "a/file") == b(root / "a/file")
    assert real(roots, tmp_path / "name/back/file") == b(root / "a/file")


def test_a_root_that_is_a_link_stays_what_it_was_when_the_agent_started(root, tmp_path):
    (tmp_path / "name").symlink_to(root)
    roots = roots_of(tmp_path / "name")
    (tmp_path / "name").unlink()
    (tmp_path / "name").symlink_to(tmp_path / "outside")
    assert real(roots, tmp_path / "name/a") == b(root / "a")
    with roots.place(b(tmp_path / "name/secret"), follow=True) as place:
        assert place.status is None
    root.rename(tmp_path / "moved")
    root.symlink_to(tmp_path / "outside")
    assert refusal(roots, root / "secret").code == "path_not_allowed"


def test_a_root_is_a_place_that_holds_things_and_nothing_else(root):
    with roots_of(root).place(b(root), follow=False) as place:
        assert place.name == b"."
        with pytest.raises(FileFailure, match=r"files\.roots"):
            place.check_not_root()


def test_above_the_root_of_all_is_the_root_of_all():
    assert real(roots_of("/"), b"/../../..") == b"/"


def _list(roots: Roots, place: Place) -> None:
    os.close(roots.enter(place.parent, place.name))


def _read(roots: Roots, place: Place) -> None:
    os.close(open_regular(place)[0])


def _remove(roots: Roots, place: Place) -> None:
    remove(roots, place, lambda: False)


@pytest.mark.parametrize(
    ("use", "name", "target"),
    [(_list, "a", "outside"), (_remove, "a", "outside"), (_read, "a/file", "outside/secret")],
)
def test_what_has_become_a_link_since_it_was_looked_at_is_not_opened(
    root, tmp_path, use, name, target
):
    """What the swapper meets now and then, each time."""
    roots = roots_of(root)
    with ExitStack() as stack:
        place = stack.enter_context(roots.place(b(root / name), follow=False))
        (root / name).rename(tmp_path / "away")
        (root / name).symlink_to(tmp_path / target)
        with pytest.raises((OSError, FileFailure)):
            use(roots, place)
    assert (tmp_path / "outside/secret").read_text() == "there"


# ── the agent's own ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["own", "own/key", "link", "link/key", "own/../own", "own/.."])
def test_the_agents_own_directory_is_closed_by_every_way(root, way):
    (root / "own").mkdir()
    (root / "own/key").write_text("secret")
    (root / "link").symlink_to(root / "own")
    roots = roots_of("/", keep_out=[root / "own"])
    for path in (b(root) + b"/" + b(way), b"/proc/self/root" + b(root) + b"/" + b(way)):
        failure = refusal(roots, path)
        assert failure.code == "path_not_allowed"
        assert "own" in failure.message


def test_the_agents_own_directory_is_closed_under_another_name_too(root):
    (root / "own").mkdir()
    roots = roots_of(root, keep_out=[root / "link"])
    (root / "link").symlink_to("own")
    assert refusal(roots, root / "own").code == "path_not_allowed"
    assert real(roots, root / "link", follow=False) == b(root / "link")
    with roots.place(b(root), follow=False) as place:
        before = open_descriptors()
        with pytest.raises(FileFailure) as caught:
            roots.enter(place.parent, b"own")
        assert open_descriptors() == before
    assert caught.value.code == "path_not_allowed"


def test_what_holds_the_agents_own_directory_is_known(root):
    roots = roots_of("/", keep_out=[root / "a/b"])
    for holder in ("/", root.parent, root, root / "a"):
        with pytest.raises(FileFailure), roots.place(b(holder), follow=False) as place:
            roots.check_whole(place)
    with roots.place(b(root / "a/file"), follow=False) as place:
        roots.check_whole(place)


# ── what is no way ───────────────────────────────────────────────────────────────────────────


def test_a_path_with_nul_or_beyond_all_measure_is_none(root):
    roots = roots_of(root)
    assert refusal(roots, b(root) + b"/a\0").code == "invalid_path"
    assert refusal(roots, b"x" * (PATH_BYTES + 1)).code == "invalid_path"
    at_home = roots_of(root, home=root)
    assert refusal(at_home, b"/".join([b"x"] * (PATH_BYTES // 2))).code == "invalid_path"
    assert refusal(roots, b(root) + b"/" + b"x" * 256).code == "invalid_path"
    assert refusal(roots, b(root) + b"/" + b"x" * 256 + b"/y").code == "invalid_path"


def test_a_path_as_long_as_any_may_be_is_walked(root):
    path = b(root)
    for _ in range(9):
        path += b"/" + b"x" * 255
    path += b"/y" * ((PATH_BYTES - len(path)) // 2)
    with roots_of(root).place(path, follow=False, make_parents=True) as place:
        os.mkdir(place.name, dir_fd=place.parent)
    with roots_of(root).place(path, follow=False) as place:
        assert place.status is not None


def test_as_many_links_are_followed_as_the_kernel_does(root):
    (root / "link0").symlink_to("a")
    for number in range(1, LINKS + 1):
        (root / f"link{number}").symlink_to(f"link{number - 1}")
    roots = roots_of(root)
    assert real(roots, root / f"link{LINKS - 1}/file") == b(root / "a/file")
    assert refusal(roots, root / f"link{LINKS}/file").code == "invalid_path"
    assert refusal(roots, root / f"link{LINKS}").code == "invalid_path"
    assert not (root / f"link{LINKS}").exists()  # the kernel finds the same


def test_links_in_a_ring_lead_nowhere(root):
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    assert refusal(roots_of(root), root / "one/x").code == "invalid_path"


def test_a_path_that_is_work_for_long_is_refused(root):
    (root / "d").symlink_to("a/../" * 500 + "a")
    assert refusal(roots_of(root), b(root) + b"/d/.." * 39).code == "invalid_path"


def test_a_file_is_no_way_and_neither_is_nothing(root):
    roots = roots_of(root)
    assert refusal(roots, root / "a/file/x").code == "not_a_directory"
    assert refusal(roots, root / "a/file/..").code == "not_a_directory"
    assert refusal(roots, root / "a/none/x").code == "file_not_found"


def test_of_a_way_that_ends_early_the_directory_that_is_missing_is_named_and_the_remedy(root):
    (root / "link").symlink_to("a/none")
    for path in ("a/none/x", "link/x"):
        with (
            pytest.raises(FileFailure) as caught,
            roots_of(root).place(b(root / path), follow=True, remedy="; make it"),
        ):
            pass
        message = f"{root}/a/none, on the way to {root}/{path}, does not exist; make it"
        assert (caught.value.code, caught.value.message) == ("file_not_found", message)


def test_a_path_that_ends_in_a_slash_is_one_of_a_directory(root):
    (root / "new").symlink_to("a/new/")
    roots = roots_of(root)
    for path in ("a/file/", "a/file/.", "a/file//"):
        assert refusal(roots, b(root) + b"/" + b(path)).code == "not_a_directory"
    (root / "link").symlink_to("a")
    assert real(roots, b(root) + b"/link/") == b(root / "a")
    assert refusal(roots, b(root) + b"/link/", follow=False).code == "not_a_directory"
    for path, is_for_directory in {b"/x/": True, b"/x": False, b"/new": True}.items():
        with roots.place(b(root) + path, follow=True) as place:
            assert (place.status, place.is_for_directory) == (None, is_for_directory)


# ── planted ──────────────────────────────────────────────────────────────────────────────────


@as_root
@pytest.mark.parametrize(
    ("mode", "holder", "owner", "is_followed"),
    [
        (0o1777, 0, SOMEBODY, False),
        (0o1777, SOMEBODY + 1, SOMEBODY, False),
        (0o1777, SOMEBODY, SOMEBODY, True),
        (0o1777, SOMEBODY, 0, True),
        (0o0777, 0, SOMEBODY, True),
        (0o1775, 0, SOMEBODY, True),
    ],
)
def test_a_link_that_anybody_may_have_planted_is_not_followed(
    root, mode, holder, owner, is_followed
):
    """As by the kernel with fs.protected_symlinks, and also on the way."""
    (root / "shared").mkdir()
    (root / "shared/link").symlink_to(root / "a")
    os.lchown(root / "shared/link", owner, owner)
    os.chown(root / "shared", holder, holder)
    (root / "shared").chmod(mode)
    roots = roots_of(root)
    assert real(roots, root / "shared/link", follow=False) == b(root / "shared/link")
    for path in ("shared/link", "shared/link/file"):
        if is_followed:
            assert real(roots, root / path).startswith(b(root / "a"))
        else:
            failure = refusal(roots, root / path)
            assert failure.code == "file_permission_denied"
            assert f"a link of user {SOMEBODY}" in failure.message


def test_a_directory_need_not_be_open_to_lists_to_be_gone_through():
    with tempfile.TemporaryDirectory() as place:
        hidden = Path(place) / "hidden"
        hidden.mkdir()
        (hidden / "file").write_text("")
        for directory, mode in ((Path(place), 0o755), (hidden, 0o711)):
            directory.chmod(mode)

        def go_through() -> None:
            assert real(roots_of(place), hidden / "file") == b(hidden / "file")

        assert succeeds_as_nobody(go_through)


def test_what_the_system_says_in_the_block_is_told_with_the_path(root):
    with (
        pytest.raises(FileFailure, match="/a is a directory with something in it") as caught,
        roots_of(root).place(b(root / "a"), follow=False) as place,
    ):
        os.rmdir(place.name, dir_fd=place.parent)
    assert caught.value.code == "directory_not_empty"


def test_missing_directories_are_made_but_no_root(root, tmp_path):
    path = root / "x/y/z"
    (root / "x").symlink_to("new")
    with roots_of(root).place(b(path), follow=False, make_parents=True) as place:
        assert place.real == b(root / "new/y/z")
    assert (root / "new/y").is_dir()
    assert not (root / "new/y/z").exists()
    with (
        pytest.raises(FileFailure, match="does not exist"),
        roots_of(tmp_path / "none").place(b(tmp_path / "none/x"), follow=True, make_parents=True),
    ):
        pass
    assert not (tmp_path / "none").exists()


# ── against the kernel ───────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    """Directories, files and links in all directions, some of them out."""
    place = tmp_path_factory.mktemp("maze")
    root = place / "root"
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/f").write_text("f")
    (root / "a/b/up").symlink_to("..")
    (root / "a/b/far").symlink_to("../../a/b/c/../up/f")
    (root / "a/abs").symlink_to(root / "a/b")
    (root / "a/b/c/top").symlink_to(root)
    (root / "loop").symlink_to("loop")
    (root / "gone").symlink_to("a/none/at all")
    (root / "a/file of").symlink_to("f/")
    (root / "a/b/directory of").symlink_to("c/.")
    (place / "outside/a").mkdir(parents=True)
    (place / "outside/f").write_text("secret")
    (place / "outside/back").symlink_to(root)
    (root / "a/out").symlink_to("../../outside")
    (root / "a/b/out").symlink_to(place / "outside")
    return place


INSIDE = ["a", "b", "c", "f", "up", "far", "abs", "top", "loop", "gone", "none", ".", "..", ""]
INSIDE += ["file of", "directory of"]


@given(parts=st.lists(st.sampled_from(INSIDE), max_size=12), follow=st.booleans())
def test_what_stays_inside_leads_where_the_kernel_finds_it(maze, parts, follow):
    path = b(maze / "root") + b"".join(b"/" + b(part) for part in parts)
    follow = follow or means_directory(path)
    kernel, ours = _by_kernel(path, follow), None
    try:
        with roots_of(maze / "root").place(path, follow=follow) as place:
            ours = place.status
            assert place.real.startswith(b(maze / "root"))
    except FileFailure as failure:
        if failure.code == "path_not_allowed":
            return
    assert (kernel is None) == (ours is None)
    assert kernel is None or os.path.samestat(kernel, ours)


@given(
    parts=st.lists(
        st.sampled_from([*INSIDE, "out", "back", "outside", "root", "x" * 255, "x" * 256])
        | st.binary(max_size=8).map(os.fsdecode),
        max_size=12,
    ),
    follow=st.booleans(),
)
def test_whatever_is_asked_leads_inside_or_nowhere(maze, parts, follow):
    path = b(maze / "root") + b"".join(b"/" + os.fsencode(part) for part in parts)
    with suppress(FileFailure):
        assert real(roots_of(maze / "root"), path, follow=follow).startswith(b(maze / "root"))


def _by_kernel(path: bytes, follow: bool) -> os.stat_result | None:
    with suppress(OSError):
        return (os.stat if follow else os.lstat)(path)
    return None
