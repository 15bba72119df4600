"""The front of the package: names resolve, load when asked for, and what needs no torch loads none."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import depgraph as dg

SOURCE = ast.parse(Path(dg.__file__).read_text())
WITHOUT_TORCH = """
import sys
import depgraph as dg
dg.Graph, dg.Plan, dg.plan, dg.cut, dg.cut_each, dg.explain, dg.candidates, dg.combine, dg.IndexSet, dg.RULES, dg.Rule
dg.Memory, dg.pareto, dg.evolve
dg.choosing, dg.plans, dg.errors, dg.rules, dg.ragged, dg.latency, dg.schedules
print(sorted({"torch", "numpy"} & set(sys.modules)))
"""


def imported_for_type_checkers():
    """Name to (module, name) of the imports under ``if TYPE_CHECKING``."""
    (block,) = (node for node in SOURCE.body if isinstance(node, ast.If))
    return {alias.asname or alias.name: (node.module, alias.name) for node in block.body for alias in node.names}


@pytest.mark.parametrize("name", dg.__all__)
def test_every_public_name_resolves(name):
    """What the front lists is there."""
    assert getattr(dg, name) is not None and name in dir(dg)


def test_type_checkers_and_the_interpreter_see_the_same_names():
    """The imports for type checkers, the two tables and the list of names agree, also on where a name is from."""
    seen = imported_for_type_checkers()
    assert set(seen) == {*dg._HOME_OF, *dg._SHELVES} == set(dg.__all__) - {"__version__"}
    assert not set(dg._HOME_OF) & set(dg._SHELVES)
    assert {name: seen[name] for name in dg._HOME_OF} == {name: (module, name) for name, module in dg._HOME_OF.items()}
    assert {name: ".".join(seen[name]) for name in dg._SHELVES} == dg._SHELVES
    assert all(getattr(dg, name) is import_module(module) for name, module in dg._SHELVES.items())


def test_what_needs_no_torch_loads_none():
    """A fresh process that names everything outside of the torch edge has loaded neither torch nor numpy."""
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    edge = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.replace("dg.errors", "dg.trace")], capture_output=True, text=True, check=True
    )
    assert "torch" in edge.stdout


def test_without_hypothesis_the_error_names_the_extra(monkeypatch):
    """The shelf for property tests is the one that needs a package as soon as it is named."""
    for name in [name for name in sys.modules if name.startswith("depgraph.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match=r"hypothesis; install depgraph\[test\]"):
        import_module("depgraph.testing")


def test_an_unknown_name_is_refused_with_a_hint():
    """A misspelt name is told the nearest one, an unknown one where to look."""
    with pytest.raises(AttributeError, match=r"no attribute 'excute'.*Did you mean 'execute'"):
        dg.excute  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'.*dir\(depgraph\)"):
        dg.zzz  # noqa: B018
