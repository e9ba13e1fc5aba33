"""A bundle: taken when it is what was signed, byte by byte, and refused when it is not."""

import io
import random
import subprocess
import tarfile

import msgspec
import pytest

from cmdop_appliance.errors import BundleRefused
from cmdop_appliance.identity import Identity
from cmdop_appliance.release.bundle import BundleReader, pack, read_manifest, this_platform
from tests.support.releases import make_bundle, sign_json

MAKER = Identity.generate()
KEYS = [MAKER.public_key]
DICE = random.Random(24)
PROGRAMS = {"cmdop-linux-x86_64": DICE.randbytes(1000), "cmdop-linux-aarch64": DICE.randbytes(512)}
RELEASE = {
    "format": 1,
    "version": "1.2.3",
    "released_ms": 5,
    "schema": 14,
    "files": [{"name": "cmdop-linux-x86_64", "size": 1, "sha256": "0" * 64}],
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> bytes:
    return make_bundle(tmp_path_factory.mktemp("release"), MAKER, PROGRAMS)


def read(bundle: bytes, piece_bytes: int = 1 << 20, keys=KEYS) -> dict[str, bytes]:
    """The programs of a bundle that comes in pieces of this size."""
    reader, programs = BundleReader(keys), {}
    for start in range(0, len(bundle), piece_bytes):
        for file, content in reader.feed(bundle[start : start + piece_bytes]):
            programs[file.name] = programs.get(file.name, b"") + content
    reader.close()
    return programs


def refusal(bundle: bytes, keys=KEYS) -> str:
    with pytest.raises(BundleRefused) as refused:
        read(bundle, keys=keys)
    return refused.value.message


@pytest.mark.parametrize("piece_bytes", [1, 7, 512, 1000, 1 << 20])
def test_a_bundle_is_read_in_pieces_of_any_size(bundle, piece_bytes):
    assert read(bundle, piece_bytes) == PROGRAMS


def test_a_bundle_is_a_tar_that_everybody_can_look_into(bundle, tmp_path):
    (tmp_path / "b").write_bytes(bundle)
    shown = subprocess.run(["tar", "tvf", tmp_path / "b"], capture_output=True, check=True)
    assert b"manifest.sig" in shown.stdout
    assert not shown.stderr
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        assert tar.getnames() == ["manifest.json", "manifest.sig", *PROGRAMS]


def test_a_flipped_bit_is_found_wherever_it_is(bundle):
    for place in range(DICE.randrange(5), len(bundle), 5):
        flipped = bytearray(bundle)
        flipped[place] ^= 1 << DICE.randrange(8)
        refusal(bytes(flipped))


def test_a_bundle_that_was_cut_at_any_byte_is_found(bundle):
    for size in range(0, len(bundle), 37):
        assert "too early" in refusal(bundle[:size])


@pytest.mark.parametrize("more", [b"\0", b"x", bytes(10240)])
def test_nothing_may_come_behind_its_end(bundle, more):
    assert "more behind its end" in refusal(bundle + more)


def test_a_bundle_of_somebody_else_is_refused(bundle):
    other = Identity.generate().public_key
    assert "no key that is trusted here" in refusal(bundle, [other])
    assert "no key that is trusted here" in refusal(bundle, [])
    assert read(bundle, keys=[other, *KEYS]) == PROGRAMS


def test_the_signature_is_looked_at_before_what_it_signs():
    stranger = Identity.generate()
    for content in (b"{}", b"\xff", b"[" * 10_000):
        with pytest.raises(BundleRefused, match="no key that is trusted"):
            read_manifest(content, stranger.sign(content), KEYS)


# ── the corpus: what a thief of the key would have to sign, or a tool could make of a bundle ─────

NAMES = [
    *("", "cmdop", "cmdop-", "cmdop-linux", "cmdop-linux-", "cmdop--x86_64", "CMDOP-linux-x86_64"),
    *("../cmdop-linux-x86_64", "/cmdop-linux-x86_64", "cmdop-linux-x86_64/../../etc/passwd"),
    *(
        "cmdop-linux-../../x",
        "./cmdop-linux-x86_64",
        "cmdop-linux-x86_64\0",
        "cmdop-linux-x86_64\n",
    ),
    *("cmdop-linux-x86_64.sha256", "cmdop-linux x86_64", "manifest.json", "cmdop-li\u200bnux-x"),
    *("cmdop-linux-" + "x" * 17, "cmdop-linux-x\\86", "C:cmdop-linux-x", "cmdop-linux-x86_64/"),
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_program_that_would_be_put_elsewhere_is_refused_though_it_is_signed(name):
    file = {**RELEASE["files"][0], "name": name}
    content, signature = sign_json(MAKER, {**RELEASE, "files": [file]})
    with pytest.raises(BundleRefused, match="cannot be read"):
        read_manifest(content, signature, KEYS)


@pytest.mark.parametrize(
    "change",
    [
        *({"format": 2}, {"format": "1"}, {"version": "1.2"}, {"version": "1.2.3/../.."}),
        *({"released_ms": -1}, {"released_ms": 2**53}, {"released_ms": 1.5}, {"schema": 0}),
        *({"files": []}, {"files": RELEASE["files"] * 2}, {"files": RELEASE["files"] * 33}),
        {"files": [{**RELEASE["files"][0], "size": 0}]},
        {"files": [{**RELEASE["files"][0], "size": 1024**3 + 1}]},
        {"files": [{**RELEASE["files"][0], "sha256": "0" * 63}]},
        {"files": [{**RELEASE["files"][0], "mode": "4755"}]},
        {"post_install": "/bin/sh"},
    ],
    ids=repr,
)
def test_a_manifest_that_says_anything_else_is_refused_though_it_is_signed(change):
    content, signature = sign_json(MAKER, {**RELEASE, **change})
    with pytest.raises(BundleRefused, match="cannot be read"):
        read_manifest(content, signature, KEYS)


def members(bundle: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        return [(each, tar.extractfile(each).read()) for each in tar]


def tar_of(entries, form=tarfile.USTAR_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def other_member(kind: bytes, name: str = "cmdop-linux-x86_64", link: str = "/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


KINDS = {
    "hard link": tarfile.LNKTYPE,
    "symbolic link": tarfile.SYMTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "directory": tarfile.DIRTYPE,
    "pipe": tarfile.FIFOTYPE,
    "contiguous file": tarfile.CONTTYPE,
    "sparse file": tarfile.GNUTYPE_SPARSE,
    "long name": tarfile.GNUTYPE_LONGNAME,
    "extended header": tarfile.XHDTYPE,
    "global header": tarfile.XGLTYPE,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("place", range(5))
def test_a_member_of_another_kind_is_refused_wherever_it_stands(bundle, kind, place):
    entries = members(bundle)
    refusal(tar_of([*entries[:place], other_member(kind), *entries[place:]]))
    if place < len(entries):
        entries[place] = other_member(kind, entries[place][0].name)
        refusal(tar_of(entries))


@pytest.mark.parametrize(
    "name", ["../../etc/cron.d/x", "/etc/passwd", "cmdop-linux-x86_64", "more"]
)
@pytest.mark.parametrize("place", range(5))
def test_a_member_more_is_refused_wherever_it_stands(bundle, name, place):
    entries = members(bundle)
    info = tarfile.TarInfo(name)
    info.size = 4
    refusal(tar_of([*entries[:place], (info, b"evil"), *entries[place:]]))


def test_members_in_another_order_or_missing_are_refused(bundle):
    manifest, signature, first, second = members(bundle)
    for entries in (
        [manifest, signature, second, first],
        [signature, manifest, first, second],
        [manifest, first, signature, second],
        [manifest, signature, first],
        [manifest, signature, first, first],
        [manifest, first, second],
        [first, second],
    ):
        refusal(tar_of(entries))


def test_the_same_content_by_another_tool_is_refused(bundle):
    """A second way to write a bundle would be a second reader of it."""
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        refusal(tar_of(members(bundle), form))


def test_a_manifest_of_any_size_is_not_taken_into_memory(bundle):
    for size in (0, 64 * 1024 + 1, 8**11 - 1):
        refusal(bundle[:124] + b"%011o\0" % size + bundle[136:])
    refusal(bundle[:124] + b"\x80" + bytes(10) + b"\x01" + bundle[136:])
    reader = BundleReader(KEYS)
    with pytest.raises(BundleRefused):
        list(reader.feed(bytes(1 << 20)))


def test_a_program_of_another_size_than_signed_is_refused(tmp_path, bundle):
    manifest, signature = members(bundle)[0][1], members(bundle)[1][1]
    for change in (b"", b"1", PROGRAMS["cmdop-linux-x86_64"] + b"x"):
        (tmp_path / "cmdop-linux-x86_64").write_bytes(change)
        (tmp_path / "cmdop-linux-aarch64").write_bytes(PROGRAMS["cmdop-linux-aarch64"])
        paths = {name: tmp_path / name for name in PROGRAMS}
        refusal(b"".join(pack(manifest, signature, paths)))


# ── what comes after what ────────────────────────────────────────────────────────────────────────


def test_only_a_later_release_is_newer():
    content, signature = sign_json(MAKER, RELEASE)
    manifest = read_manifest(content, signature, KEYS)
    assert manifest.is_newer_than("1.2.2", 10**12)
    assert manifest.is_newer_than("1.2.3rc9", 10**12)
    assert manifest.is_newer_than("1.2.3", 4)
    assert not manifest.is_newer_than("1.2.3", 5)
    assert not manifest.is_newer_than("1.2.3", 6)
    assert not manifest.is_newer_than("1.2.4", 0)
    assert not manifest.is_newer_than("1.10.0", 0)


def test_the_program_of_a_platform_is_found_by_it():
    content, signature = sign_json(MAKER, RELEASE)
    manifest = read_manifest(content, signature, KEYS)
    assert manifest.program_for("linux-x86_64") == manifest.files[0]
    assert manifest.program_for("linux") is None
    assert manifest.program_for("darwin-arm64") is None
    assert msgspec.json.decode(content)["files"][0]["name"] == "cmdop-linux-x86_64"
    assert this_platform().count("-") == 1
