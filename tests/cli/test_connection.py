"""Which hub is talked to, and which key it is given."""

import json
import os
from pathlib import Path

import pytest

from cmdop_appliance.cli import connection
from cmdop_appliance.cli.connection import Chosen, find_hub
from cmdop_appliance.cli.contexts import Context, Contexts, write_contexts
from cmdop_appliance.cli.failures import NOT_ALLOWED, NOT_FOUND, UNREACHABLE, USAGE, Failure
from cmdop_appliance.service.install import user_places

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


def test_a_data_directory_that_nobody_named_vouches_for_no_other_hub(data_dir, tmp_path):
    url = "https://hub:3006"
    ready = {"url": url, "pid": 1, "certificate": "planted"}
    (data_dir / "hub.json").write_text(json.dumps(ready))
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "CMDOP_API_KEY": "mine"}
    assert find_hub(Chosen(hub=url), environ).certificate == ""
    write_contexts(Contexts({"hub": Context(url, "mine", "met")}, None), environ)
    assert find_hub(Chosen(hub=url), {"XDG_CONFIG_HOME": str(tmp_path)}).certificate == "met"
    assert find_hub(Chosen(), {"XDG_CONFIG_HOME": str(tmp_path)}).certificate == "planted"
    assert find_hub(Chosen(hub=url, data_dir=data_dir), environ).certificate == "planted"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read what is not its own")
def test_a_service_makes_root_send_no_secret_of_another(data_dir, tmp_path):
    secret = (data_dir / "admin.key").rename(tmp_path / "secret")
    (data_dir / "admin.key").symlink_to(secret)
    assert find_hub(Chosen(), {}).key == "local-key"
    for path in (data_dir, data_dir / "hub.json"):
        os.chown(path, 12345, 12345)
    with pytest.raises(Failure, match="no API key"):
        find_hub(Chosen(), {})


def test_the_variable_names_a_data_directory_elsewhere(data_dir, tmp_path):
    elsewhere = data_dir.rename(tmp_path / "elsewhere")
    hub = find_hub(Chosen(), {"CMDOP_DATA_DIR": str(elsewhere)})
    assert (hub.url, hub.key, hub.source) == (LOCAL, "local-key", str(elsewhere))


def test_an_installed_hub_is_found_by_who_may_read_its_key(data_dir, tmp_path, monkeypatch):
    installed = tmp_path / "var"
    monkeypatch.setattr(connection, "INSTALLED_DATA_DIR", installed)
    assert find_hub(Chosen(), {}).source == "cmdop-data"
    data_dir.rename(installed)
    assert find_hub(Chosen(), {}).source == str(installed)
    (installed / "admin.key").unlink()
    with pytest.raises(Failure, match="no hub is known here"):
        find_hub(Chosen(), {})


@pytest.mark.parametrize("names_it", [True, False])
def test_a_hub_that_a_user_has_installed_is_found_before_that_of_root(
    data_dir, tmp_path, monkeypatch, names_it
):
    monkeypatch.setattr(connection, "INSTALLED_DATA_DIR", tmp_path)
    (tmp_path / "admin.key").write_text("root's")
    environ = {"HOME": str(tmp_path)} | (
        {"XDG_STATE_HOME": str(tmp_path / "s")} if names_it else {}
    )
    own = user_places(environ, tmp_path).state("hub")
    own.parent.mkdir(parents=True)
    data_dir.rename(own)
    assert find_hub(Chosen(), environ).source == str(own)


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


def test_an_installed_hub_that_others_may_not_read_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "INSTALLED_DATA_DIR", tmp_path)
    monkeypatch.setattr(connection.os, "access", lambda *_: False)
    with pytest.raises(Failure, match="is not ours to read") as caught:
        find_hub(Chosen(), {})
    assert caught.value.exit_code == NOT_ALLOWED
    assert caught.value.hint.startswith("sudo cmdop …, or cmdop login URL")


def test_the_option_nearer_to_the_command_wins():
    before, after = Chosen(hub="a", key="k"), Chosen(hub="b")
    assert before.overridden_by(after) == Chosen(hub="b", key="k")


HOME, WORK = Context("http://home", "home-key"), Context("http://work", "work-key")


@pytest.fixture
def logged_in(data_dir, tmp_path):
    """The variables of somebody who knows two hubs, and uses one of them."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    write_contexts(Contexts({"home": HOME, "work": WORK}, "home"), environ)
    return environ


@pytest.mark.parametrize(
    ("chosen", "environ", "found"),
    [
        (Chosen(), {}, ("http://home", "home-key")),
        (Chosen(), {"CMDOP_CONTEXT": "work"}, ("http://work", "work-key")),
        (Chosen(context="work"), {"CMDOP_CONTEXT": "home"}, ("http://work", "work-key")),
        (Chosen(), ENVIRON | {"CMDOP_CONTEXT": "work"}, ("http://env", "env-key")),
        (Chosen(context="work"), ENVIRON, ("http://work", "work-key")),
        (Chosen(key="flag-key"), {}, ("http://home", "flag-key")),
        (Chosen(hub="http://work"), {}, ("http://work", "work-key")),
        (Chosen(), {"CMDOP_URL": "http://work"}, ("http://work", "work-key")),
        (Chosen(), {"CMDOP_API_KEY": "env-key"}, ("http://home", "home-key")),
        (Chosen(data_dir=Path("cmdop-data")), {}, (LOCAL, "local-key")),
        (Chosen(), {"CMDOP_DATA_DIR": "cmdop-data"}, ("http://home", "home-key")),
        (Chosen(hub=LOCAL), {}, (LOCAL, "local-key")),
    ],
)
def test_a_context_comes_after_variables_and_before_a_data_directory(
    logged_in, chosen, environ, found
):
    hub = find_hub(chosen, logged_in | environ)
    assert (hub.url, hub.key) == found


def test_the_key_of_a_context_is_given_to_no_other_hub(logged_in):
    with pytest.raises(Failure, match="no API key for http://other"):
        find_hub(Chosen(hub="http://other"), logged_in)


def test_a_context_that_is_not_there_is_not_guessed(logged_in):
    with pytest.raises(Failure, match='no context "wrok"') as caught:
        find_hub(Chosen(context="wrok"), logged_in)
    assert caught.value.exit_code == NOT_FOUND
