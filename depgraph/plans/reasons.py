"""Why something in a graph is as it is, and why a plan is refused."""

from __future__ import annotations

from depgraph.errors import MismatchError
from depgraph.graph.arguments import of_graph
from depgraph.graph.explain import explain_path
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Plan


@of_graph
def why(graph: Graph, what: str | Plan) -> str:
    """Why a part of a graph is coupled to what, limited or pinned; or why a plan is refused. As text for people.

    Args:
        graph: the traced model.
        what: the name of a group, a parameter or buffer (also with ``:dim`` behind it), an attribute such as
            ``conv1.out_channels``, a module, a list of modules, an operation; a pattern, such as ``role:head``; or a plan.

    Raises:
        UnknownNameError: the graph has nothing of this name; the message has near names.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.randn(1, 4))
    >>> print(dg.why(graph, "2.weight"))
    2.weight: parameter of shape (2, 8)
      dim 0 (size 2): pinned: it is a dimension of the model's output
      dim 1 (size 8): group 0.weight:0 (8 indices, 3 axes) of role channel
    >>> print(dg.why(graph, "2.in_features").splitlines()[0])
    attribute 2.in_features (8) counts 0.weight dim 0, 0.bias dim 0, 2.weight dim 1
    >>> plan = dg.cut(graph, "0.weight", [1], dim=0)
    >>> print(dg.why(graph, plan))
    the plan fits this graph
    >>> print(dg.why(plan.apply(graph), plan).splitlines()[0])
    the plan was made for another graph:
    """
    if not isinstance(what, Plan):
        return explain_path(graph, what)
    try:
        what.apply(graph)
    except MismatchError as error:
        return str(error)
    return "the plan fits this graph"
