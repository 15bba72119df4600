"""The page of the plan format: its reader reads every plan, and its table is that of the data, within the targets."""

import doctest
import json
import sys
from pathlib import Path

import pytest

import depgraph as dg
from depgraph.plans import plan_files
from tests.laws.refuting import refuted
from tests.plans.test_plan_files import GOLDEN, wide

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/plan-format.md").read_text()
sys.path.insert(0, str(ROOT / "docs/benchmarks"))

import plan_sizes  # noqa: E402  a script beside its data


def reader(change=lambda source: source):
    """The function `kept` of the page."""
    found = {}
    for example in doctest.DocTestParser().get_examples(PAGE):
        if example.source.startswith(("def ", "import base64")):
            exec(change(example.source), found)
    return found["kept"]


def assert_read(kept, plan):
    """The reader comes to what the plan keeps of each axis."""
    read = kept(json.loads(plan_files.dumps(plan))["content"])
    wanted = {f"{name}:{dim}": list(stay) for name, dims in plan.kept.items() for dim, stay in dims.items()}
    assert read == wanted, "other indices"


PLANS = {path.name.split(".")[0]: dg.Plan.load(path) for path in sorted(GOLDEN.glob("*.version2.json"))}
PLANS["bits"] = wide(1, 2_000, dg.IndexSet.of(range(0, 2_000, 3)))


@pytest.mark.parametrize("name", PLANS)
def test_the_reader_of_the_page_reads_every_plan(name):
    """Ragged ones, sums and products, axes that are read backwards, runs and bits."""
    assert_read(reader(), PLANS[name])


@pytest.mark.parametrize(
    "name, right, wrong",
    [
        ("bits", "index // 8] >> index % 8", "index // 8] >> 7 - index % 8"),
        ("ragged", "dict(place)[base] * size + index", "index"),
        ("half", "[::-1]", ""),
        ("half", "int(last or first) + 1", "int(last or first)"),
    ],
)
def test_another_reader_is_refuted(name, right, wrong):
    assert right in PAGE
    refuted(assert_read, reader(lambda source: source.replace(right, wrong)), PLANS[name], says="other indices")


def test_the_table_is_that_of_the_data():
    """Sizes are measured, and within what they are to be."""
    data = json.loads(plan_sizes.DATA.read_text())
    assert plan_sizes.page(PAGE, data) == PAGE
    assert all(data[name]["version 2"] < most for name, most in plan_sizes.TARGETS.items())
