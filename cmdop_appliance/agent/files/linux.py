"""What files need and only Linux has."""

import ctypes
import errno
import os
import re
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

# Opens a directory to go through it, which needs no right to list it; never through a link.
PASS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opens a name, be it a link or closed to the agent, to look at what has it, and to change that.
LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# Opens a directory to list it, or to have the disk hold the names in it.
LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Makes a file, where nothing has its name, and opens it to write.
FRESH: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_RENAME_NOREPLACE: Final = 1  # linux/fs.h
# What a kernel without it says, and a file system without it; renameat2(2).
_CANNOT: Final = (errno.ENOSYS, errno.EINVAL)
_UMASK: Final = re.compile(r"^Umask:\t([0-7]+)$", re.MULTILINE)  # proc(5), since Linux 4.7

# The access list of a file, and that which a directory gives to new ones; acl(5).
_ACL: Final = "system.posix_acl_access"
_NEW_ACL: Final = "system.posix_acl_default"
_ACL_HEAD_BYTES: Final = 4
_ACL_ENTRY: Final = "<HHI"  # tag, permissions, id; linux/posix_acl_xattr.h
_OWNER, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x10, 0x20  # linux/posix_acl.h
# They vouch for content, so they are none of another one's; xattr(7), capabilities(7).
_OF_CONTENT: Final = ("security.capability", "security.evm", "security.ima")

# Of a directory: anybody may make names in it, and only its owner takes another's away.
_SHARED: Final = stat.S_ISVTX | stat.S_IWOTH

_libc = ctypes.CDLL(None, use_errno=True)


def may_be_planted(directory: int, status: os.stat_result) -> bool:
    """True: somebody else has it in an open directory where anybody may put things, as in /tmp.

    By the same rule a kernel follows no such link (fs.protected_symlinks, which knows only the ways
    that it walks itself) and writes to no such file (fs.protected_regular); proc_sys_fs(5).
    """
    around = os.fstat(directory)
    is_shared = around.st_mode & _SHARED == _SHARED
    return is_shared and status.st_uid not in (os.geteuid(), around.st_uid)


def rename_exclusively(source: bytes, source_dir: int, name: bytes, directory: int) -> None:
    """Rename, but only to where nothing is: `source` and `name` are names in open directories.

    Raises:
        FileExistsError: something is there.
        OSError: as of rename(2).
    """
    try:
        _check(_libc.renameat2(source_dir, source, directory, name, _RENAME_NOREPLACE))
    except (OSError, AttributeError) as exc:  # not every libc has it: musl, glibc before 2.28
        if isinstance(exc, OSError) and exc.errno not in _CANNOT:
            raise
        _rename_over_claim(source, source_dir, name, directory)


def _rename_over_claim(source: bytes, source_dir: int, name: bytes, directory: int) -> None:
    """Whoever makes the name owns it, and may then replace what is there."""
    is_directory = stat.S_ISDIR(os.lstat(source, dir_fd=source_dir).st_mode)
    if is_directory:
        os.mkdir(name, 0o700, dir_fd=directory)
    else:
        os.close(os.open(name, FRESH, 0o600, dir_fd=directory))
    try:
        os.rename(source, name, src_dir_fd=source_dir, dst_dir_fd=directory)
    except OSError:
        (os.rmdir if is_directory else os.unlink)(name, dir_fd=directory)
        raise


def sync_file_system(handle: int) -> None:
    """Wait until the disk holds all that was written to the file system of an open file."""
    _check(_libc.syncfs(handle))


def umask() -> int:
    """The permissions that new files of this process lack; to ask os.umask means to change it."""
    found = _UMASK.search(Path("/proc/self/status").read_text("ascii", "replace"))
    return int(found[1], 8) if found else 0o022


def new_file_mode(directory: int) -> int:
    """The mode that an open directory and the umask leave of 0666, as open(2) has it."""
    try:
        access = os.getxattr(path_of(directory), _NEW_ACL)
    except OSError:  # it has none
        return 0o666 & ~umask()
    entries = struct.iter_unpack(_ACL_ENTRY, access[_ACL_HEAD_BYTES:])
    allowed = {tag: permissions for tag, permissions, _ in entries}
    group = allowed.get(_MASK, allowed[_GROUP])
    mode: int = allowed[_OWNER] << 6 | group << 3 | allowed[_OTHERS]
    return 0o666 & mode


def copy_attributes(source: int, handle: int) -> None:
    """Give an open file the extended attributes of another: its access list, its label, and so on.

    That one need not be open for reading: `O_PATH` is enough.

    The access list becomes the same; of the others those are left out that may not be copied.

    Raises:
        OSError: the access list cannot be the same.
    """
    names = _attributes(source)
    if _ACL not in names and _ACL in _attributes(handle):  # the directory gave it one
        os.removexattr(handle, _ACL)
    for attribute in names:
        if attribute == _ACL:
            os.setxattr(handle, _ACL, os.getxattr(path_of(source), _ACL))
        elif attribute not in _OF_CONTENT:
            with suppress(OSError):
                os.setxattr(handle, attribute, os.getxattr(path_of(source), attribute))


def _attributes(handle: int) -> list[str]:
    try:
        return os.listxattr(path_of(handle))
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            return []
        raise


def path_of(handle: int) -> bytes:
    """Where what is open can be found, for calls that take no such descriptor; proc(5).

    It is that, whatever has its name since; a link that is open is that link.
    """
    return b"/proc/self/fd/%d" % handle


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
