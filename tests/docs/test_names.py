"""The guide's table of names is the package's, and every public name has an example that runs."""

import doctest
import re
import sys
from importlib import import_module
from inspect import ismodule
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import depgraph as dg

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
TABLE = {
    cells[1].strip().strip("`"): [name.strip().strip("`") for name in cells[2].split(",")]
    for cells in (line.split("|") for line in GUIDE.split("## All public names")[1].split("## ")[0].splitlines() if "`" in line)
}


SHELF = """
__all__ = ["SHOWN", "HIDDEN", "shown", "silent", "elsewhere", "skipped", "ByMethod", "Bare"]
SHOWN = HIDDEN = 1
def shown():
    '''>>> shown()'''
def silent():
    '''Explained by words alone.'''
def elsewhere():
    '''>>> shown()'''
def skipped():
    '''>>> skipped()  # doctest: +SKIP'''
class ByMethod:
    def method(self):
        '''>>> ByMethod().method()'''
class Bare:
    def method(self):
        '''Explained by words alone.'''
"""


def without_example(shelf):
    """The names of a shelf that no doctest shows.

    A class or function is shown by its own docstring, a class also by those of its methods, and a value, which has no
    docstring, by that of the shelf. The example must hold the name, and pytest must be able to find and run it.
    """
    missing = []
    for name in shelf.__all__:
        value = getattr(shelf, name)
        if ismodule(value) or name.startswith("__"):
            continue
        defined = isinstance(value, (type, FunctionType))
        home = import_module(value.__module__) if defined else shelf
        shown = re.compile(rf"{re.escape(home.__name__)}\.{name}(\..*)?" if defined else re.escape(home.__name__))
        examples = [
            example
            for test in doctest.DocTestFinder().find(home)
            if shown.fullmatch(test.name)
            for example in test.examples
            if not example.options.get(doctest.SKIP)
        ]
        if not any(re.search(rf"\b{name}\b", example.source + example.want) for example in examples):
            missing.append(name)
    return missing


def test_the_table_has_the_shelves_and_the_top():
    """No shelf and no name at the top is left out, and none is there that does not exist."""
    assert set(TABLE) == {"dg", *(f"dg.{shelf}" for shelf in dg._SHELVES)}
    assert set(re.findall(r"`dg\.(\w+)`", dg.__doc__)) == set(dg._SHELVES)
    assert set(TABLE["dg"]) == set(dg.__all__) - set(dg._SHELVES) - {"__version__"}


@pytest.mark.parametrize("shelf", sorted(dg._SHELVES))
def test_every_name_of_a_shelf_is_in_the_table_and_explained(shelf):
    """The table lists a shelf's names; each class and function has a docstring."""
    module = getattr(dg, shelf)
    assert TABLE[f"dg.{shelf}"] == sorted(module.__all__)
    assert not [name for name in module.__all__ if callable(getattr(module, name)) and not getattr(module, name).__doc__]


def test_every_public_name_has_an_example(pytestconfig):
    """At the top and on all shelves; and pytest runs the doctests of the package."""
    assert not {
        shelf.__name__: missing
        for shelf in (dg, *(getattr(dg, shelf) for shelf in dg._SHELVES))
        if (missing := without_example(shelf))
    }
    assert "--doctest-modules" in pytestconfig.getini("addopts") and "depgraph" in pytestconfig.getini("testpaths")


def test_names_without_an_example_are_refused(monkeypatch):
    """The negative control: no example, one of another name, one that does not run, a value that the shelf does not show."""
    shelf = ModuleType("shelf", ">>> SHOWN + 1\n2\n")
    exec(SHELF, vars(shelf))
    monkeypatch.setitem(sys.modules, "shelf", shelf)
    assert without_example(shelf) == ["HIDDEN", "silent", "elsewhere", "skipped", "Bare"]


def test_the_readme_names_every_folder():
    """The map of folders has all of the package, and no other."""
    root = Path(dg.__file__).parent
    table = (root.parent / "README.md").read_text().split("## Where things are")[1].split("## ")[0]
    folders = {f"depgraph/{path.parent.name}" for path in root.glob("*/__init__.py")}
    assert set(re.findall(r"`(depgraph/\w+)`", table)) == folders
