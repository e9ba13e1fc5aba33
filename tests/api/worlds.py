"""Parts of a hub that know nothing of each other, each with something of every kind."""

import re
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cmdop_appliance.api.registry import Route
from tests.api.contract_table import WEBHOOK, expected, path_of
from tests.support.appliance import Agent, Api, Hub, add_coding_agent, wait_for

_numbers = count()

# What is the same for everybody.
_OF_NOBODY = {"file": "swagger-ui.css", "program": "join.sh"}


class World:
    """A connected machine, and something of every kind that has to do with it alone.

    `api` is a key that may do everything there; `ids` are by kind.
    """

    def __init__(self, api: Api, agent: Agent) -> None:
        self.api = api
        self.agent = agent
        self.folder = agent.state_dir.with_name(f"{agent.name}-files")
        self.folder.mkdir(exist_ok=True)
        add_coding_agent(agent.state_dir.parent, "claude", "exec sleep 300")
        self.ids: dict[str, str] = {"machine": agent.machine_id, **_OF_NOBODY}
        self.ids["session"] = self.session_id
        command = api.run(agent.machine_id, f"echo {agent.name}")
        batch = api.post("/commands/batch", machine_ids=[agent.machine_id], command="true")
        self.ids["command"] = command["id"]
        self.ids["batch"] = batch[agent.machine_id]["batch_id"]
        kinds = ("key", "token", "client", "schedule", "webhook", "terminal", "coding", "sign-in")
        for kind in kinds:
            self.ids[kind] = self.fresh(kind)
        self.ids["delivery"] = api.post(f"/webhooks/{self.ids['webhook']}/test")["id"]
        run = api.post(f"/schedules/{self.ids['schedule']}/run")
        api.wait_end(run["command_id"])
        metrics = f"/sessions/{self.session_id}/metrics"
        wait_for(lambda: api.call("GET", metrics).status == 200, "there is a sample")

    @property
    def session_id(self) -> str:
        return str(self.api.get(f"/machines/{self.agent.machine_id}/session")["session_id"])

    def secrets(self) -> set[str]:
        """What nobody else may hear of: every id, and the machine's name."""
        return {self.agent.name, *self.ids.values()} - {*_OF_NOBODY.values()}

    def fresh(self, kind: str) -> str:
        """The id of a new thing, to be used up."""
        machine_id, api = self.agent.machine_id, self.api
        match kind:
            case "key":
                return str(api.post("/api-keys", name="spare", scopes=["machines:read"])["id"])
            case "token":
                return str(api.post("/enrollment-tokens")["id"])
            case "client":
                return str(api.post(f"/sessions/{self.ids['session']}/attach")["client_id"])
            case "schedule":
                made = api.post(
                    "/schedules",
                    name="leap day",
                    machine_id=machine_id,
                    command="true",
                    cron="0 0 29 2 *",
                )
                return str(made["id"])
            case "terminal":
                path, argv = f"/machines/{machine_id}/terminals", ["sleep", "300"]
                return str(api.post(path, argv=argv, record=True)["id"])
            case "sign-in":
                return str(signed_in(api)["id"])
            case "webhook":
                return str(api.post("/webhooks", **WEBHOOK)["id"])
            case "coding":
                path = f"/api/machines/{machine_id}/spawn"
                answer = api.call("POST", path, {"directory": str(self.folder)})
                return str(answer.json["sessionId"])
            case "command":
                return api.start(machine_id, "sleep 300")
            case "batch":  # stopped by errors before its one command had its turn
                batch = api.post(
                    "/commands/batch",
                    machine_ids=[machine_id, "mach_x"],
                    command="true",
                    max_errors=0,
                )
                return str(batch[machine_id]["batch_id"])
        raise LookupError(kind)

    def body(self, route: Route) -> dict[str, Any] | None:
        """A good body for a route, about what is here."""
        if not route.body:
            return None
        body = dict(expected(route).body)
        here: dict[str, Any] = {
            "machine_id": self.ids["machine"],
            "machine_ids": [self.ids["machine"]],
            "client_id": self.ids["client"],
            "mode": "operator",  # as an observer it could do nothing more
            "namespace": f"team-{next(_numbers)}",
            "path": self.nowhere(),
            "destination": self.nowhere(),
            "directory": str(self.folder),
            "accessToken": self.api.key,
        }
        if "source" in body:
            here["source"] = self.file()
        if "link" in body:
            here["link"] = self.api.post("/sign-in-links")["token"]
        return body | {name: value for name, value in here.items() if name in body}

    def path(self, route: Route) -> str:
        """The path of a route about what is here, with what its query must have."""
        here = {"machine_id": self.ids["machine"], "path": self.file(), "upload_id": "u"}
        query = {name: here[name] for name in expected(route).query}
        delivery = self.ids["delivery"]
        path = path_of(route, self.ids.get(expected(route).about, ""), delivery=delivery)
        return f"{path}?{urlencode(query)}" if query else path

    def file(self) -> str:
        """A new file on the machine."""
        path = self.nowhere()
        Path(path).write_text("content")
        return path

    def nowhere(self) -> str:
        """A path on the machine at which there is nothing."""
        return str(self.folder / f"file-{next(_numbers)}")

    def state(self) -> dict[str, Any]:
        """Everything of this world that a request could change."""

        def all_of(path: str, *names: str) -> list[Any]:
            return [{name: item[name] for name in names} for item in self.api.get(path)]

        session = self.api.get(f"/sessions/{self.ids['session']}")
        return {
            "machines": all_of("/machines?limit=100", "id", "name", "tags"),
            "commands": all_of("/commands?limit=100", "id", "status", "cancel_requested"),
            "keys": all_of("/api-keys?limit=100", "id"),
            "tokens": all_of("/enrollment-tokens?limit=100", "id"),
            "sign-ins": all_of("/sign-ins?limit=100", "id"),
            "schedules": all_of("/schedules?limit=100", "id", "name", "updated_at"),
            "webhooks": all_of("/webhooks?limit=100", "id", "enabled", "updated_at"),
            "terminals": all_of("/terminals?limit=100", "id", "status", "ending"),
            "deliveries": all_of(f"/webhooks/{self.ids['webhook']}/deliveries", "id", "status"),
            "clients": session["attached_clients"],
            "files": sorted(path.name for path in self.folder.iterdir()),
        }


def signed_in(api: Api) -> dict[str, Any]:
    """A browser that is signed in by a link of this key."""
    link = {"link": api.post("/sign-in-links")["token"]}
    headers = {"Sec-Fetch-Site": "same-origin"}
    made: dict[str, Any] = api.call("POST", "/sign-ins", link, headers=headers).data
    return made


def new_workspace(hub: Hub) -> Api:
    """The admin of a workspace of its own."""
    made = hub.api.post("/workspaces", namespace=f"world-{next(_numbers)}")
    return Api(hub.api.url, made["api_key"]["key"])


def of_tags(api: Api, *tags: str) -> Api:
    """A key that may do everything, with machines that carry all of these tags."""
    made = api.post("/api-keys", name="-".join(tags), scopes=["admin"], tags=tags)
    return Api(api.url, made["key"])


def without(text: str, *ids: str) -> str:
    """An answer's body in which no id and nothing of the moment is left."""
    for name in ids:
        text = text.replace(name, "<id>")
    return re.sub(r'"meta":\{[^}]*\}', "", text)
