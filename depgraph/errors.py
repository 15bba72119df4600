"""Exceptions. Each one says what was expected, what was met, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DepgraphError(Exception):
    """Base of every error that depgraph raises on purpose."""


class TraceError(DepgraphError):
    """The model or its example inputs cannot be traced."""


class UnknownNameError(DepgraphError):
    """A layer, parameter or group name that the graph does not have.

    Attributes:
        name: the name that was asked for.
        near: names of the graph that look like it.
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
    """

    def __init__(self, tensor: str, dim: int, reason: str) -> None:
        self.tensor, self.dim, self.reason = tensor, dim, reason
        super().__init__(f"axis {dim} of {tensor!r} is pinned: {reason}. Nothing was changed; leave this axis out of the plan.")


class PlanError(DepgraphError):
    """What a plan asks for is impossible on its graph."""


class MismatchError(DepgraphError):
    """A plan meets a graph or a model it was not made for.

    Attributes:
        problems: every mismatch that was found, one sentence each.
    """

    def __init__(self, headline: str, problems: Iterable[str], fix: str) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{headline}{listed}\n{fix} Nothing was changed.")


class DocumentError(DepgraphError):
    """A saved graph or plan is damaged, edited, foreign, or of another version."""


class UnsupportedError(DepgraphError):
    """A model in a form that cannot be pruned: sharded, offloaded, quantised, or held by a wrapper that would not notice.

    Attributes:
        problems: every form that was met, where, and what to do about it, one sentence each.
    """

    def __init__(self, headline: str, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{headline}{listed}\nNothing was changed.")


class RuleError(DepgraphError):
    """An operator's rule states equations that contradict the sizes it was given."""
