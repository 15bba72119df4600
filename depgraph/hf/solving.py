"""Which values of a configuration give a pruned model's shapes: found by building, not looked up.

One number of the configuration is changed at a time, and the model is built on `meta`: sizes that follow say what the number
has to be. The values are proved by building once more.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import combinations, zip_longest
from math import inf, nextafter
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from attrs import field, frozen

from depgraph.hf.building import Config, Form, built, differences, form_of, keys_asked_for, unsaved_buffers
from depgraph.hf.keys import PER_LAYER, Number, moved_ids, numbers_in, original_config, with_entries, with_values
from depgraph.plans.plan import Plan

_MOST_TRIED = 6
"""So many values are tried of each key in a round: sizes that follow a key ask for one, or the layers differ."""

_DEPTH = "num_hidden_layers"
"""The key by which transformers itself counts the layers that `per_layer_config` speaks of."""

_MOST_PAIRS = 60
"""So many pairs of values are tried where no single one puts anything right."""

Values: TypeAlias = dict[str, Number | None]


@frozen
class Solution:
    """What a configuration can say of a pruned model.

    Attributes:
        original: the configuration before pruning.
        config: the one with the new values; it gives the whole model if there are no `problems`.
        values: key to new value, of the keys that the plan decides.
        before: key to old value, of those that the original configuration has.
        added: keys that it lacks, and that the class asks for all the same.
        problems: where a model built from `config` would be another one, a sentence each.
    """

    original: Config = field(repr=False)
    config: Config = field(repr=False)
    values: Values
    before: Values
    added: tuple[str, ...]
    problems: tuple[str, ...]


def solution_of(plan: Plan, model: Any, *, by_layer: bool = True) -> Solution:
    """The values that a pruned model asks of its configuration; `by_layer`: if single layers may have their own."""
    with _quiet():
        original = original_config(plan, model)
        search = _Search(type(model), original_config(plan, model, moved=True), model, plan)
        values = search.values()
        if by_layer and search.wrong(values) and search.layers_differ:
            layered = search.by_layer(values)
            values = values if search.wrong(layered) else layered
        decided = search.decided(values)
        config = search.config(decided)
        problems = tuple(_problems(search, config, model))
    before = {key: search.numbers[key] for key in decided if key not in search.lacking}
    before.update((key, search.whole[key]) for key in search.depth)
    added = tuple(key for key in decided if key in search.lacking)
    ids = moved_ids(plan)
    before.update((key, old) for key, (old, _) in ids.items())
    new = {key: new for key, (_, new) in ids.items()}
    return Solution(original, config, {**search.depth, **decided, **new}, before, added, problems)


class _Search:
    """Greedy: of all values the one that puts most right goes first; where none puts anything right, of all pairs of them."""

    def __init__(self, model_class: type[Any], original: Config, model: Any, plan: Plan) -> None:
        self._model_class, self._kind = model_class, type(original)
        self._attention = original._attn_implementation
        self.unread = [plan.name_after(item.path) or item.path for item in plan.unread]
        self._dict: dict[str, Any] = original.to_dict()
        self.lacking = keys_asked_for(model_class, original) - self._dict.keys()
        self.wanted = form_of(model, self.unread)
        self._saved = model.state_dict().keys()
        self._known: dict[tuple[tuple[str, Number | None], ...], Form | None] = {}
        self.whole = dict(numbers_in(self._dict))
        self.depth = self._shortened(plan)
        self._dict = with_values(self._dict, self.depth)
        self._known.clear()
        self.numbers = {**dict(numbers_in(self._dict)), **dict.fromkeys(sorted(self.lacking))}

    def _shortened(self, plan: Plan) -> Values:
        """The keys that count the elements of lists from which some leave, with how many stay; entries of lists go at once."""
        depth: Values = {}
        for drop in plan.drops:
            names = {path.rpartition(".")[2] for path in drop.sequence.counts}
            before, left = len(drop.sequence.elements), len(drop.left)
            for path, texts in drop.sequence.entries:
                kept = [texts[place] for place in drop.removed.complement(before)]
                self._dict = with_entries(self._dict, path.rpartition(".")[2], list(texts), kept)
            prefix = f"{plan.name_after(drop.sequence.path)}." if drop.sequence.path else ""
            keys = [key for key, number in self.whole.items() if number == before and key not in depth]
            for key in sorted(keys, key=lambda key: key.rpartition(".")[2] not in names):
                form = self.form({**depth, key: left})
                if form is not None and _elements(form, prefix) == _elements(self.wanted, prefix):
                    depth[key] = left
                    break
        return depth

    def config(self, values: Values) -> Config:
        """The configuration with other values."""
        config = self._kind.from_dict(with_values(self._dict, values))
        config._attn_implementation = self._attention
        return config

    def form(self, values: Values) -> Form | None:
        """The form of a model with these values; None if there is no such model."""
        key = tuple(sorted(values.items()))
        if key not in self._known:
            try:
                self._known[key] = form_of(built(self._model_class, self.config(values)), self.unread)
            except Exception:  # noqa: BLE001  classes refuse values in ways of their own, and any refusal is an answer
                self._known[key] = None
        return self._known[key]

    def values(self) -> Values:
        """The values with which least is wrong.

        Shapes may be right by other values than the attributes ask for: fewer heads, or smaller ones. Then the search begins
        again without a key that it has set, unless layers that were alike differ, for which there are no values.
        """
        values, wrong = self._descended(())
        if wrong and not self.layers_differ:
            for key in values:
                other, left = self._descended((key,))
                if left < wrong:
                    values, wrong = other, left
        return values

    def wrong(self, values: Values) -> int:
        """How much of a model with these values is not as in the pruned one."""
        form = self.form(values)
        return 1 if form is None else len(differences(self.wanted, form))

    def by_layer(self, values: Values) -> Values:
        """The values with those that single layers ask for besides, where the class reads such. No layer depends on others."""
        for prefix in [*self._towers()]:
            depth = int(self.numbers[f"{prefix}{_DEPTH}"] or 0)
            names = [key.removeprefix(prefix) for key in self._active if key.startswith(prefix)]
            names = [name for name in names if "." not in name and name != _DEPTH]
            for layer in range(depth):
                for name in names:
                    everywhere = values.get(f"{prefix}{name}", self.numbers[f"{prefix}{name}"])
                    self.numbers.setdefault(f"{prefix}{PER_LAYER}.{layer}.{name}", everywhere)
            read = [
                name
                for name in names
                if any(self._changed(f"{prefix}{PER_LAYER}.{layer}.{name}", values) for layer in {0, depth - 1})
            ]
            for layer in range(depth):
                values = self._layer_descended([f"{prefix}{PER_LAYER}.{layer}.{name}" for name in read], values)
        return values

    def _layer_descended(self, paths: Sequence[str], values: Values) -> Values:
        """The values to which steps at these keys lead that each put something right."""
        wrong = self.wrong(values)
        while True:
            moves = [(path, value) for path in paths for value in self._candidates(path, values)]
            left, better = self._best([{**values, path: value} for path, value in moves], wrong)
            if left == wrong:
                return values
            wrong, values = left, better

    def _towers(self) -> Iterator[str]:
        """The prefixes of keys that speak of numbered layers: of the whole, of a decoder of text, and the like."""
        for key, value in self.numbers.items():
            if key.rpartition(".")[2] == _DEPTH and type(value) is int and PER_LAYER not in key:
                yield key.removesuffix(_DEPTH)

    def _descended(self, without: Sequence[str]) -> tuple[Values, int]:
        """The values to which steps lead that each put something right, and how much is wrong with them."""
        values: Values = {}
        form = self.form(values)
        if form is None:
            return values, 0
        wrong = len(differences(self.wanted, form))
        alike = not self.layers_differ
        seen: dict[tuple[str, Number], None] = {}
        while wrong:
            keys = (key for key in self._active if key not in without)
            moves = [(key, value) for key in keys for value in self._candidates(key, values)]
            seen.update(dict.fromkeys(moves))
            left, better = self._best([{**values, key: value} for key, value in moves], wrong)
            if left == wrong and alike:
                pairs = [{**values, **dict(pair)} for pair in combinations(seen, 2) if pair[0][0] != pair[1][0]]
                left, better = self._best(pairs[:_MOST_PAIRS], wrong)
            if left == wrong:
                break
            wrong, values = left, better
        return values, wrong

    @cached_property
    def _active(self) -> list[str]:
        return [key for key in self.numbers if self._changed(key)]

    @cached_property
    def layers_differ(self) -> bool:
        """Whether tensors of numbered layers that had equal shapes have them no more."""
        shapes: dict[tuple[str, Any], set[Any]] = {}
        form = self.form({}) or {}
        for name in self._saved:
            shapes.setdefault((re.sub(r"\d+", "*", name), form.get(name)), set()).add(self.wanted.get(name))
        return any(len(found) > 1 for found in shapes.values())

    def _best(self, choices: Sequence[Values], wrong: int) -> tuple[int, Values]:
        """How much is wrong with the first of the best choices, if it is less than so much."""
        best: Values = {}
        for values in choices:
            form = self.form(values)
            if form is not None and (left := len(differences(self.wanted, form))) < wrong:
                wrong, best = left, values
        return wrong, best

    def _changed(self, key: str, values: Mapping[str, Number | None] = MappingProxyType({})) -> bool:
        """Whether anything of a model follows a key, beside other values; of a ratio, whether a size does."""
        base, value = self.form({**values}) or {}, self.numbers[key]
        forms = (self.form({**values, key: probe}) for probe in self._probes(value))
        if type(value) is float:
            return any(form is not None and any(form.get(path) != base.get(path) for path in self._saved) for form in forms)
        return any(form is not None and form != base for form in forms)

    def _probes(self, value: Number | None) -> tuple[Number, ...]:
        return (8, 64) if value is None else (2 * value, value + 1) if value else ()

    def _candidates(self, key: str, values: Values) -> list[Number]:
        """Values that would put a size right that follows the key, as if it followed in a straight line."""
        now, value = self.form(values), values.get(key, self.numbers[key])
        found: dict[Number, int] = {}
        for probe in self._probes(value):
            form = self.form({**values, key: probe})
            if form is None or now is None:
                continue
            for path, wanted in self.wanted.items():
                for old, new, goal in zip(*(_sizes(part.get(path)) for part in (now, form)), _sizes(wanted), strict=False):
                    if old != goal and new != old:
                        for candidate in (goal,) if value is None else _solved(value, probe, old, new, goal):
                            if candidate > 0 and candidate != value:
                                found[candidate] = found.get(candidate, 0) + 1
            if found:
                break
        return sorted(found, key=lambda candidate: -found[candidate])[:_MOST_TRIED]

    def decided(self, values: Values) -> Values:
        """The values of those keys of which everything that follows is right, when only these are set."""
        while True:
            right = {key: value for key, value in values.items() if self._is_decided(key, values)}
            if right == values:
                return values
            values = right

    def _is_decided(self, key: str, values: Values) -> bool:
        """Whether every axis of a saved tensor that follows a key is right at its new value; of attributes, where none does."""
        form = self.form(values)
        without = self.form({other: value for other, value in values.items() if other != key})
        if form is None:
            return False
        if without is None:
            return not differences(self.wanted, form)
        changed = differences(form, without)
        following = [path for path in changed if path in self._saved] or changed
        return all(
            now == goal
            for path in following
            for now, before, goal in zip_longest(*(_sizes(part.get(path)) for part in (form, without, self.wanted)))
            if now != before
        )


def _elements(form: Form, prefix: str) -> set[str]:
    """The names of a list's elements that hold anything, by what its paths begin with."""
    return {path.removeprefix(prefix).partition(".")[0] for path in form if path.startswith(prefix)}


def _sizes(value: Any) -> tuple[int, ...]:
    """The whole numbers of a shape or attribute."""
    if type(value) is int:
        return (value,)
    return value if isinstance(value, tuple) and all(type(item) is int for item in value) else ()


def _solved(value: Number, probe: Number, old: int, new: int, goal: int) -> Iterator[Number]:
    """The values at which a size is `goal`, if it goes from `old` to `new` as the value goes to `probe`.

    It may follow in a straight line, or as a share does: the size of a head follows the number of heads. Of a ratio's product
    classes take the whole part, which a ratio that is rounded down misses.
    """
    numerator, denominator = (goal - old) * (probe - value), new - old
    if isinstance(value, float) or isinstance(probe, float):
        ratio = value + numerator / denominator
        yield from (ratio, nextafter(ratio, inf))
        return
    if numerator % denominator == 0:
        yield value + numerator // denominator
    if goal and old * value == new * probe and old * value % goal == 0:
        yield old * value // goal


def _problems(search: _Search, config: Config, model: Any) -> Iterator[str]:
    """Where the model that is built from a configuration, as it is read back from its file, is another one."""
    config = type(config).from_dict(_stored(config))
    config._attn_implementation = search._attention
    try:
        fresh = built(type(model), config, buffers=True)
    except Exception as error:  # noqa: BLE001  told
        yield f"no model can be built from the configuration: {type(error).__name__}: {error}"
        return
    form = form_of(fresh, search.unread)
    buffers = unsaved_buffers(fresh)
    if search.layers_differ and differences(search.wanted, form):
        yield (
            f"layers that were alike differ, and {type(model).__name__} does not read such sizes from {PER_LAYER!r}, so that "
            "transformers itself cannot build it"
        )
    for path in sorted(differences(search.wanted, form), key=buffers.__contains__):  # what a checkpoint holds comes first
        yield f"{path!r}: the pruned model has {search.wanted.get(path)}, the configuration gives {form.get(path)}"
    for name, buffer in unsaved_buffers(model).items():
        other = buffers.get(name)
        if other is not None and other.shape == buffer.shape and not same_values(buffer, other):
            yield f"{name!r}: what the pruned model has of it is not what a smaller model computes"


def same_values(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same values, wherever they are, once the second one is cast as the first one was."""
    return torch.equal(one.detach().cpu(), other.detach().cpu().to(one.dtype))


def _stored(config: Config) -> dict[str, Any]:
    """What a configuration's file holds."""
    import json

    stored: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return stored


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' advice on configurations that are only tried."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def described(values: Mapping[str, Number | None], before: Mapping[str, Number | None]) -> str:
    """Keys with their old and new values, in words."""
    return ", ".join(f"{key} {before[key]} -> {value}" for key, value in values.items()) or "none"
