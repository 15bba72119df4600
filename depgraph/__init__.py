"""depgraph: exact structural pruning of PyTorch models as a pure, immutable graph library.

The names of the main job are here; the others stand on shelves, by topic: `dg.criteria`, `dg.penalties`, `dg.schedules`,
`dg.ragged`, `dg.latency`, `dg.engines`, `dg.optimizers`, `dg.choosing`, `dg.plans`, `dg.moments`, `dg.repair`, `dg.rules`,
`dg.hf`, `dg.errors`, `dg.testing`. Names are loaded when they are asked for, so that graphs and plans can be read, and plans
made, without loading torch.

>>> import torch, depgraph as dg
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
>>> graph = dg.trace(model, torch.randn(1, 4))                           # by the table dg.RULES
>>> scores = dg.score(graph, model, dg.Magnitude(p=2))
>>> dg.execute(dg.plan(graph, scores, ratio=0.25), model)
Sequential(
  (0): Linear(in_features=4, out_features=6, bias=True)
  (1): ReLU()
  (2): Linear(in_features=6, out_features=2, bias=True)
)
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depgraph import choosing as choosing
    from depgraph import criteria as criteria
    from depgraph import errors as errors
    from depgraph import hf as hf
    from depgraph import moments as moments
    from depgraph import penalties as penalties
    from depgraph import plans as plans
    from depgraph import repair as repair
    from depgraph import rules as rules
    from depgraph import testing as testing
    from depgraph.algebra.indices import IndexSet as IndexSet
    from depgraph.choosing import engines as engines
    from depgraph.choosing import latency as latency
    from depgraph.choosing import schedules as schedules
    from depgraph.choosing.candidates import candidates as candidates
    from depgraph.choosing.candidates import combine as combine
    from depgraph.choosing.choose import plan as plan
    from depgraph.choosing.evolution import evolve as evolve
    from depgraph.choosing.memory import Memory as Memory
    from depgraph.choosing.search import pareto as pareto
    from depgraph.criteria.scoring import score as score
    from depgraph.criteria.weights import Magnitude as Magnitude
    from depgraph.errors import DepgraphError as DepgraphError
    from depgraph.execution import optimizers as optimizers
    from depgraph.execution.checkpoints import prune_checkpoint as prune_checkpoint
    from depgraph.execution.execute import execute as execute
    from depgraph.execution.execute import execute_ as execute_
    from depgraph.execution.execute import parameter_map as parameter_map
    from depgraph.execution.masking import mask as mask
    from depgraph.execution.masking import mask_ as mask_
    from depgraph.execution.repairs import Repair as Repair
    from depgraph.execution.token_ids import new_ids as new_ids
    from depgraph.execution.views import teacher_view as teacher_view
    from depgraph.graph import ragged as ragged
    from depgraph.graph.explain import explain as explain
    from depgraph.graph.graph import Graph as Graph
    from depgraph.graph.groups import Group as Group
    from depgraph.graph.nodes import Dependency as Dependency
    from depgraph.graph.nodes import Node as Node
    from depgraph.graph.records import OpType as OpType
    from depgraph.iterating import iterate as iterate
    from depgraph.measuring import sensitivity as sensitivity
    from depgraph.plans.algebra import merge as merge
    from depgraph.plans.by_hand import cut as cut
    from depgraph.plans.by_hand import cut_each as cut_each
    from depgraph.plans.by_hand import drop as drop
    from depgraph.plans.plan import Plan as Plan
    from depgraph.plans.reasons import why as why
    from depgraph.repair.expected import reconstruction_error as reconstruction_error
    from depgraph.repair.refit import refit as refit
    from depgraph.reporting.report import report as report
    from depgraph.rules import RULES as RULES
    from depgraph.solving.statements import Rule as Rule
    from depgraph.tracing.calls import Call as Call
    from depgraph.tracing.trace import trace as trace
    from depgraph.wrappers import name_of as name_of
    from depgraph.wrappers import names_of as names_of

__version__ = "0.1.0"

__all__ = [
    "RULES",
    "Call",
    "Dependency",
    "DepgraphError",
    "Graph",
    "Group",
    "IndexSet",
    "Magnitude",
    "Memory",
    "Node",
    "OpType",
    "Plan",
    "Repair",
    "Rule",
    "__version__",
    "candidates",
    "choosing",
    "combine",
    "criteria",
    "cut",
    "cut_each",
    "drop",
    "engines",
    "errors",
    "evolve",
    "execute",
    "execute_",
    "explain",
    "hf",
    "iterate",
    "latency",
    "mask",
    "mask_",
    "merge",
    "moments",
    "name_of",
    "names_of",
    "new_ids",
    "optimizers",
    "parameter_map",
    "pareto",
    "penalties",
    "plan",
    "plans",
    "prune_checkpoint",
    "ragged",
    "reconstruction_error",
    "refit",
    "repair",
    "report",
    "rules",
    "schedules",
    "score",
    "sensitivity",
    "teacher_view",
    "testing",
    "trace",
    "why",
]

_HOME_OF = {
    "Call": "depgraph.tracing.calls",
    "Dependency": "depgraph.graph.nodes",
    "DepgraphError": "depgraph.errors",
    "Graph": "depgraph.graph.graph",
    "Group": "depgraph.graph.groups",
    "IndexSet": "depgraph.algebra.indices",
    "Magnitude": "depgraph.criteria.weights",
    "Memory": "depgraph.choosing.memory",
    "Node": "depgraph.graph.nodes",
    "OpType": "depgraph.graph.records",
    "Plan": "depgraph.plans.plan",
    "RULES": "depgraph.rules",
    "Repair": "depgraph.execution.repairs",
    "Rule": "depgraph.solving.statements",
    "candidates": "depgraph.choosing.candidates",
    "combine": "depgraph.choosing.candidates",
    "cut": "depgraph.plans.by_hand",
    "cut_each": "depgraph.plans.by_hand",
    "drop": "depgraph.plans.by_hand",
    "evolve": "depgraph.choosing.evolution",
    "execute": "depgraph.execution.execute",
    "execute_": "depgraph.execution.execute",
    "explain": "depgraph.graph.explain",
    "iterate": "depgraph.iterating",
    "mask": "depgraph.execution.masking",
    "mask_": "depgraph.execution.masking",
    "merge": "depgraph.plans.algebra",
    "name_of": "depgraph.wrappers",
    "names_of": "depgraph.wrappers",
    "new_ids": "depgraph.execution.token_ids",
    "parameter_map": "depgraph.execution.execute",
    "pareto": "depgraph.choosing.search",
    "plan": "depgraph.choosing.choose",
    "prune_checkpoint": "depgraph.execution.checkpoints",
    "reconstruction_error": "depgraph.repair.expected",
    "refit": "depgraph.repair.refit",
    "report": "depgraph.reporting.report",
    "score": "depgraph.criteria.scoring",
    "sensitivity": "depgraph.measuring",
    "teacher_view": "depgraph.execution.views",
    "trace": "depgraph.tracing.trace",
    "why": "depgraph.plans.reasons",
}
"""In which module each name is defined."""

_SHELVES = {
    "rules": "depgraph.rules",
    "choosing": "depgraph.choosing",
    "criteria": "depgraph.criteria",
    "engines": "depgraph.choosing.engines",
    "errors": "depgraph.errors",
    "hf": "depgraph.hf",
    "moments": "depgraph.moments",
    "latency": "depgraph.choosing.latency",
    "optimizers": "depgraph.execution.optimizers",
    "penalties": "depgraph.penalties",
    "plans": "depgraph.plans",
    "repair": "depgraph.repair",
    "ragged": "depgraph.graph.ragged",
    "schedules": "depgraph.choosing.schedules",
    "testing": "depgraph.testing",
}
"""Which module holds the names of each topic."""


def __getattr__(name: str) -> Any:
    if name in _SHELVES:
        value: Any = import_module(_SHELVES[name])
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        near = get_close_matches(name, __all__, 1)
        hint = f"Did you mean {near[0]!r}?" if near else "dir(depgraph) lists its names; the others stand on shelves by topic."
        raise AttributeError(f"module 'depgraph' has no attribute {name!r}. {hint}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
