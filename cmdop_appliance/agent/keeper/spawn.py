"""Starting a command: as its user, in its folder, with its environment and nothing else of ours."""
# ruff: noqa: PTH110, PTH112, PTH118, PTH123 - without pathlib, see the package

import errno
import os
import pwd
import signal
from collections.abc import Mapping

from cmdop_appliance.agent.keeper.files import OutputPool
from cmdop_appliance.agent.keeper.requests import Start

ID_VARIABLE = b"CMDOP_COMMAND_ID"

_ALL_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_SHOWN_CHARS = 200  # of a name somebody else chose, in a message


class Refused(Exception):
    """The command was not started. `code` is part of the public API."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Spawner:
    """Starts processes from a single-threaded one: it may change folder, and fork, in between."""

    def __init__(self, environment: Mapping[str, str], pool: OutputPool) -> None:
        """Commands get `environment`; the current directory is gone back to after each start."""
        self._environment = {os.fsencode(k): os.fsencode(v) for k, v in environment.items()}
        self._pool = pool
        self._uid = os.geteuid()
        self._here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._home = environment.get("HOME") or _home_of(self._uid)

    def spawn(self, request: Start) -> tuple[int, int]:
        """Start it as leader of its own session and group. Returns pid and output slot.

        Raises:
            Refused: nothing was started.
        """
        account = self._account(request.user) if request.user is not None else None
        environment = self._environment_of(request, account)
        argv = [_encoded(argument) for argument in request.argv]
        home = self._home if account is None else account.pw_dir
        cwd = None if request.cwd is None else _encoded(os.path.join(home, request.cwd))
        try:
            slot = self._pool.first()
            stdin = self._null if request.stdin is None else _unnamed_file(request.stdin)
        except OSError as error:
            raise Refused("exec_failed", f"cannot make its files: {_reason(error)}") from error
        files = (stdin, slot.stdout, slot.stderr)
        try:
            if account is None or account.pw_uid == self._uid:
                pid = self._spawn(argv, environment, cwd, home, files)
            else:
                pid = _fork_as(account, argv, environment, cwd, files)
        finally:
            if stdin != self._null:
                os.close(stdin)
        self._pool.take_first().close()
        return pid, slot.number

    def _account(self, user: str) -> pwd.struct_passwd:
        try:
            account = pwd.getpwnam(user)
        except (KeyError, ValueError) as error:  # ValueError: no name at all, such as one with NUL
            shown = user[:_SHOWN_CHARS]
            raise Refused("user_not_found", f"this machine has no user {shown!r}") from error
        if self._uid not in (0, account.pw_uid):
            raise Refused(
                "user_denied",
                f"the agent runs as user id {self._uid}, only root can start commands as {user}",
            )
        return account

    def _environment_of(
        self, request: Start, account: pwd.struct_passwd | None
    ) -> dict[bytes, bytes]:
        environment = dict(self._environment)
        if account is not None:
            environment[b"HOME"] = os.fsencode(account.pw_dir)
            environment[b"USER"] = environment[b"LOGNAME"] = os.fsencode(account.pw_name)
            environment[b"SHELL"] = os.fsencode(account.pw_shell)
        for name, value in request.env.items():
            if not name or "=" in name:
                shown = name[:_SHOWN_CHARS]
                raise Refused("exec_failed", f"{shown!r} cannot be an environment variable's name")
            environment[_encoded(name)] = _encoded(value)
        environment[ID_VARIABLE] = request.command_id.encode()
        return environment

    def _spawn(
        self,
        argv: list[bytes],
        environment: dict[bytes, bytes],
        cwd: bytes | None,
        home: str,
        files: tuple[int, int, int],
    ) -> int:
        try:
            _enter(cwd, home)
        except OSError as error:
            raise _no_cwd(cwd, error) from error
        try:
            return os.posix_spawn(
                _program(argv[0], environment),
                argv,
                environment,
                setsid=True,
                setsigmask=[],
                setsigdef=_ALL_SIGNALS,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, i) for i, fd in enumerate(files)],
            )
        except OSError as error:
            raise _no_exec(argv, error) from error
        finally:
            os.fchdir(self._here)


def _fork_as(
    account: pwd.struct_passwd,
    argv: list[bytes],
    environment: dict[bytes, bytes],
    cwd: bytes | None,
    files: tuple[int, int, int],
) -> int:
    """Start it as another user: what posix_spawn cannot do, and fork may with a single thread."""
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    reader, writer = os.pipe()  # closed by a successful exec, else says which step failed and why
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        raise _no_exec(argv, error) from error
    if pid == 0:
        step = b"exec"
        try:
            os.setsid()
            for target, fd in enumerate(files):
                os.dup2(fd, target)
            for number in _ALL_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.setgroups(groups)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            step = b"cwd"
            _enter(cwd, account.pw_dir)
            step = b"exec"
            os.execve(_program(argv[0], environment), argv, environment)  # noqa: S606
        except OSError as error:
            os.write(writer, b"%s %d" % (step, error.errno or errno.EIO))
        finally:
            os._exit(127)
    os.close(writer)
    with open(reader, "rb") as file:
        report = file.read()
    if not report:
        return pid
    os.waitpid(pid, 0)
    failed, _, code = report.partition(b" ")
    cause = OSError(int(code), "")
    raise _no_cwd(cwd, cause) if failed == b"cwd" else _no_exec(argv, cause)


def _enter(cwd: bytes | None, home: str) -> None:
    """Go to `cwd`; without one to the home, and if that cannot be entered to the root."""
    if cwd is not None:
        os.chdir(cwd)
        return
    try:
        os.chdir(home)
    except OSError:
        os.chdir("/")


def _program(name: bytes, environment: dict[bytes, bytes]) -> bytes:
    """What execvp(3) would run, found on the command's own PATH."""
    if b"/" in name:
        return name
    folders = environment.get(b"PATH", os.defpath.encode()).split(b":")
    paths = [b"%s/%s" % (folder or b".", name) for folder in folders]
    for path in paths:
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    found = any(os.path.exists(path) for path in paths)
    raise OSError(errno.EACCES if found else errno.ENOENT, "not on the PATH")


def _unnamed_file(content: bytes) -> int:
    """A file without a name, at offset 0: a pipe would need somebody to go on writing to it."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        while content:
            content = content[os.write(fd, content) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


def _encoded(text: str) -> bytes:
    """UTF-8 whatever the locale; other bytes travel as surrogates, as in `os.fsencode`."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Refused("exec_failed", "its words and variables must be text") from error
    if b"\0" in data:
        raise Refused("exec_failed", "its words and variables must not contain NUL")
    return data


def _home_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"


def _no_cwd(cwd: bytes | None, error: OSError) -> Refused:
    return Refused("cwd_missing", f"working directory {_shown(cwd or b'/')}: {_reason(error)}")


def _no_exec(argv: list[bytes], error: OSError) -> Refused:
    return Refused("exec_failed", f"cannot start {_shown(argv[0])}: {_reason(error)}")


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "replace")[:_SHOWN_CHARS]


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()
