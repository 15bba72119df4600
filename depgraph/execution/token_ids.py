"""Ids of tokens for a model that has lost a part of its vocabulary."""

from __future__ import annotations

import torch

from depgraph.errors import PlanError, UnknownNameError
from depgraph.messages import shortened
from depgraph.plans.plan import Plan

_LISTED = 6


def new_ids(plan: Plan, ids: torch.Tensor, table: str | None = None, *, instead: int | None = None) -> torch.Tensor:
    """The ids that stand for the same tokens in the pruned model.

    Args:
        plan: a plan that cuts a vocabulary.
        ids: ids as they were before, in a tensor of integers of any shape. Negative ones, such as the -100 of labels that do
            not count, stay.
        table: the parameter that the ids look up; needed where the plan cuts several that keep different ids.
        instead: an id of before that takes the place of those that went, such as that of the unknown token.

    Raises:
        PlanError: the plan cuts no vocabulary, or several; an id is none of the table's, or went and there is no `instead`.
        UnknownNameError: the plan cuts no table of this name.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Embedding(6, 4), torch.nn.Linear(4, 2))
    >>> ids = torch.tensor([[0, 5, 3]])
    >>> plan = dg.cut(dg.trace(model, ids, free=["vocabulary"]), "0.weight", [1, 4], dim=0)
    >>> plan.kept_ids["0.weight"], dg.new_ids(plan, ids)
    (IndexSet('0,2-3,5'), tensor([[0, 3, 2]]))
    >>> torch.equal(dg.execute(plan, model)(dg.new_ids(plan, ids)), model(ids))
    True
    """
    if not isinstance(plan, Plan) or not isinstance(ids, torch.Tensor) or ids.is_floating_point() or ids.is_complex():
        met = f"{type(plan).__name__} and {type(ids).__name__}{f' of {ids.dtype}' if isinstance(ids, torch.Tensor) else ''}"
        raise PlanError(f"expected a Plan and a tensor of integers, met {met}.")
    name = _table(plan, table)
    kept = plan.kept_ids[name]
    size = next(item.space.size for item in plan.free if item.kind == "vocabulary" and item.name == name)
    numbers = torch.full((size,), -1, dtype=torch.long, device=ids.device)
    numbers[torch.tensor([*kept], device=ids.device)] = torch.arange(len(kept), device=ids.device)
    if instead is not None:
        if instead not in kept:
            raise PlanError(f"expected an id that {name!r} keeps as instead=, met {instead!r}.")
        numbers[numbers < 0] = numbers[instead].clone()
    beyond = ids[ids >= size]
    if beyond.numel():
        raise PlanError(f"expected ids below {size}, for so many {name!r} has, met {_listed(beyond)}.")
    result = torch.where(ids < 0, ids, numbers[ids.clamp(min=0).long()].to(ids.dtype))
    gone = ids[(ids >= 0) & (result < 0)]
    if gone.numel():
        raise PlanError(
            f"the ids {_listed(gone)} went from {name!r}. Leave them out, or say with instead= which id stands for them."
        )
    return result


def _table(plan: Plan, table: str | None) -> str:
    tables = plan.kept_ids
    if table is not None:
        if table not in tables:
            raise UnknownNameError("vocabulary that the plan cuts", table, tables)
        return table
    if len(set(tables.values())) != 1:
        several = f"several that keep different ids; give one of {', '.join(map(repr, tables))} as table="
        raise PlanError(f"expected a plan that cuts one vocabulary, met one that cuts {several if tables else 'none'}.")
    return next(iter(tables))


def _listed(ids: torch.Tensor) -> str:
    numbers = sorted(set(ids.flatten().tolist()))
    return shortened(", ".join(map(str, numbers[:_LISTED]))) + (", ..." if len(numbers) > _LISTED else "")
