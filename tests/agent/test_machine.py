"""What the agent says of the machine: facts and telemetry fit their messages and are true."""

import os
import pwd
import socket

import pytest

from cmdop_appliance.agent.facts import _hostname, _label, facts
from cmdop_appliance.agent.telemetry import _count, _percent, sample
from cmdop_appliance.protocol import messages
from cmdop_appliance.protocol.limits import LABEL_CHARS
from cmdop_appliance.protocol.messages import Prove, Sample, Samples


def test_a_sample_survives_the_wire_and_adds_up():
    before, _ = sample(None)
    _, telemetry = sample(before)
    message = Samples(series=b"s" * 16, samples=[Sample(number=1, age_ms=0, telemetry=telemetry)])
    assert messages.decode_from_agent(messages.encode(message)) == message
    assert 0 < telemetry.memory_used <= telemetry.memory_total
    assert 0 < telemetry.disk_used <= telemetry.disk_total
    assert telemetry.uptime_seconds > 0


def test_facts_survive_the_wire_and_name_this_machine():
    prove = Prove(
        public_key=b"k" * 32, signature=b"s" * 64, boot_id="b", keeper_id="k", facts=facts()
    )
    assert messages.decode_from_agent(messages.encode(prove)) == prove
    assert prove.facts.hostname == socket.gethostname()
    assert prove.facts.kernel == os.uname().release
    assert prove.facts.cpu_cores >= 1


def test_home_is_where_files_and_coding_sessions_count_from(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/agent")
    assert facts().home == "/srv/agent"
    monkeypatch.delenv("HOME")
    assert facts().home == pwd.getpwuid(os.geteuid()).pw_dir


@pytest.mark.parametrize(("value", "fits"), [(-0.1, 0), (100.1, 100), (12.5, 12.5)])
def test_a_percentage_stays_within_0_and_100(value, fits):
    assert _percent(value) == fits


@pytest.mark.parametrize(("value", "fits"), [(-1, 0), (2**64, 2**63 - 1), (7, 7)])
def test_a_count_stays_within_what_the_store_holds(value, fits):
    assert _count(value) == fits


def test_a_label_is_text_of_bounded_length_whatever_the_machine_says():
    assert _label("a\udcffb\n\x1b\x9b") == "a?b???"
    assert len(_label("x" * 2 * LABEL_CHARS)) == LABEL_CHARS


def test_a_hostname_is_what_a_hub_takes_whatever_the_machine_says():
    assert _hostname("a\udcffb\n\x1b\x9b") == "a?b???"
    assert _hostname("é" * 200) == "é" * 127  # 254 bytes: nothing is cut in two
