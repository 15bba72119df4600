"""The guide's table of names is the package's."""

from pathlib import Path

import pytest

import depgraph as dg

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
TABLE = {
    cells[1].strip().strip("`"): [name.strip().strip("`") for name in cells[2].split(",")]
    for cells in (line.split("|") for line in GUIDE.split("## All public names")[1].split("## ")[0].splitlines() if "`" in line)
}


def names(shelf):
    """What a shelf holds: its `__all__`, or what the module defines."""
    defined = [name for name, value in vars(shelf).items() if getattr(value, "__module__", None) == shelf.__name__]
    return sorted(getattr(shelf, "__all__", [name for name in defined if not name.startswith("_")]))


def test_the_table_has_the_shelves_and_the_top():
    """No shelf and no name at the top is left out, and none is there that does not exist."""
    assert set(TABLE) == {"dg", *(f"dg.{shelf}" for shelf in dg._SHELVES)}
    assert set(TABLE["dg"]) == set(dg.__all__) - set(dg._SHELVES) - {"__version__"}


@pytest.mark.parametrize("shelf", sorted(dg._SHELVES))
def test_every_name_of_a_shelf_is_in_the_table_and_explained(shelf):
    """The table lists a shelf's names; each class and function has a docstring."""
    module = getattr(dg, shelf)
    assert TABLE[f"dg.{shelf}"] == names(module)
    assert not [name for name in names(module) if callable(getattr(module, name)) and not getattr(module, name).__doc__]
