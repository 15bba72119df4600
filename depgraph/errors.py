"""Exceptions. Each one says what was expected, what came, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from depgraph.messages import shortened

__all__ = [
    "DepgraphError",
    "DepgraphWarning",
    "DocumentError",
    "MismatchError",
    "PinnedError",
    "PlanError",
    "RuleError",
    "TraceError",
    "UnknownNameError",
    "UnreachedWarning",
    "UnsupportedError",
]

_LISTED = 40
"""So many problems a message lists: a plan for another model, or a damaged one, may have thousands."""


class DepgraphError(Exception):
    """Base of every error that depgraph raises on purpose. Whatever was refused, nothing has been changed.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Linear(4, 2), torch.zeros(1, 4))
    >>> try:
    ...     dg.cut(graph, "weight", [0], dim=0)
    ... except dg.DepgraphError as error:
    ...     print(type(error).__name__)
    PinnedError
    """


class TraceError(DepgraphError):
    """The model or its example inputs cannot be traced.

    >>> import torch, depgraph as dg
    >>> dg.trace(torch.relu, torch.zeros(1, 4))
    Traceback (most recent call last):
        ...
    depgraph.errors.TraceError: expected an nn.Module, met a builtin_function_or_method; wrap a function in a module.
    """


class UnknownNameError(DepgraphError):
    """A layer, parameter or group name that the graph does not have.

    Attributes:
        name: the name that was asked for.
        near: up to three names of the graph that look like it, the nearest first.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> dg.cut(graph, "0.wieght", [1], dim=0)
    Traceback (most recent call last):
        ...
    depgraph.errors.UnknownNameError: no tensor is called '0.wieght'; did you mean '0.weight', '1.weight', '0.bias'?
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        candidates = sorted(set(known))
        self.name = name
        self.near: tuple[str, ...] = tuple(difflib.get_close_matches(name, candidates, n=3, cutoff=0.4))
        hint = f"did you mean {', '.join(map(repr, self.near))}?" if self.near else "the graph has no name like it."
        super().__init__(f"no {kind} is called {name!r}; {hint}")


class PinnedError(DepgraphError):
    """An axis that cannot be pruned was asked to be.

    Attributes:
        reason: why the axis is pinned.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> dg.cut(graph, "1.weight", [0], dim=0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    depgraph.errors.PinnedError: axis 0 of '1.weight' is pinned: it is a dimension of the model's output. Nothing ...
    """

    def __init__(self, tensor: str, dim: int, reason: str) -> None:
        self.tensor, self.dim, self.reason = tensor, dim, reason
        super().__init__(f"axis {dim} of {tensor!r} is pinned: {reason}. Nothing was changed; leave this axis out of the plan.")


class PlanError(DepgraphError):
    """What a plan asks for is impossible on its graph.

    Attributes:
        problems: where several things are told at once, a sentence for each, with its fix.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> dg.cut(graph, "0.weight", range(8), dim=0)
    Traceback (most recent call last):
        ...
    depgraph.errors.PlanError: all 8 indices of axis 0 of '0.weight' would go; leave at least one. Nothing was changed.
    """

    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, problems: Sequence[str]) -> PlanError:
        """An error that tells every problem."""
        listed = "".join(f"\n  - {problem}" for problem in problems)
        several = f"{len(problems)} problems; nothing was changed:{listed}"
        error = cls(several if len(problems) != 1 else f"{problems[0]} Nothing was changed.")
        error.problems = tuple(problems)
        return error


class MismatchError(DepgraphError):
    """A plan meets a graph or a model it was not made for.

    Attributes:
        problems: every mismatch that was found, one sentence each. The message lists the first of them.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.Linear(8, 2))
    >>> plan = dg.cut(dg.trace(model, torch.zeros(1, 4)), "0.weight", [1], dim=0)
    >>> dg.execute(plan, dg.execute(plan, model))
    Traceback (most recent call last):
        ...
    depgraph.errors.MismatchError: the plan does not fit this model:
      - '0.weight': expected size 8 in dimension 0, met shape (7, 4)
      - '1.weight': expected size 8 in dimension 1, met shape (2, 7)
      - attribute '0.out_features': expected 8, met 7
      - attribute '1.in_features': expected 8, met 7
    Execute it on the model that it was made for, before any other change. Nothing was changed.
    """

    def __init__(self, headline: str, problems: Iterable[str], fix: str) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        listed = "".join(f"\n  - {shortened(problem)}" for problem in self.problems[:_LISTED])
        if len(self.problems) > _LISTED:
            listed += f"\n  - and {len(self.problems) - _LISTED:,} more"
        super().__init__(f"{headline}{listed}\n{fix} Nothing was changed.")


class DocumentError(DepgraphError):
    """A saved graph or plan is damaged, edited, foreign, or of another version.

    >>> import pathlib, tempfile, torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Linear(4, 2), torch.zeros(1, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "graph.json"
    ...     graph.save(path)
    ...     _ = path.write_text(path.read_text().replace("weight", "wieght"))
    ...     dg.Graph.load(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    depgraph.errors.DocumentError: ... was edited or damaged: its content does not match its digest. ...
    """


class UnsupportedError(DepgraphError):
    """A model in a form that cannot be pruned: sharded, offloaded, quantised, or held by a wrapper that would not notice.

    Attributes:
        problems: every form that was met, where, and what to do about it, one for each form.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> model[0].weight.ds_id, model[0].weight.ds_status = 0, "not available"           # as DeepSpeed marks its parameters
    >>> dg.trace(model, torch.zeros(1, 4))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    depgraph.errors.UnsupportedError: this model cannot be pruned in the form that it has:
      - DeepSpeed ZeRO keeps parameters apart, on other ranks: '0.weight (Parameter)'. Prune the whole model before ...
    Nothing was changed.
    """

    def __init__(self, headline: str, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{headline}{listed}\nNothing was changed.")


class DepgraphWarning(UserWarning):
    """Base of every warning that depgraph gives.

    >>> issubclass(UnreachedWarning, DepgraphWarning)
    True
    """


class UnreachedWarning(DepgraphWarning):
    """Modules with parameters that no traced call has reached: what they read may be pruned, and they may not run then.

    >>> import warnings, torch, depgraph as dg
    >>> class Spare(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.used, self.spare = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return self.used(x)
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     graph = dg.trace(Spare(), torch.zeros(1, 4))
    >>> caught[0].category.__name__, str(caught[0].message)[:53]
    ('UnreachedWarning', "1 of the model's modules were not reached: 'spare'. T")
    """


class RuleError(DepgraphError):
    """An operator's rule states equations that contradict the sizes it was given.

    >>> import torch, depgraph as dg
    >>> dg.trace(torch.nn.ReLU(), torch.zeros(1, 4), rules=dg.RULES | {"aten.rleu": dg.RULES["aten.relu"]})
    Traceback (most recent call last):
        ...
    depgraph.errors.RuleError: the rule table has entries that cannot be used:
      - 'aten.rleu': no such operator is registered; import the library that defines it before tracing, or correct the name
    """
