"""The laws of depgraph as checks for your own model, and Hypothesis strategies for spaces, index sets, modules and plans.

Needs the `test` extra (Hypothesis). `assert_lawful` checks one model; the strategies feed property tests.

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
>>> assert_lawful(model, torch.randn(3, 4))

>>> len(KINDS), KINDS[0]
(17, 'residual')
>>> len(OPERATORS) > 60, "linear" in OPERATORS                            # of which `programs` draws
(True, True)
"""

try:
    import hypothesis  # noqa: F401
except ImportError:
    raise ImportError("dg.testing needs the package hypothesis; install depgraph[test].") from None

from depgraph.testing.laws import (
    assert_atomic,
    assert_cost,
    assert_lawful,
    assert_pure,
    assert_round_trip,
    assert_square,
    assert_unit,
    assert_zero_channels,
    difference,
    normalised_atoms,
    same,
    snapshot,
    tensor_bytes,
)
from depgraph.testing.networks import KINDS, network
from depgraph.testing.probing import Findings, Mixed, assert_rule_sound, probe
from depgraph.testing.program_steps import OPERATORS
from depgraph.testing.random_programs import Program, assert_program_lawful, programs
from depgraph.testing.strategies import index_sets, modules, plans, spaces

__all__ = [
    "KINDS",
    "OPERATORS",
    "Findings",
    "Mixed",
    "Program",
    "assert_atomic",
    "assert_cost",
    "assert_lawful",
    "assert_program_lawful",
    "assert_pure",
    "assert_round_trip",
    "assert_rule_sound",
    "assert_square",
    "assert_unit",
    "assert_zero_channels",
    "difference",
    "index_sets",
    "modules",
    "network",
    "normalised_atoms",
    "plans",
    "probe",
    "programs",
    "same",
    "snapshot",
    "spaces",
    "tensor_bytes",
]
