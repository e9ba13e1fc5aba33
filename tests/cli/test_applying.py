"""`cmdop export` and `cmdop apply` against a hub with a machine: configuration as code."""

import io
import re
import stat
import sys
import tomllib

import pytest

from cmdop_appliance.cli.configuration import webhook_entry
from cmdop_appliance.cli.main import main
from tests.support.appliance import Api

URL = "http://localhost:1/hook?token=canary-url"
NOTHING = "nothing to change\n"
WEBHOOK = {"url": URL, "events": ["command.failed", "machine.offline"]}


@pytest.fixture(autouse=True)
def empty(hub, agent):
    """Each test finds a hub with one machine and nothing else."""
    agent.wait_connected(hub)
    yield
    for kind in ("schedules", "webhooks"):
        for record in hub.api.get(f"/{kind}"):
            hub.api.delete(f"/{kind}/{record['id']}")
    hub.api.call("PATCH", f"/machines/{agent.machine_id}", {"name": agent.name, "tags": []})


@pytest.fixture
def cmdop(hub, command_line):
    """Runs the command line: (its exit code, what it printed, what it said)."""

    def run(*args, stdin=""):
        return command_line(hub.api.url, hub.api.key, *args, stdin=stdin.encode())

    return run


@pytest.fixture
def export(cmdop):
    """What `cmdop export` prints."""

    def exported():
        code, out, err = cmdop("export")
        assert (code, err) == (0, "")
        return out

    return exported


@pytest.fixture
def apply(cmdop):
    """Applies a text: what was printed."""

    def applied(text, *options):
        code, out, err = cmdop("apply", "-", *options, stdin=text)
        assert (code, err) == (0, "")
        return out

    return applied


def fill(hub, agent):
    """Much of what there can be."""
    hub.api.call("PATCH", f"/machines/{agent.machine_id}", {"tags": ["web", "a"]})
    at = {"name": "twin", "cron": "@daily", "machine_id": agent.machine_id}
    hub.api.post("/schedules", **at, command="first")
    hub.api.post("/schedules", **at, command="second\r\nline\ttab\x1b[2J\u202e ü \\ '''\"\"\"")
    hub.api.post(
        "/schedules",
        name='backup "nightly" = [x]',
        description="two\nlines",
        cron="30 2 * * mon-fri",
        timezone="Europe/Berlin",
        tags=["web", "a"],
        command="a\nb",
        enabled=False,
        timeout=1_234_567_891,
        cwd="/",
        user="root",
        env={"A B": "${HOME}", "C": ""},
        overlap="queue",
        misfire="skip",
        misfire_window=90_000,
        notify={"on_failure": True},
    )
    hub.api.post("/webhooks", **WEBHOOK)
    headers = {"X-Key": "canary-header", "Authorization": "canary-header"}
    hub.api.post(
        "/webhooks", **WEBHOOK, headers=headers, description="phone", preset="ntfy", enabled=False
    )


def records(hub):
    """All that a file is about, with the times of their last change."""
    (machine,) = hub.api.get("/machines")
    kinds = ("schedules", "webhooks")
    return [machine["name"], machine["tags"], *(hub.api.get(f"/{kind}") for kind in kinds)]


def test_a_hub_is_as_its_export_says(hub, agent, export, apply):
    fill(hub, agent)
    before, text = records(hub), export()
    assert not re.search("UTC|run_once|1d", text)  # defaults are left out
    assert apply(text, "--prune") == NOTHING
    assert records(hub) == before
    assert export() == text


def test_what_was_lost_is_made_again_from_an_export(hub, agent, export, apply, monkeypatch):
    fill(hub, agent)
    text = export()
    for kind in ("schedules", "webhooks"):
        for record in hub.api.get(f"/{kind}"):
            hub.api.delete(f"/{kind}/{record['id']}")
    hub.api.call("PATCH", f"/machines/{agent.machine_id}", {"name": "other", "tags": ["b"]})
    monkeypatch.setenv("WEBHOOK_X_KEY_LOCALHOST", "k")
    monkeypatch.setenv("WEBHOOK_AUTHORIZATION_LOCALHOST", "Bearer t")
    out = apply(text)
    assert len(re.findall("^[+~] ", out, re.MULTILINE)) == 6
    assert export() == text


def test_an_export_has_no_secret_and_nothing_that_a_terminal_obeys(hub, agent, export):
    fill(hub, agent)
    text = export()
    assert "canary-header" not in text
    assert "whsec" not in text
    assert '"${WEBHOOK_X_KEY_LOCALHOST}"' in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert [each["name"] for each in tomllib.loads(text)["schedules"]][:2] == ["twin", "twin"]


def test_a_command_of_several_lines_can_be_read(hub, export):
    hub.api.post("/schedules", name="s", cron="@daily", tags=["web"], command="one\ntwo\n")
    assert '"""\none\ntwo\n"""' in export()


def test_a_file_is_for_its_owner_and_replaced_whole(cmdop, export, tmp_path):
    path = tmp_path / "hub.toml"
    path.write_text("x" * 10_000)
    assert cmdop("export", str(path)) == (0, "", "")
    assert path.read_text() == export()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cmdop("apply", str(path))[0] == 0
    code, _, err = cmdop("export", str(tmp_path / "gone" / "hub.toml"))
    assert (code, err.startswith("error: cannot write ")) == (1, True)


def test_what_a_file_changes_is_shown_and_done(hub, agent, apply):
    hub.api.post("/schedules", name="s", cron="@daily", tags=["web"], command="true", user="root")
    kept = hub.api.post("/schedules", name="kept", cron="@daily", tags=["web"], command="true")
    text = f"""
        [[machines]]
        name = "{agent.name}"
        tags = ["web", "b"]
        [[schedules]]
        name = "s"
        cron = "@daily"
        machines = ["{agent.machine_id}"]
        command = "true"
        timeout = "90s"
        notify_failure = true
        env = {{ A = "canary-env" }}
        [[schedules]]
        name = "new"
        cron = "@hourly"
        machines = ["{agent.name}"]
        command = "uptime"
        enabled = false
    """
    shown = apply(text, "--dry-run")
    assert hub.api.get(f"/machines/{agent.machine_id}")["tags"] == []
    out = apply(text, "--yes")
    assert out == shown
    assert out.splitlines() == [
        f"~ machine {agent.name} ({agent.machine_id})",
        "    tags: none → b, web",
        "~ schedule s",
        f"    machines: none → {agent.name}",
        "    tags: web → none",
        "    timeout: none → 90s",
        "    user: root → none",
        "    env: changed",
        "    notify_failure: false → true",
        "+ schedule new",
        "    cron: @hourly",
        f"    machines: {agent.name}",
        "    command: uptime",
        "    enabled: false",
        "  schedule kept is not in the file; --prune removes it",
    ]
    new, _, changed = hub.api.get("/schedules")
    assert (changed["machine_id"], changed["tags"], changed["timeout"]) == (
        agent.machine_id,
        None,
        90_000,
    )
    assert (changed["user"], changed["env"]) == (None, {"A": "canary-env"})
    assert changed["notify"] == {"on_success": False, "on_failure": True}
    assert (new["enabled"], new["machine_id"]) == (False, agent.machine_id)
    assert hub.api.get(f"/schedules/{kept['id']}") == kept
    assert hub.api.get(f"/machines/{agent.machine_id}")["tags"] == ["b", "web"]
    assert apply(text, "--yes").endswith(f"removes it\n{NOTHING}")


def test_a_machine_that_is_named_by_its_id_gets_its_name_before_schedules_name_it(
    hub, agent, apply
):
    text = f"""
        [[machines]]
        id = "{agent.machine_id}"
        name = "renamed"
        [[schedules]]
        name = "s"
        cron = "@daily"
        machines = ["renamed"]
        command = "true"
    """
    apply(text)
    assert hub.api.get(f"/machines/{agent.machine_id}")["name"] == "renamed"
    assert hub.api.get("/schedules")[0]["machine_id"] == agent.machine_id
    assert apply(text) == NOTHING


def test_only_kinds_that_the_file_names_are_pruned(hub, agent, apply):
    hub.api.post("/schedules", name="old", cron="@daily", tags=["web"], command="true")
    hub.api.post("/webhooks", **WEBHOOK)
    apply("schedules = []\n")
    assert len(hub.api.get("/schedules")) == 1
    assert apply("schedules = []\n", "--prune") == "- schedule old\n"
    assert (len(hub.api.get("/schedules")), len(hub.api.get("/webhooks"))) == (0, 1)
    assert apply("webhooks = []\n", "--prune") == "- webhook to localhost\n"
    assert hub.api.get("/webhooks") == []


def test_secrets_of_a_webhook_come_from_the_environment_and_are_never_shown(
    hub, apply, cmdop, monkeypatch
):
    text = """
        [[webhooks]]
        description = "phone"
        url = "http://localhost:1/${PLACE}"
        events = ["schedule.*"]
        headers = { Authorization = "Bearer ${TOKEN}" }
        secret = "${SECRET}"
    """
    monkeypatch.setenv("PLACE", "canary-place")
    monkeypatch.setenv("SECRET", "whsec_" + "c2VjcmV0" * 5)
    code, _, err = cmdop("apply", "-", stdin=text)
    assert (code, err.splitlines()[0]) == (2, "error: phone: TOKEN is not set")
    assert hub.api.get("/webhooks") == []
    monkeypatch.setenv("TOKEN", "canary-token")
    assert not re.search("canary|whsec", apply(text))
    (made,) = hub.api.get("/webhooks")
    assert (made["url"], made["header_names"]) == (
        "http://localhost:1/canary-place",
        ["Authorization"],
    )
    assert "schedule.failed" in made["events"]
    monkeypatch.delenv("TOKEN")
    assert apply(text) == NOTHING  # nobody can tell whether a header is still the same
    monkeypatch.setenv("PLACE", "canary-elsewhere")
    assert cmdop("apply", "-", stdin=text)[0] == 2
    monkeypatch.setenv("TOKEN", "canary-token")
    assert apply(text).splitlines() == [
        "~ webhook phone",
        "    url: changed",
        "    sent to localhost: PLACE, TOKEN",
    ]
    assert hub.api.get("/webhooks")[0]["header_names"] == ["Authorization"]


def test_nothing_that_the_maker_of_a_webhook_chose_takes_a_variable_of_who_applies(
    hub, export, apply, cmdop, monkeypatch
):
    key = hub.api.post("/api-keys", name="hooks", scopes=["webhooks:manage"])["key"]
    url = "http://localhost:1/$${CMDOP_API_KEY}?${HOME}${"
    headers = {"Cmdop-Api-Key": "x", "X-Home": "y"}
    hooks = Api(hub.api.url, key)
    hooks.post("/webhooks", url=url, events=["machine.online"])
    to = {"url": "http://localhost:1/", "events": ["machine.online"], "description": "status"}
    hooks.post("/webhooks", **to, headers=headers)
    before, text = records(hub), export()
    assert apply(text) == NOTHING
    assert records(hub) == before
    for record in hub.api.get("/webhooks"):
        hub.api.delete(f"/webhooks/{record['id']}")
    code, _, err = cmdop("apply", "-", stdin=text)
    assert (code, err.splitlines()[0]) == (
        2,
        "error: status: WEBHOOK_CMDOP_API_KEY_LOCALHOST is not set",
    )
    monkeypatch.setenv("WEBHOOK_CMDOP_API_KEY_LOCALHOST", "x")
    monkeypatch.setenv("WEBHOOK_X_HOME_LOCALHOST", "y")
    out = apply(text)
    assert (
        "    sent to localhost: WEBHOOK_CMDOP_API_KEY_LOCALHOST, WEBHOOK_X_HOME_LOCALHOST\n" in out
    )
    assert out.count("sent to") == 1
    assert {each["url"] for each in hub.api.get("/webhooks")} == {url, to["url"]}
    assert export() == text


@pytest.mark.parametrize(
    "setting",
    [
        'url = "http://localhost:1/${CMDOP_API_KEY}"',
        'url = "http://localhost:1/"\nheaders = { A = "${CMDOP_API_KEY}" }',
        'url = "http://localhost:1/"\nsecret = "${CMDOP_API_KEY}"',
    ],
)
def test_no_file_gets_the_key_that_applies_it(hub, cmdop, setting):
    text = f'[[webhooks]]\ndescription = "status"\n{setting}\nevents = ["machine.online"]\n'
    code, out, err = cmdop("apply", "-", stdin=text)
    assert (code, out) == (2, "")
    assert "status: CMDOP_API_KEY is not for files" in err
    assert hub.api.get("/webhooks") == []


def test_the_header_of_one_receiver_has_a_variable_of_no_other():
    urls = ("https://a.b.co/", "https://a-b.co/", "https://co/", "https://b.co/", "https://aéb.co/")
    webhook = {"description": "", "events": ["*"], "preset": None, "enabled": True}
    for names in (["A"], ["X-A"]):
        entries = [webhook_entry({**webhook, "url": url, "header_names": names}) for url in urls]
        assert len({entry.headers[name] for entry in entries for name in names}) == len(urls)
    assert entries[0].headers == {"X-A": "${WEBHOOK_X_A_A_B_CO}"}


def test_a_secret_that_the_hub_made_is_shown_once(apply):
    text = '[[webhooks]]\nurl = "http://localhost:1/"\nevents = ["*"]\n'
    out = apply(text)
    assert re.search(r"\nthe secret of webhook to localhost, shown only now: whsec_\S+\n$", out)
    assert apply(text) == NOTHING


SCHEDULE = '[[schedules]]\nname = "s"\ncron = "@daily"\ncommand = "true"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[schedules]\n", "(at line 1, column 12)"),
        ("\udcff", "utf-8"),
        ("a = " + "[" * 5000, "recursion"),
        ("[[keys]]\n", "unknown field `keys`"),
        (SCHEDULE, "needs either `machines` or `tags` - at `schedules[0]`"),
        (SCHEDULE + 'tags = ["a"]\nmachines = ["b"]\n', "needs either `machines` or `tags`"),
        (SCHEDULE + 'tags = ["a"]\ntimeout = "soon"\n', "timeout of schedule 's' needs a number"),
        (SCHEDULE + 'tags = ["a"]\ncrom = "x"\n', "unknown field `crom` - at `schedules[0]`"),
        (SCHEDULE + "tags = [1]\n", "expected `str`, got `int` - at `schedules[0].tags[0]`"),
        (SCHEDULE + 'tags = ["a"]\noverlap = "no"\n', "at `schedules[0].overlap`"),
        (SCHEDULE + 'machines = ["nobody"]\n', 'machine "nobody" is not on this hub'),
        ('[[machines]]\nname = "nobody"\n', 'machine "nobody" is not on this hub'),
        ('[[machines]]\nname = "target"\n' * 2, 'machine "target" is there twice'),
        ('[[webhooks]]\nurl = "http://localhost:1/"\n', "missing required field `events`"),
        ('[[webhooks]]\nurl = "x"\nevents = ["no.*"]\n', 'there is no event "no.*"'),
    ],
)
def test_a_file_that_is_wrong_changes_nothing_and_says_what_is_wrong(hub, command_line, text, said):
    good = '[[webhooks]]\nurl = "http://localhost:1/"\nevents = ["*"]\n'
    raw = (text if "webhooks" in text else text + good).encode(errors="surrogateescape")
    code, out, err = command_line(hub.api.url, hub.api.key, "apply", "-", stdin=raw)
    assert code in (2, 3)
    assert (out, said in err) == ("", True), err
    assert hub.api.get("/webhooks") == []


def test_a_refusal_of_the_hub_says_where_and_how_far_it_came(hub, cmdop):
    bad = SCHEDULE.replace('"s"', '"bad"').replace("@daily", "61 * * * *")
    text = f'{SCHEDULE}tags = ["a"]\n{bad}tags = ["a"]\n'
    code, _, err = cmdop("apply", "-", stdin=text)
    assert (code, "schedule bad: " in err, "1 of 2 changes are made" in err) == (1, True, True)
    assert [each["name"] for each in hub.api.get("/schedules")] == ["s"]


@pytest.mark.parametrize(("said", "code", "made"), [("n\n", 1, 0), ("y\n", 0, 1)])
def test_a_person_is_asked(hub, tmp_path, monkeypatch, said, code, made):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    path = tmp_path / "hub.toml"
    path.write_text(SCHEDULE + 'tags = ["a"]\n')
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(said.encode())))
    assert main(["--hub", hub.api.url, "--key", hub.api.key, "apply", str(path)]) == code
    assert len(hub.api.get("/schedules")) == made
