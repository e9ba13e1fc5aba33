"""An sshd of our own to be measured beside: OpenSSH is the yardstick."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.appliance import wait_for

_START_S = 20.0  # it is up long before this, or never


@contextmanager
def warm_ssh(folder: Path) -> Iterator[list[str] | None]:
    """The argv prefix of `ssh` over a warm ControlMaster to an sshd of our own; None: no sshd."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists() or shutil.which("ssh") is None:
        yield None
        return
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for name in ("host", "user"):
        key = str(folder / name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "ListenAddress": "127.0.0.1", "Port": port, "HostKey": folder / "host", "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized", "StrictModes": "no", "UsePAM": "no",
        "Subsystem": "sftp internal-sftp",  # scp speaks it
        "MaxSessions": 100, "SetEnv": "SHLVL=2",  # bash reads no .bashrc then: only ssh is timed
    }  # fmt: skip
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    server = subprocess.Popen([sshd, "-D", "-f", "/dev/null", *flags], **quiet)
    ssh = [
        "ssh", "-q", "-p", str(port), "-i", str(folder / "user"), "-o", "StrictHostKeyChecking=no",
        "-o", "UserKnownHostsFile=/dev/null", "-o", f"ControlPath={folder}/mux", "127.0.0.1",
    ]  # fmt: skip

    def answers() -> bool:
        return subprocess.run([*ssh, "true"], check=False, **quiet).returncode == 0

    try:
        wait_for(answers, "sshd", _START_S)
        subprocess.run([*ssh[:1], "-f", "-N", "-M", *ssh[1:]], check=True, **quiet)
        yield ssh
    finally:
        subprocess.run([*ssh[:1], "-O", "exit", *ssh[1:]], check=False, **quiet)
        server.terminate()
        server.wait(10)
