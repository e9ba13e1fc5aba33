"""A hub that speaks TLS, as it runs: agents, the command line, the SDK, and curl."""

import base64
import json
import shutil
import signal
import subprocess
import sys

import pytest

from cmdop_appliance.sdk import Client, Untrusted
from tests.sdk.kinds import KIND
from tests.sdk.kinds import Client as AnyClient
from tests.support.appliance import BASE_ENVIRONMENT, running_hub, stopped_agent, wait_for
from tests.support.authority import Authority


class Secured:
    """A hub that has made its certificate itself, and a machine of it."""

    def __init__(self, hub):
        self.hub = hub
        self.elsewhere = None
        self.url = hub.ready["url"]
        self.key = (hub.data_dir / "admin.key").read_text().strip()
        self.certificate = hub.data_dir / "tls/certificate.pem"

    def client(self, **options):
        return Client(self.url, self.key, ca_file=self.certificate, **options)

    def cmdop(self, *args, stdin="", **environ):
        """The command line of somebody elsewhere."""
        return subprocess.run(
            [sys.executable, "-m", "cmdop_appliance", *args],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.elsewhere,
            env={**BASE_ENVIRONMENT, "HOME": str(self.elsewhere), **environ},
            timeout=60,
            check=False,
        )


def online(client):
    return [each["id"] for each in client.machines.list(status="online")]


@pytest.fixture
def secured(of_all, tmp_path):
    """The one hub, and somebody elsewhere who has never heard of it."""
    of_all.elsewhere = tmp_path
    return of_all


@pytest.fixture(scope="module")
def of_all(tmp_path_factory):
    place = tmp_path_factory.mktemp("secured")
    with running_hub(place, "--tls", "on") as hub:
        secured = Secured(hub)
        with stopped_agent(place, "one-agent") as agent, secured.client() as client:
            token = client.enrollment_tokens.create()["token"]
            agent.begin(CMDOP_SERVER_URL=secured.url, CMDOP_JOIN_KEY=token)
            (secured.machine_id,) = wait_for(lambda: online(client), "the agent is connected")
            yield secured


def test_commands_run_and_their_output_is_whole(secured):
    with secured.client() as client:
        done = client.commands.run(secured.machine_id, "seq 1 100000")
    assert done["stdout"].split() == [str(number) for number in range(1, 100_001)]


@pytest.mark.parametrize("name", ["sync", "trio"])
def test_each_kind_of_client_opens_a_terminal(secured, name):
    KIND.name = name
    try:
        pem = secured.certificate.read_text()
        with AnyClient(secured.url, secured.key, certificate=pem) as client:
            terminal = client.terminals.open(secured.machine_id, argv=["cat"])
            with client.terminals.attach(terminal["id"]) as attached:
                seen, is_ended = b"", False
                for event in attached.events():
                    if not seen:
                        attached.type(b"over tls\n")
                    seen += getattr(event, "data", b"") or b"."
                    if b"over tls" in seen and not is_ended:
                        client.terminals.end(terminal["id"])
                        is_ended = True
            assert b"over tls" in seen
    finally:
        KIND.name = "sync"


def test_who_trusts_nobody_but_the_system_is_told_so(secured):
    with Client(secured.url, secured.key) as client, pytest.raises(Untrusted, match="self-signed"):
        client.me()
    said = secured.cmdop("machines", "ls", CMDOP_URL=secured.url, CMDOP_API_KEY=secured.key)
    assert said.returncode == 5
    assert "nobody vouches for the hub" in said.stderr
    assert "cmdop login URL" in said.stderr


def test_the_command_line_of_the_hubs_own_user_knows_it(secured):
    done = secured.cmdop("--data-dir", str(secured.hub.data_dir), "machines", "ls", "-o", "json")
    assert [each["id"] for each in json.loads(done.stdout)] == [secured.machine_id], done.stderr
    doctor = secured.cmdop("--data-dir", str(secured.hub.data_dir), "doctor", "-o", "json")
    found = {each["check"]: each["state"] for each in json.loads(doctor.stdout)}
    assert {found[check] for check in ("hub", "clock", "websocket", "key")} == {"ok"}


def test_a_login_is_with_the_hub_whose_key_one_names_and_no_other(secured):
    pin = json.loads(curl(secured, "-k", "/dl"))["key_pin"]
    unasked = secured.cmdop("login", secured.url, stdin=secured.key)
    assert unasked.returncode == 4
    assert f"--fingerprint {pin}" in unasked.stderr
    wrong = base64.b64encode(bytes(32)).decode()
    other = secured.cmdop("login", secured.url, "--fingerprint", f"sha256//{wrong}")
    assert other.returncode == 4
    assert f"has another key: {pin}" in other.stderr
    assert not (secured.elsewhere / ".config").exists()
    done = secured.cmdop("login", secured.url, "--fingerprint", pin, stdin=secured.key)
    assert done.returncode == 0, done.stderr
    listed = secured.cmdop("machines", "ls", "-o", "json")
    assert secured.machine_id in listed.stdout, listed.stderr
    flagged = secured.cmdop("--hub", secured.url, "--key", secured.key, "status")
    assert flagged.returncode == 0, flagged.stderr


def test_the_authority_of_a_variable_vouches_for_it_too(secured):
    environ = {"CMDOP_URL": secured.url, "CMDOP_API_KEY": secured.key}
    done = secured.cmdop("auth", "status", CMDOP_CA_FILE=str(secured.certificate), **environ)
    assert done.returncode == 0, done.stderr
    lost = secured.cmdop("auth", "status", CMDOP_CA_FILE="/nowhere", **environ)
    assert (
        lost.stderr
        == "error: cannot read the certificates in /nowhere: No such file or directory\n"
    )
    assert lost.returncode == 2


def test_the_lines_that_join_a_machine_know_the_hub_by_its_key(secured):
    said = secured.cmdop("--data-dir", str(secured.hub.data_dir), "machines", "add")
    pin = json.loads(curl(secured, "-k", "/dl"))["key_pin"]
    assert f"TLS key    {pin}" in secured.hub.out.read_text()
    assert f"cmdop agent --hub {secured.url} --token" in said.stdout + said.stderr
    assert "--plain-http" not in said.stdout + said.stderr
    if "curl" in said.stdout:  # the checkout has a build
        assert said.stdout.startswith(f"curl -fsSLk --pinnedpubkey '{pin}' {secured.url}/dl/")
    script = curl(secured, "-k", "--pinnedpubkey", pin, "/dl/join.sh")
    assert f"curl -fsSLk --pinnedpubkey '{pin}' --retry" in script


def test_a_browsers_cookie_is_for_https_alone(secured):
    body = json.dumps({"key": secured.key})
    headers = ["-H", "Content-Type: application/json", "-H", f"Origin: {secured.url}"]
    said = curl(secured, "-k", "-i", *headers, "-d", body, "/api/v1/sign-ins")
    assert "__Host-cmdop=" in said, said
    assert "Secure" in said


def curl(secured, *args):
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    *options, path = args
    argv = ["curl", "-sS", *options, f"{secured.url}{path}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


# ── the owner's certificate ──────────────────────────────────────────────────────────────────────


def test_the_owners_certificate_is_read_again_and_agents_stay(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        place.mkdir()
        Authority(place).server("127.0.0.1")
    file = tmp_path / "hub.pem"
    shutil.copy(first / "127.0.0.1.pem", file)
    config = f'[server]\ncertificate = "{file}"\n'
    with running_hub(tmp_path, config=config) as hub:
        url, key = hub.ready["url"], (hub.data_dir / "admin.key").read_text().strip()
        assert "TLS key" not in hub.out.read_text()  # somebody vouches for it
        with (
            stopped_agent(tmp_path, "an-agent") as agent,
            Client(url, key, ca_file=first / "ca.pem") as client,
        ):
            token = client.enrollment_tokens.create()["token"]
            agent.begin(CMDOP_SERVER_URL=url, CMDOP_JOIN_KEY=token)
            (machine_id,) = wait_for(lambda: online(client), "the agent is connected")
            before = hub.ready["certificate"]
            file.write_text("broken")
            hub._process.send_signal(signal.SIGHUP)
            wait_for(lambda: "the new certificate is not used" in hub.log.read_text(), "it is said")
            shutil.copy(second / "127.0.0.1.pem", file)
            hub._process.send_signal(signal.SIGHUP)
            wait_for(lambda: hub.ready["certificate"] != before, "the certificate is read again")
            assert client.me()["name"] == "admin"  # by the connection that it has
            with Client(url, key, ca_file=second / "ca.pem") as anew:
                assert anew.commands.run(machine_id, "echo here")["stdout"] == "here\n"
            with Client(url, key, ca_file=first / "ca.pem") as late, pytest.raises(Untrusted):
                late.me()
            assert agent.connections == 1


def test_a_reload_by_systemd_does_not_end_a_hub_that_has_its_own_certificate(tmp_path):
    words = ("--tls", "on")
    with running_hub(tmp_path, *words, NOTIFY_SOCKET="/nowhere") as hub:
        hub._process.send_signal(signal.SIGHUP)  # ExecReload of its unit
        wait_for(lambda: "the certificate was read again" in hub.log.read_text(), "it is said")


def test_a_certificate_that_cannot_be_is_told_in_one_line(tmp_path):
    missing = tmp_path / "missing.pem"
    done = subprocess.run(
        [sys.executable, "-m", "cmdop_appliance", "serve", "--data-dir", tmp_path / "data"],
        capture_output=True,
        text=True,
        env={**BASE_ENVIRONMENT, "CMDOP_CERTIFICATE": str(missing), "CMDOP_LISTEN": "127.0.0.1:0"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert f"error: [server] certificate: {missing}: no such file" in done.stderr
