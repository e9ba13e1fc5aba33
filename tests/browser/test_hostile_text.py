"""What machines say is text in the dashboard, whatever they say (trust.md, row 16)."""

import pytest

from tests.support.dashboard import needs_dashboard

pytestmark = [pytest.mark.slow, needs_dashboard]

PAYLOADS = [
    "<img src=x onerror=window.pwned=1>",
    "<svg onload=window.pwned=1>",
    '"><script>window.pwned=1</script>',
    "javascript:window.pwned=1",
    "'-window.pwned=1-'",
    "{{constructor.constructor('window.pwned=1')()}}",
    "</title><script>window.pwned=1</script>",
    "\u202egnp.exe",
]


def test_names_output_and_files_of_machines_do_nothing_here(hub, agent, place, visitor):
    api, machine, page = hub.api, agent.machine_id, visitor.page
    api.call("PATCH", f"/machines/{machine}", {"name": PAYLOADS[0]})
    folder = place / "hostile"
    folder.mkdir()
    for number, payload in enumerate(PAYLOADS):
        (folder / f"{number}{payload.replace('/', '_')}").write_text(payload)
    script = folder / "page.html"
    script.write_text("<script>parent.pwned = window.pwned = 1</script>")
    text = "\n".join(PAYLOADS)
    command = api.run(machine, f"cat <<'EOF'\n{text}\nEOF\nprintf '\\033]0;{PAYLOADS[0]}\\007'")
    schedule = api.post(
        "/schedules", name=PAYLOADS[1], machine_id=machine, command=text, cron="0 3 * * *"
    )
    for path in (
        "/",
        f"/machines/{machine}",
        "/commands",
        f"/commands/{command['id']}",
        f"/files?machine={machine}&path={folder}",
        "/schedules",
        f"/schedules/{schedule['id']}",
        "/audit",
    ):
        visitor.open(path)
        assert page.evaluate("window.pwned") is None, path
    answer = page.request.get(
        f"{visitor.url}/api/v1/machines/{machine}/files/download?path={script}"
    )
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["content-security-policy"]
