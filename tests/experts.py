"""The oracle of experts: a forward in which the router can't choose some of them."""

import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_BEST = {torch.ops.aten.topk, torch.ops.aten.max, torch.ops.aten.argmax, torch.ops.aten._softmax, torch.ops.aten._log_softmax}


class NeverChosen(TorchDispatchMode):
    """Overwrites what a router compares at the given experts with minus infinity: its logits, and its scores with their bias.

    Router axes are known by their size, which no other compared axis of the model may have. Groups of experts are read as
    the experts that they hold.
    """

    def __init__(self, experts, removed):
        super().__init__()
        self.experts, self.removed, self.met = experts, list(removed), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in _BEST and isinstance(args[0], torch.Tensor):
            x = args[0]
            wide = x.ndim > 2 and x.shape[-1] * x.shape[-2] == self.experts and x.shape[-1] > 1
            if x.shape[-1:] == (self.experts,) or wide:
                self.met += 1
                flat = x.reshape(-1, self.experts).clone()
                flat[:, self.removed] = -math.inf
                args = (flat.reshape(x.shape), *args[1:])
        return func(*args, **(kwargs or {}))


def without_choosing(model, experts, removed, *args, **kwargs):
    """What the model returns where no expert of `removed` can be chosen."""
    with torch.no_grad(), NeverChosen(experts, removed) as mode:
        result = model(*args, **kwargs)
    assert mode.met, f"no router of {experts} experts was met"
    return result
