"""A log that somebody has cut or changed, on a real hub with a real agent."""

import json
import subprocess

import apsw

from tests.support.appliance import (
    Hub,
    cmdop,
    running_agent,
    running_hub,
    wait_for,
)


def audit(hub: Hub, *args: str) -> subprocess.CompletedProcess[str]:
    return cmdop("audit", *args, **hub.credentials)


def tamper(hub: Hub, *statements: str) -> None:
    """What root does with the file of a hub that is stopped."""
    connection = apsw.Connection(str(hub.data_dir / "cmdop.db"))
    for name in ("audit_only_appends", "audit_never_changes", "audit_is_never_cut"):
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_tail_that_was_cut_off_shows_by_a_machine_that_remembers_it(tmp_path):
    with running_hub(tmp_path) as hub, running_agent(hub, tmp_path, "target") as agent:
        wait_for((agent.state_dir / "audit.head").exists, "the agent remembers the log")
        whole = audit(hub, "verify")
        assert (whole.returncode, whole.stderr) == (0, "")
        hub.stop()
        tamper(hub, "DELETE FROM audit WHERE seq > 2")
        hub.start()
        agent.wait_connected(hub)
        proof = hub.api.get("/audit/verify")
        assert (proof["ok"], proof["first_bad"], proof["contradictions"]) == (False, None, 1)
        (witness,) = proof["witnesses"]
        remembered = json.loads((agent.state_dir / "audit.head").read_text())
        assert (witness["machine_id"], witness["agrees"]) == (agent.machine_id, False)
        assert witness["seq"] >= remembered["seq"] > 2
        (entry,) = hub.api.get("/audit?action=audit.contradicted")
        assert (entry["target"], entry["details"]["seq"]) == (agent.machine_id, witness["seq"])
        cut = audit(hub, "verify")
        assert cut.returncode == 1
        assert f"machine {agent.machine_id} remembers another entry" in cut.stderr
        assert "cmdop audit ls --action audit.contradicted" in cut.stderr
        assert "a machine contradicts the audit log" in hub.log.read_text()


def test_an_entry_that_was_changed_shows_and_so_does_a_head_that_was_written_down(tmp_path):
    with running_hub(tmp_path) as hub:
        hub.new_key("machines:read")
        whole = audit(hub, "verify", "-o", "json")
        proof = json.loads(whole.stdout)
        head = "{seq}:{hash}".format(**proof["head"])
        assert (proof["ok"], audit(hub, "verify", "--head", head).returncode) == (True, 0)
        hub.stop()
        tamper(hub, "UPDATE audit SET actor = 'somebody@default' WHERE actor LIKE 'admin@%'")
        hub.start()
        changed = audit(hub, "verify", "--head", head)
        number = int(head.partition(":")[0])
        assert changed.returncode == 1
        assert changed.stderr == f"error: entry {number} is missing or was changed\n"
        hub.stop()
        tamper_again = apsw.Connection(str(hub.data_dir / "cmdop.db"))
        tamper_again.execute(f"DELETE FROM audit WHERE seq >= {number}")
        tamper_again.close()
        hub.start()
        cut = audit(hub, "verify", "--head", head)
        assert cut.returncode == 1
        assert cut.stderr == f"error: the log has no entry {head}: it was cut or changed\n"
