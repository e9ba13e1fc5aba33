"""Starting a command: as its user, in its folder, with its environment and nothing else of ours."""
# ruff: noqa: PTH110, PTH112, PTH118, PTH119, PTH123 - without pathlib, see the package

import errno
import os
import pwd
import signal
from collections.abc import Mapping

from cmdop_appliance.agent.keeper.files import OutputPool, Slot, screen_folder
from cmdop_appliance.agent.keeper.pty import CommandFile, Pty, end_of_file, open_pty
from cmdop_appliance.agent.keeper.requests import Start
from cmdop_appliance.agent.keeper.segments import Segments

ID_VARIABLE = b"CMDOP_COMMAND_ID"

_LANGUAGE = (b"LC_ALL", b"LC_CTYPE", b"LANG")
_ALL_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_SHOWN_CHARS = 200  # of a name somebody else chose, in a message


class Refused(Exception):
    """The command was not started. `code` is part of the public API."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Program:
    """What to run, and as whom."""

    __slots__ = ("account", "argv", "cwd", "environment", "home", "name")

    def __init__(
        self,
        account: pwd.struct_passwd | None,
        name: bytes,
        argv: list[bytes],
        environment: dict[bytes, bytes],
        cwd: bytes | None,
        home: str,
    ) -> None:
        self.account = account  # None: the keeper's own
        self.name = name  # looked up on its PATH
        self.argv = argv
        self.environment = environment
        self.cwd = cwd  # None: the home
        self.home = home


class Spawner:
    """Starts processes from a single-threaded one: it may change folder, and fork, in between."""

    def __init__(self, environment: Mapping[str, str], pool: OutputPool) -> None:
        """Commands get `environment`; the current directory is gone back to after each start."""
        self._environment = {os.fsencode(k): os.fsencode(v) for k, v in environment.items()}
        self._pool = pool
        self._uid = os.geteuid()
        self._own = _account_of(self._uid)
        self._here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._home = environment.get("HOME") or (self._own.pw_dir if self._own else "/")

    def spawn(self, request: Start) -> tuple[int, int, Pty | None]:
        """Start it as leader of its own session and group.

        Returns its pid, the slot of its output and the terminal that it runs in, if any.

        Raises:
            Refused: nothing was started.
        """
        program = self._program(request)
        try:
            slot = self._pool.first()
        except OSError as error:
            raise _no_files(error) from error
        pty = None
        if request.pty is None:
            pid = self._spawn_with_files(program, request.stdin, slot)
            slot.close()
        else:
            pid, pty = self._spawn_in_terminal(program, request, slot, *request.pty)
        self._pool.take_first()
        return pid, slot.number, pty

    def _program(self, request: Start) -> _Program:
        account = self._account(request.user) if request.user is not None else None
        environment = self._environment_of(request, account)
        argv = [_encoded(argument) for argument in request.argv]
        home = self._home if account is None else account.pw_dir
        cwd = None if request.cwd is None else _encoded(os.path.join(home, request.cwd))
        name = argv[0] if argv else _shell_of(account or self._own)
        argv = argv or [b"-" + os.path.basename(name)]  # by which a shell knows that it is a login
        foreign = account is not None and account.pw_uid != self._uid
        return _Program(account if foreign else None, name, argv, environment, cwd, home)

    def _spawn_with_files(self, program: _Program, stdin: bytes | None, slot: Slot) -> int:
        try:
            source = self._null if stdin is None else _unnamed_file(stdin)
        except OSError as error:
            raise _no_files(error) from error
        try:
            return self._spawn(program, (source, slot.stdout, slot.stderr))
        finally:
            if source != self._null:
                os.close(source)

    def _spawn_in_terminal(
        self, program: _Program, request: Start, slot: Slot, cols: int, rows: int
    ) -> tuple[int, Pty]:
        try:
            segments = Segments(screen_folder(slot.number)) if request.is_terminal else None
            master, slave, path = open_pty(cols, rows, echoes=request.is_terminal)
        except OSError as error:
            raise _no_files(error) from error
        try:
            pid = self._spawn(program, os.fsencode(path))
        except Refused:
            os.close(master)
            raise
        finally:
            os.close(slave)
        os.close(slot.stderr)
        if segments is not None:
            os.close(slot.stdout)
            return pid, Pty(request.command_id, master, segments)
        pty = Pty(request.command_id, master, CommandFile(slot.stdout))
        stdin = request.stdin or b""
        pty.put(stdin + end_of_file(stdin))
        return pid, pty

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
            environment.update(_identity(account))
        elif request.is_terminal and self._own is not None:  # a service is started without it
            environment = _identity(self._own) | environment
        if request.pty is not None:
            environment[b"TERM"] = b"xterm-256color"
        if request.is_terminal and not any(environment.get(name) for name in _LANGUAGE):
            environment[b"LANG"] = b"C.UTF-8"  # as everybody who may look at it
        for name, value in request.env.items():
            if not name or "=" in name:
                shown = name[:_SHOWN_CHARS]
                raise Refused("exec_failed", f"{shown!r} cannot be an environment variable's name")
            environment[_encoded(name)] = _encoded(value)
        environment[ID_VARIABLE] = request.command_id.encode()
        return environment

    def _spawn(self, program: _Program, ends: tuple[int, int, int] | bytes) -> int:
        """Start it with three files, or with the terminal of this path."""
        if program.account is not None:
            return _fork_as(program.account, program, ends)
        try:
            _enter(program.cwd, program.home)
        except OSError as error:
            raise _no_cwd(program, error) from error
        actions: list[tuple[object, ...]] = []
        if isinstance(ends, bytes):  # the first that the leader of a session opens becomes its own
            actions.append((os.POSIX_SPAWN_OPEN, 0, ends, os.O_RDWR, 0))
            ends = (0, 0, 0)
        actions += [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(ends)]
        try:
            return os.posix_spawn(
                _found(program),
                program.argv,
                program.environment,
                setsid=True,
                setsigmask=[],
                setsigdef=_ALL_SIGNALS,
                file_actions=actions,
            )
        except OSError as error:
            raise _no_exec(program, error) from error
        finally:
            os.fchdir(self._here)


def _fork_as(
    account: pwd.struct_passwd, program: _Program, ends: tuple[int, int, int] | bytes
) -> int:
    """Start it as another user: what posix_spawn cannot do, and fork may with a single thread."""
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    reader, writer = os.pipe()  # closed by a successful exec, else says which step failed and why
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        raise _no_exec(program, error) from error
    if pid == 0:
        step = b"exec"
        try:
            os.setsid()
            if isinstance(ends, bytes):
                terminal = os.open(ends, os.O_RDWR)
                os.fchown(terminal, account.pw_uid, -1)  # its programs may open it by its name
                ends = (terminal, terminal, terminal)
            for target, fd in enumerate(ends):
                os.dup2(fd, target)
            for number in _ALL_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.setgroups(groups)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            step = b"cwd"
            _enter(program.cwd, program.home)
            step = b"exec"
            os.execve(_found(program), program.argv, program.environment)  # noqa: S606
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
    raise _no_cwd(program, cause) if failed == b"cwd" else _no_exec(program, cause)


def _enter(cwd: bytes | None, home: str) -> None:
    """Go to `cwd`; without one to the home, and if that cannot be entered to the root."""
    if cwd is not None:
        os.chdir(cwd)
        return
    try:
        os.chdir(home)
    except OSError:
        os.chdir("/")


def _found(program: _Program) -> bytes:
    """What execvp(3) would run, found on the command's own PATH."""
    name = program.name
    if b"/" in name:
        return name
    folders = program.environment.get(b"PATH", os.defpath.encode()).split(b":")
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


def _account_of(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _identity(account: pwd.struct_passwd) -> dict[bytes, bytes]:
    name = os.fsencode(account.pw_name)
    return {
        b"HOME": os.fsencode(account.pw_dir),
        b"USER": name,
        b"LOGNAME": name,
        b"SHELL": _shell_of(account),
    }


def _shell_of(account: pwd.struct_passwd | None) -> bytes:
    shell = account.pw_shell if account is not None else ""
    return os.fsencode(shell or "/bin/sh")  # passwd(5): an empty field means this


def _no_files(error: OSError) -> Refused:
    return Refused("exec_failed", f"cannot make its files: {_reason(error)}")


def _no_cwd(program: _Program, error: OSError) -> Refused:
    shown = _shown(program.cwd or b"/")
    return Refused("cwd_missing", f"working directory {shown}: {_reason(error)}")


def _no_exec(program: _Program, error: OSError) -> Refused:
    return Refused("exec_failed", f"cannot start {_shown(program.name)}: {_reason(error)}")


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "replace")[:_SHOWN_CHARS]


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()
