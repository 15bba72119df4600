"""Exceptions. Each one says what was expected, what was met, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from depgraph.messages import shortened

_LISTED = 40
"""So many problems a message lists: a plan for another model, or a damaged one, may have thousands."""


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
    """What a plan asks for is impossible on its graph.

    Attributes:
        problems: where several things are told at once, a sentence for each, with its fix.
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
    """

    def __init__(self, headline: str, problems: Iterable[str], fix: str) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        listed = "".join(f"\n  - {shortened(problem)}" for problem in self.problems[:_LISTED])
        if len(self.problems) > _LISTED:
            listed += f"\n  - and {len(self.problems) - _LISTED:,} more"
        super().__init__(f"{headline}{listed}\n{fix} Nothing was changed.")


class DocumentError(DepgraphError):
    """A saved graph or plan is damaged, edited, foreign, or of another version."""


class RuleError(DepgraphError):
    """An operator's rule states equations that contradict the sizes it was given."""
