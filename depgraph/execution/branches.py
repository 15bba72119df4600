"""What stands where a residual branch has left: a module that adds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from depgraph.graph.branches import ZEROS
from depgraph.graph.paths import is_step
from depgraph.messages import shortened
from depgraph.plans.plan import Plan


class AddsNothing(nn.Module):
    """A module without parameters that returns zeros, of the shape of one of its arguments.

    It keeps the texts of the module whose place it takes, and the integers that say its place in a list. Where it is handed a
    cache of keys and values and knows its place, it adds an entry of one number for each token, for the length of a cache is
    that of its first layer.

    Args:
        like: which argument has the shape of what is returned, by position or keyword.
        returns: for each element of the tuple to return ``zeros``, the position or keyword of an argument that is handed on, or
            an empty text for None. Empty for one tensor alone.

    >>> branch = AddsNothing("hidden_states", ("zeros", ""))
    >>> branch(hidden_states=torch.ones(1, 2), attention_mask=None)
    (tensor([[0., 0.]]), None)
    >>> branch
    AddsNothing(like='hidden_states', returns=('zeros', None))
    """

    def __init__(self, like: str, returns: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.like, self.returns = like, returns

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros, alone or in a tuple."""
        given: dict[str, Any] = {**{str(place): item for place, item in enumerate(args)}, **kwargs}
        like = given[self.like]
        for cache in given.values():
            if callable(getattr(cache, "get_seq_length", None)):
                self._lengthen(cache, like, given)
        zeros = like.new_zeros(like.shape)
        if not self.returns:
            return zeros
        return tuple(zeros if item == ZEROS else given.get(item) for item in self.returns)

    def _lengthen(self, cache: Any, like: torch.Tensor, given: dict[str, Any]) -> None:
        """Let a cache know of the tokens that came, as the attention that stood here would have."""
        if any(given.get(name) is not None for name in _OF_ANOTHER_SEQUENCE) or not hasattr(self, "layer_idx"):
            return
        entry = like.new_zeros(like.shape[0], 1, like.shape[1], 1)
        getattr(cache, "self_attention_cache", cache).update(entry, entry, self.layer_idx)

    def extra_repr(self) -> str:
        """What it returns."""
        returns = f", returns={tuple(item or None for item in self.returns)}" if self.returns else ""
        return f"like={self.like!r}{returns}"


_OF_ANOTHER_SEQUENCE = ("encoder_hidden_states", "key_value_states")
"""What transformers passes to an attention whose keys and values are those of an encoder."""


def drop_branches(plan: Plan, model: nn.Module) -> None:
    """Let modules that add nothing take the places of branches. The plan fits the model; names are those of the base."""
    for branch in plan.branches:
        module = model.get_submodule(branch.path)
        stand_in = AddsNothing(branch.like, branch.returns)
        for name, content in vars(module).items():
            if is_step(name) and (type(content) is str or name in branch.keeps):
                vars(stand_in).setdefault(name, content)
        _replace(model, branch.path, stand_in.train(module.training))
        for path in branch.beside:
            _replace(model, path, nn.Identity().train(model.get_submodule(path).training))


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    around, _, name = path.rpartition(".")
    model.get_submodule(around)._modules[name] = module


def other_branches(plan: Plan, model: nn.Module) -> Iterator[str]:
    """The modules of branches that are not there, or stand under several names, one sentence each."""
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False) if plan.branches else ():
        paths.setdefault(id(module), []).append(path)
    names = {path: several for several in paths.values() for path in several}
    for branch in plan.branches:
        for path in branch.replaced:
            if path not in names:
                yield f"{shortened(repr(path))}: expected a module, met none"
            elif len(names[path]) > 1:
                yield f"{shortened(repr(path))}: expected a module of its own, met one that is {names[path][1]!r} as well"
        module = model.get_submodule(branch.path) if branch.path in names else None
        for name in branch.keeps if module is not None else ():
            met = vars(module).get(name)
            if type(met) is not int:
                yield f"attribute {shortened(repr(f'{branch.path}.{name}'))}: expected an integer, met {shortened(repr(met))}"
