"""How the tests import torchvision: its own operators where they load, schemas in their place only where they do not."""

import sys

import pytest
import torch

from tests import zoo

PACKAGE = """
from {name} import extension
if not extension.operators:
    raise RuntimeError({error!r})
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package that asks a list for its operators as it is imported, and fails without them."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def make(name, operators, error="operator torchvision::nms does not exist"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setattr(sys, name, operators, raising=False)
        (folder / "__init__.py").write_text(PACKAGE.format(name=name, error=error), encoding="utf-8")
        (folder / "extension.py").write_text(f"import sys\noperators = list(sys.{name})\n", encoding="utf-8")
        names.append(name)
        return name

    yield make
    for module in [module for module in sys.modules if module.split(".")[0] in names]:
        del sys.modules[module]


def test_operators_that_load_are_left_alone(package):
    """Where the compiled operators load nothing is defined: a second definition would abort the interpreter."""

    def define():
        raise AssertionError("defined beside the package's own")

    assert zoo.imported(package("vision_with", ["nms"]), define).extension.operators == ["nms"]


def test_operators_that_do_not_load_are_defined_once(package):
    """Where they do not load, schemas are defined once, after the failure, and every module is imported anew."""
    operators, seen = [], []
    name = package("vision_without", operators)

    def define():
        seen.append([module for module in sys.modules if module.startswith(name)])
        operators.append("stand-in")

    assert zoo.imported(name, define).extension.operators == ["stand-in"]
    assert seen == [[]]


@pytest.mark.parametrize("error", ["operator torchvision::roi_align does not exist", "compiled with different CUDA versions"])
def test_other_failures_are_reported(package, error):
    """An import that fails for another reason fails as it did, and nothing is defined."""
    defined = []
    with pytest.raises(RuntimeError, match=error):
        zoo.imported(package("vision_broken", [], error), lambda: defined.append(1))
    assert not defined


@pytest.mark.needs("torchvision")
def test_torchvision_here():
    """Torchvision's own operators are there, or the schemas in their place; never both."""
    module = zoo.torchvision()
    assert module.extension._has_ops() != any(library.kind == "DEF" for library in zoo.LIBRARIES)
    assert module.models.resnet18 and torch.ops.torchvision.nms
