"""A pruned model's own configuration, brought up to date."""

from __future__ import annotations

from typing import Any

from depgraph.hf.building import checked_model
from depgraph.hf.keys import RECORD, Number, all_or_nothing, recorded, set_values
from depgraph.hf.solving import solution_of
from depgraph.plans.plan import Plan


def update_config_(plan: Plan, model: Any) -> dict[str, tuple[Number | None, Number | None]]:
    """Write the sizes of a pruned model to its configuration, as far as one number says what is true in all layers.

    What stood there before is kept in the configuration's entry ``depgraph``, so that `save_pretrained` still finds it. A
    failure leaves the configuration as it was.

    Args:
        plan: what was removed.
        model: what `dg.execute` returned.

    Returns:
        Key to (old value, new value). Keys of a nested configuration are dotted.

    Raises:
        PlanError: the arguments are no plan and no model of transformers.
        MismatchError: the model is not what the plan leads to.

    >>> import torch, depgraph as dg
    >>> small = dg.execute(plan, model)                                             # doctest: +SKIP
    >>> dg.hf.update_config_(plan, small)                                           # doctest: +SKIP
    {'hidden_size': (128, 64), 'num_attention_heads': (8, 4), 'num_key_value_heads': (2, 1)}
    >>> linear = torch.nn.Linear(4, 2)
    >>> dg.hf.update_config_(dg.Plan.empty(dg.trace(linear, torch.zeros(1, 4))), linear)
    Traceback (most recent call last):
        ...
    depgraph.errors.PlanError: expected a Plan and a model of transformers, met (Plan, Linear). Nothing was changed.
    """
    checked_model(plan, model)
    solution = solution_of(plan, model, by_layer=False)
    old, added = recorded(model.config)
    with all_or_nothing(model.config, [*solution.values, RECORD]):
        set_values(model.config, solution.values)
        setattr(model.config, RECORD, {"before": {**solution.before, **old}, "added": sorted({*added, *solution.added})})
    return {key: (solution.before.get(key), value) for key, value in solution.values.items()}
