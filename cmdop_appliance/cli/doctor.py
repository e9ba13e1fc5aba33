"""`cmdop doctor`: what is wrong, and what mends it."""

import os
from dataclasses import asdict

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import Chosen, chosen_options, find_hub, local_data_dir
from cmdop_appliance.cli.diagnosis import Finding, examine_hub, examine_place
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.output import show
from cmdop_appliance.cli.text import visible


@click.command()
@chosen_options
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "jsonl"]))
def doctor(chosen: Chosen, form: str | None) -> int:
    """Examine the way to the hub, the key, the clocks, and the hub's directory if it is here.

    Exits 1 if something is wrong; a warning is not.
    """
    findings = []
    try:
        found = find_hub(chosen, os.environ)
    except Failure as exc:
        findings.append(Finding("hub", "wrong", exc.message, exc.hint))
    else:
        findings += examine_hub(found)
    place = chosen.data_dir or local_data_dir(os.environ)
    if place.exists():
        findings += examine_place(place)
    if form in ("json", "jsonl"):
        show([asdict(finding) for finding in findings], [], form)
    else:
        for finding in findings:
            print(visible(f"{finding.state:8} {finding.check:10} {finding.said}"))
            if finding.fix:
                print(visible(f"{'':19} fix: {finding.fix}"))
    return failures.OTHER if any(finding.state == "wrong" for finding in findings) else 0
