"""What the SDK says of itself."""

import ast
import builtins
import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest

from cmdop_appliance import sdk
from cmdop_appliance.sdk import errors

MODULES = [
    name
    for _, name, is_package in pkgutil.walk_packages(sdk.__path__, f"{sdk.__name__}.")
    if not is_package
]
# What programs call: all but these are parts of it.
CALLED = [
    name for name in MODULES if re.search(r"\.(client|terminal_socket|resources\.\w+)$", name)
]
UNITS = ("_ms", "_s", "_days", "_bytes", "_items")


def _public(tree):
    """Every class and function that another module may use."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            for child in node.body:
                named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                if named and not child.name.startswith("_"):
                    yield child


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_says_what_it_is(name):
    tree = ast.parse(inspect.getsource(import_module(name)))
    silent = [node.name for node in (tree, *_public(tree)) if not ast.get_docstring(node)]
    assert not silent


@pytest.mark.parametrize("name", MODULES)
def test_an_error_that_is_told_of_is_one_that_there_is(name):
    module = import_module(name)
    for node in _public(ast.parse(inspect.getsource(module))):
        said = (ast.get_docstring(node) or "").partition("Raises:\n")[2]
        for line in re.findall(r"^    (\w[^:\n]*)", said, re.MULTILINE):
            for error in line.split(", "):
                known = any(hasattr(place, error) for place in (errors, builtins, module))
                assert known, f"{node.name}: {error}"


@pytest.mark.parametrize("name", CALLED)
def test_a_number_has_its_unit_in_its_name_or_is_explained(name):
    for function in _public(ast.parse(inspect.getsource(import_module(name)))):
        if isinstance(function, ast.ClassDef):
            continue
        doc = ast.get_docstring(function)
        for parameter in (*function.args.args, *function.args.kwonlyargs):
            kind = ast.unparse(parameter.annotation or ast.Constant(None))
            if re.search(r"\b(int|float)\b", kind):
                told = parameter.arg.endswith(UNITS) or f"`{parameter.arg}" in doc
                assert told, f"{function.name}: {parameter.arg}"


def test_the_document_names_every_call():
    text = (Path(__file__).parents[2] / "docs/sdk.md").read_text()
    rows = dict(re.findall(r"^\| ?(`\w+`|) \|.*\| (`.*`) \|$", text, re.MULTILINE))
    named = {noun.strip("`"): {*re.findall(r"\w+", calls)} for noun, calls in rows.items()}
    with sdk.Client("http://127.0.0.1:1", "k") as client:
        nouns = {name: getattr(client, name) for name in named if name}
        assert {name for name in dir(client) if not name.startswith("_")} == {
            *nouns,
            *named[""],
            "close",
        }
    for name, noun in nouns.items():
        assert {call for call in dir(noun) if not call.startswith("_")} == named[name]
