"""The published CMDOP SDK 2.0, unchanged, against our hub (contract.md §10)."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from cmdop_appliance.api.sdk2.asking import PACE_S
from cmdop_appliance.api.sdk2.messages import REPLY_BYTES
from tests.support.appliance import Api, running_agent, running_hub
from tests.support.published import published_client, run_published

pytestmark = pytest.mark.slow

# What each script prints as JSON is what the client made of the hub's answers.
_PROLOGUE = """
import asyncio, dataclasses, json, sys
import cmdop
from cmdop import Client, CmdopError
from google.protobuf.json_format import MessageToDict

assert cmdop.__version__ == "2.0.0"

def plain(message):
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )

async def frames(stream, pause=None):
    seen = []
    async for frame in stream:
        seen.append(dataclasses.asdict(frame))
        if pause and len(seen) == 1:
            await pause()
    return seen

async def failure(awaitable):
    try:
        await awaitable
    except CmdopError as error:
        return {"kind": type(error).__name__, "code": error.code, "status": error.status}

def main(work):
    async def run():
        async with Client() as client:
            print(json.dumps(await work(client, *sys.argv[1:])))
    asyncio.run(run())
"""


@pytest.fixture(scope="module")
def run(request, tmp_path_factory):
    """Run a piece of a program that uses the client; what it returned."""
    package = published_client(request.config)
    home = tmp_path_factory.mktemp("home")

    def run(api: Api, body: str, *args: str):
        lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
        script = f"{_PROLOGUE}\nasync def work(client, *args):\n{lines}\nmain(work)\n"
        done = run_published(package, script, *args, url=api.url, key=api.key, home=home)
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(done.stdout)

    return run


def test_it_lists_machines_asks_one_and_reads_its_messages(run, hub, agent):
    told = run(
        hub.api,
        """
bootstrap = await client.system.bootstrap()
roster = await client.machines.list()
machine_id = roster.machines[0].machine_id
seen = await frames(client.machines.ask(machine_id, "uname -a", session="2"))
history = await client.machines.messages(machine_id, session="2", limit=100)
return [plain(bootstrap), plain(roster), seen, plain(history)]
""",
    )
    bootstrap, roster, seen, history = told
    assert bootstrap["bundle_id"].startswith("cmdop-appliance-")
    (machine,) = roster["machines"]
    assert machine["machine_id"] == agent.machine_id
    assert (machine["display_name"], machine["connected"]) == ("target", True)
    uname = subprocess.run(["uname", "-a"], capture_output=True, text=True, check=True).stdout
    *events, done = seen
    assert "".join(event["payload"]["delta"] for event in events) == uname
    assert {event["machine_id"] for event in events} == {agent.machine_id}
    assert (done["type"], done["success"], done["text"]) == ("done", True, uname)
    question, answer = history["messages"]
    assert (question["role"], question["content"]) == ("user", "uname -a")
    assert (answer["role"], answer["content"]) == ("assistant", uname)
    assert int(question["seq"]) < int(answer["seq"])
    command = hub.api.get(f"/commands/{question['id']}")
    assert (command["machine_id"], command["stdout"]) == (agent.machine_id, uname)


def test_it_tells_a_command_that_failed_from_one_that_did_not(run, hub, agent):
    told = run(
        hub.api,
        """
ask = client.machines.ask
return [
    await ask(args[0], "printf fine").collect(),
    await frames(ask(args[0], "printf part; exit 3")),
    await frames(ask(args[0], "kill -9 $$")),
    await frames(ask(args[0], "true", working_dir="/no/such")),
    await failure(ask(args[0], "false").collect()),
]
""",
        agent.machine_id,
    )
    fine, exited, killed, elsewhere, failed = told
    assert fine == "fine"
    assert (exited[-1]["success"], exited[-1]["text"]) == (False, "part")
    assert exited[-1]["error"] == "exit code 3"
    assert killed[-1]["error"] == "ended by SIGKILL"
    assert not elsewhere[-1]["success"]
    assert "/no/such" in elsewhere[-1]["error"]
    assert failed["kind"] == "AgentStreamError"


def test_what_its_document_shows_runs_as_it_stands_there(request, hub, agent, tmp_path):
    text = (Path(__file__).parents[2] / "docs/sdk2.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    key = hub.new_key("machines:read", "commands:execute").key
    package = published_client(request.config)
    done = run_published(package, script, url=hub.api.url, key=key, home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("target ")
    assert "load average" in done.stdout


def test_its_errors_are_of_the_kinds_that_it_has(run, hub, agent):
    body = """
return [
    await failure(client.machines.messages(args[0])),
    await failure(client.machines.ask(args[0], "true").collect()),
    await failure(client.machines.ask(args[0], "true", attachment_ids=["a"]).collect()),
]
"""
    unknown, wrong = hub.new_key("webhooks:manage"), Api(hub.api.url, hub.api.key[:-1] + "_")
    assert [error["kind"] for error in run(hub.api, body, "mach_unknown")] == [
        "NotFoundError",
        "NotFoundError",
        "ValidationError",
    ]
    assert {error["kind"] for error in run(unknown, body, agent.machine_id)} == {"PermissionError"}
    assert {error["kind"] for error in run(wrong, body, agent.machine_id)} == {"AuthError"}


def test_a_machine_that_is_not_there_is_told_in_the_clients_words(run, tmp_path):
    with running_hub(tmp_path) as hub:
        with running_agent(hub, tmp_path, "away") as agent:
            machine_id = agent.machine_id
        told = run(
            hub.api,
            """
roster = await client.machines.list()
return [plain(roster), await frames(client.machines.ask(args[0], "true"))]
""",
            machine_id,
        )
        roster, (error, done) = told
        assert [machine["connected"] for machine in roster["machines"]] == [False]
        assert (error["type"], error["code"]) == ("error", "machine_offline")
        assert not done["success"]
        assert done["error"] == error["message"]
        assert not hub.api.get("/commands")


def test_a_slow_reader_of_many_lines_is_not_cut_off(run, hub, agent):
    """It gives up once 256 events wait: here it reads none of 2,000 lines until all have come."""
    text, count, seconds = run(
        hub.api,
        """
async def pause():
    while len((await client.machines.messages(args[0], session="slow")).messages) < 2:
        await asyncio.sleep(0.1)

command = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo $i; sleep 0.001; done"
begun = asyncio.get_running_loop().time()
seen = await frames(client.machines.ask(args[0], command, session="slow"), pause)
seconds = asyncio.get_running_loop().time() - begun
return ["".join(frame["payload"]["delta"] for frame in seen[:-1]), len(seen), seconds]
""",
        agent.machine_id,
    )
    assert text == "".join(f"{number}\n" for number in range(1, 2001))
    assert count <= 2 + seconds / PACE_S  # however long it takes, they do not pile up


def test_what_is_too_long_for_it_is_shortened_in_the_end_and_streamed_whole(run, hub, agent):
    """Control characters are what grows most on the way: JSON needs 6 bytes for each."""
    streamed, reply, messages = run(
        hub.api,
        r"""
command = "head -c 2000000 /dev/zero | tr '\\0' '\\1'"
seen = await frames(client.machines.ask(args[0], command, session="long"))
deltas = "".join(frame["payload"]["delta"] for frame in seen[:-1])
history = await client.machines.messages(args[0], session="long")
return [deltas.count("\1"), len(seen[-1]["text"]), len(history.messages[-1].content)]
""",
        agent.machine_id,
    )
    assert streamed == 2_000_000
    assert messages < reply < REPLY_BYTES


def test_a_quiet_command_outlasts_the_patience_of_the_client(run, hub, agent):
    """It gives up when no frame comes for its timeout; comments are none to it."""
    assert (
        run(
            hub.api,
            """
patient = Client(timeout_ms=6500)
try:
    return await patient.machines.ask(args[0], "sleep 8; echo done").collect()
finally:
    await patient.aclose()
""",
            agent.machine_id,
        )
        == "done\n"
    )
