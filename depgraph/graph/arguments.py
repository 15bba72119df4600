"""What functions are given in the place of a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from os import PathLike
from typing import ParamSpec, TypeVar

from depgraph.errors import PlanError
from depgraph.graph.graph import Graph

P = ParamSpec("P")
T = TypeVar("T")


def of_graph(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function whose first argument is a graph refuse anything else, before it looks at its other arguments.

    >>> of_graph(lambda graph, name: 0)("model.json", name="0.weight")
    Traceback (most recent call last):
        ...
    depgraph.errors.PlanError: expected a Graph, met str; load a file with dg.Graph.load(path). Nothing was changed.
    """
    first = next(iter(signature(function).parameters))

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        if args:
            check_graph(args[0])
        elif first in kwargs:
            check_graph(kwargs[first])
        return function(*args, **kwargs)

    return checked


def check_graph(value: object, fix: str = "pass what dg.trace(model, inputs) returned") -> None:
    """Raise `PlanError` for what is no graph."""
    if isinstance(value, Graph):
        return
    fix = "load a file with dg.Graph.load(path)" if isinstance(value, (str, PathLike)) else fix
    raise PlanError(f"expected a Graph, met {type(value).__name__}; {fix}. Nothing was changed.")
