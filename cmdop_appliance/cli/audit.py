"""`cmdop audit`: who did what, and whether nothing of it was changed since."""

import itertools
import sys
from typing import Literal

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.failures import Failure, report
from cmdop_appliance.cli.output import nameless_output_option, output_option, show, show_one
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.resources.resource import PAGE_ITEMS
from cmdop_appliance.sdk.types import AuditProof


@click.group()
def audit() -> None:
    """Who did what on this hub, and whether the log of it is whole."""


@audit.command("ls")
@client_options
@output_option
@click.option("--action", help="Only command.accepted, api_key.revoked, …")
@click.option("--actor", help="Only what this one did: an email, a machine's id, or hub.")
@click.option("--target", metavar="ID", help="Only what was done to this.")
@click.option("--outcome", type=click.Choice(["ok", "refused"]))
@click.option("--since", metavar="TIME", help="RFC 3339, such as 2026-02-14T10:30:00Z.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True)
def list_entries(
    client: Client,
    form: str | None,
    action: str | None,
    actor: str | None,
    target: str | None,
    outcome: Literal["ok", "refused"] | None,
    since: str | None,
    limit: int,
) -> None:
    """List the newest entries first."""
    newest = client.audit.list(
        action=action,
        actor=actor,
        target=target,
        outcome=outcome,
        since=since,
        page_items=min(limit, PAGE_ITEMS),
    )
    columns = ["seq", "at", "actor", "action", "outcome", "target", "details"]
    show(itertools.islice(newest, limit), columns, form)


@audit.command("verify")
@client_options
@nameless_output_option
@click.option("--head", metavar="SEQ:HASH", help="An entry that you wrote down earlier.")
def verify(client: Client, form: str | None, head: str | None) -> int:
    """Check that no entry was changed, and that machines remember the same log.

    Exits 1 if the log was changed or cut. The `head` that it prints is worth writing down: with
    --head it proves later that nothing up to it was lost.
    """
    proof = client.audit.verify(head=head)
    if form:
        show_one(proof, form)
    else:
        agreeing = sum(witness["agrees"] for witness in proof["witnesses"])
        last = proof["head"]
        show_one(
            {
                "entries": proof["entries"],
                "head": f"{last['seq']}:{last['hash']}",
                "witnesses": f"{agreeing} of {len(proof['witnesses'])} machines agree",
            },
            form,
        )
    for failure in _failures(proof, head):
        report(failure)
    if proof["contradictions"]:
        print(
            f"note: {visible(proof['contradictions'])} contradictions are on record:"
            " cmdop audit ls --action audit.contradicted",
            file=sys.stderr,
        )
    return 0 if proof["ok"] else failures.OTHER


def _failures(proof: AuditProof, head: str | None) -> list[Failure]:
    found = []
    if proof["first_bad"] is not None:
        found.append(f"entry {proof['first_bad']} is missing or was changed")
    if proof["given_agrees"] is False:
        found.append(f"the log has no entry {head}: it was cut or changed")
    found += [
        f"machine {witness['machine_id']} remembers another entry {witness['seq']}:"
        " the log was cut or changed, the hub restored from a backup, or the machine lies"
        for witness in proof["witnesses"]
        if not witness["agrees"]
    ]
    return [Failure(message, exit_code=failures.OTHER) for message in found]
