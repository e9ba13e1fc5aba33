"""Which hub is talked to, and which key it is given."""

import json
from pathlib import Path

import pytest

from cmdop_appliance.cli.connection import Chosen, find_hub
from cmdop_appliance.cli.failures import NOT_ALLOWED, UNREACHABLE, USAGE, Failure

LOCAL = "http://127.0.0.1:3006"


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "cmdop-data"
    directory.mkdir()
    (directory / "hub.json").write_text(json.dumps({"url": LOCAL, "pid": 1}))
    (directory / "admin.key").write_text("local-key\n")
    return directory


ENVIRON = {"CMDOP_URL": "http://env", "CMDOP_API_KEY": "env-key"}


@pytest.mark.parametrize(
    ("chosen", "environ", "url", "key"),
    [
        (Chosen(), {}, LOCAL, "local-key"),
        (Chosen(), ENVIRON, "http://env", "env-key"),
        (Chosen(hub="http://flag"), ENVIRON, "http://flag", "env-key"),
        (Chosen(key="flag-key"), ENVIRON, "http://env", "flag-key"),
        (Chosen(key="flag-key"), {}, LOCAL, "flag-key"),
        (Chosen(hub="http://flag", key="flag-key"), {}, "http://flag", "flag-key"),
        (Chosen(hub=LOCAL), {}, LOCAL, "local-key"),
        (
            Chosen(),
            {"CMDOP_BASE_URL": "http://base", "CMDOP_API_KEY": "k"},
            "http://base",
            "k",
        ),
        (Chosen(data_dir=Path("cmdop-data")), ENVIRON, LOCAL, "local-key"),
    ],
)
def test_options_go_before_variables_and_these_before_a_data_directory(
    data_dir, chosen, environ, url, key
):
    hub = find_hub(chosen, environ)
    assert (hub.url, hub.key) == (url, key)


def test_the_variable_names_a_data_directory_elsewhere(data_dir, tmp_path):
    elsewhere = data_dir.rename(tmp_path / "elsewhere")
    hub = find_hub(Chosen(), {"CMDOP_DATA_DIR": str(elsewhere)})
    assert (hub.url, hub.key, hub.source) == (LOCAL, "local-key", str(elsewhere))


@pytest.mark.parametrize(
    ("chosen", "environ"),
    [(Chosen(hub="http://other"), {}), (Chosen(), {"CMDOP_URL": "http://other"})],
)
def test_the_local_admin_key_is_given_to_no_other_hub(data_dir, chosen, environ):
    with pytest.raises(Failure, match="no API key for http://other") as caught:
        find_hub(chosen, environ)
    assert caught.value.exit_code == NOT_ALLOWED


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": 1}', "\0", "[" * 100_000])
def test_a_data_directory_without_a_running_hub_is_called_that(data_dir, content):
    (data_dir / "hub.json").write_text(content)
    with pytest.raises(Failure, match="no hub is running in cmdop-data") as caught:
        find_hub(Chosen(), {})
    assert caught.value.exit_code == UNREACHABLE


def test_with_nothing_at_all_the_ways_to_name_a_hub_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure, match="no hub is known") as caught:
        find_hub(Chosen(), {})
    assert caught.value.exit_code == USAGE
    assert "CMDOP_URL" in caught.value.hint


def test_the_option_nearer_to_the_command_wins():
    before, after = Chosen(hub="a", key="k"), Chosen(hub="b")
    assert before.overridden_by(after) == Chosen(hub="b", key="k")
