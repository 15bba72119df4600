"""A call of a model beside the first one, for `dg.trace(..., also=[...])`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import field, frozen


@frozen(eq=False)
class Call:
    """A further call that the pruned model must support, such as one in training, or with a cache.

    Attributes:
        args: a tensor, a tuple or list of positional arguments, or a mapping, as for `trace`.
        kwargs: keyword arguments.
        training: whether the model is in training mode; None: as it is.
        autocast: the type to which torch casts by itself on the model's device, such as ``torch.bfloat16``; None: it does not.
        method: the method of the model that is called.

    >>> import depgraph as dg
    >>> class Supervised(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.stem, self.head, self.aux = torch.nn.Linear(4, 6), torch.nn.Linear(6, 2), torch.nn.Linear(6, 3)
    ...     def forward(self, x):
    ...         x = self.stem(x)
    ...         return (self.head(x), self.aux(x)) if self.training else self.head(x)
    >>> model, x = Supervised().eval(), torch.zeros(1, 4)
    >>> graph = dg.trace(model, x, also=[dg.Call(x, training=True)])
    >>> plan = dg.cut(graph, "stem.weight", [0, 3], dim=0)
    >>> dict(plan.kept["aux.weight"]), [out.shape for out in dg.execute(plan, model).train()(x)]
    ({1: IndexSet('1-2,4-5')}, [torch.Size([1, 2]), torch.Size([1, 3])])
    """

    args: Any = ()
    kwargs: Mapping[str, Any] = field(factory=dict)
    training: bool | None = None
    autocast: torch.dtype | None = None
    method: str = "forward"
