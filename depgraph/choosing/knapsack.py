"""One option from each class, the sum of losses least, within limits of costs that add up: the multiple-choice knapsack.

With a price on each cost, from the linear relaxation, every option has a reduced loss, its loss and what its costs are worth.
The sum of the smallest ones of all classes, less what the limits are worth, is a lower bound of any choice within the limits;
a choice is worse than it by at least the sum of what its options' reduced losses exceed the smallest by. So the choices within
a gap of the bound are few, and are enumerated class by class. The gap is doubled until enough of them are found.
(Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11; the states of dynamic programming by lists.)
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence
from operator import itemgetter, le
from typing import TypeAlias

from attrs import frozen

Number: TypeAlias = int | float


@frozen
class Option:
    """What one option of a class costs."""

    loss: float
    costs: tuple[Number, ...]


@frozen
class Found:
    """Which option of each class is chosen, and by how much the sum of losses may be above that of a better choice."""

    positions: tuple[int, ...]
    gap: float = 0.0


State: TypeAlias = tuple[float, tuple[Number, ...], float, object]
"""Excess over the bound, costs, loss, and the options as a linked list, the last one first."""


def best_choices(
    classes: Sequence[Sequence[Option]],
    limits: Sequence[Number],
    prices: Sequence[float],
    count: int,
    until: float = math.inf,
) -> list[Found]:
    """The choices with the smallest sums of losses, the best first, at most so many.

    Args:
        classes: the options of each class.
        limits: what each cost may be at most.
        prices: what a unit of each cost is worth, from 0 up. Any are right; those of the linear relaxation are fast.
        count: how many choices.
        until: a time of `time.monotonic`, after which the best choices that are known are given, or if there are none, one
            that is made by changing the options that break the limits for those of least cost.

    >>> classes = [[Option(0, (4,)), Option(1, (2,))], [Option(0, (4,)), Option(3, (1,))]]
    >>> [found.positions for found in best_choices(classes, [6], [0.5], 2)]
    [(1, 0), (0, 1)]
    """
    reduced = [[option.loss + _worth(prices, option.costs) for option in options] for options in classes]
    least = [min(values) for values in reduced]
    excess = [[value - low for value in values] for values, low in zip(reduced, least, strict=True)]
    bound = sum(least) - _worth(prices, limits)
    steps = sorted(value for values in excess for value in values if value > 0)
    gap = steps[len(steps) // 50] if steps else 1.0
    widest = sum(max(values) for values in excess) + _worth(prices, limits) + abs(bound) * 1e-9
    known: list[State] = []
    while True:
        states = _within(classes, excess, limits, gap, count, until)
        if states is None:
            return _best_known(known or _repaired(classes, excess, limits), bound, count)
        known = states or known
        good = [state for state in states if state[2] <= bound + gap]
        if len(good) >= count or gap > widest:
            states = good if len(good) >= count else states
            return [Found(_options(state)) for state in heapq.nsmallest(count, states, key=itemgetter(2))]
        gap *= 2


def _best_known(states: Sequence[State], bound: float, count: int) -> list[Found]:
    """The best of some choices, with how far each is above the bound of all."""
    best = heapq.nsmallest(count, states, key=itemgetter(2))
    return [Found(_options(state), max(0.0, state[2] - bound)) for state in best]


def _repaired(classes: Sequence[Sequence[Option]], excess: Sequence[Sequence[float]], limits: Sequence[Number]) -> list[State]:
    """One choice within the limits: where the smallest reduced losses break them, classes take options of least cost."""
    chosen = [min(range(len(values)), key=values.__getitem__) for values in excess]
    cheapest = [min(range(len(of)), key=lambda at, of=of: of[at].costs) for of in classes]  # type: ignore[misc]
    order = sorted(range(len(classes)), key=lambda k: excess[k][cheapest[k]] - excess[k][chosen[k]])
    for k in (*order, None):
        options = [of[at] for of, at in zip(classes, chosen, strict=True)]
        costs = tuple(sum(option.costs[n] for option in options) for n in range(len(limits)))
        if all(map(le, costs, limits)):
            link: object = None
            for each in enumerate(chosen):
                link = (*each, link)
            return [(0.0, costs, sum(option.loss for option in options), link)]
        if k is not None:
            chosen[k] = cheapest[k]
    return []


def _worth(prices: Sequence[float], costs: Sequence[Number]) -> float:
    return sum([price * cost for price, cost in zip(prices, costs, strict=True)])


def _within(
    classes: Sequence[Sequence[Option]],
    excess: Sequence[Sequence[float]],
    limits: Sequence[Number],
    gap: float,
    count: int,
    until: float,
) -> list[State] | None:
    """The choices whose excess is at most the gap and whose costs keep the limits, without those that enough others beat.

    None where the time is over.
    """
    order = sorted(range(len(classes)), key=lambda k: sum(value <= gap for value in excess[k]))
    smallest = [tuple(map(min, zip(*(option.costs for option in options), strict=True))) for options in classes]
    remaining = [tuple(0 for _ in limits)]
    for k in reversed(order):
        remaining.append(tuple(map(sum, zip(remaining[-1], smallest[k], strict=True))))
    states: list[State] = [(0.0, tuple(0 for _ in limits), 0.0, None)]
    for k, least in zip(order, reversed(remaining[:-1]), strict=True):
        room = [limit - each for limit, each in zip(limits, least, strict=True)]
        alive = [
            (position, value, option)
            for position, (value, option) in enumerate(zip(excess[k], classes[k], strict=True))
            if value <= gap
        ]
        made: list[State] = []
        for number, (total, costs, loss, before) in enumerate(states):
            if not number % 1024 and time.monotonic() > until:
                return None
            for position, value, option in alive:
                if total + value <= gap:
                    summed = tuple([a + b for a, b in zip(costs, option.costs, strict=True)])
                    if all(map(le, summed, room)):
                        made.append((total + value, summed, loss + option.loss, (k, position, before)))
        states = _undominated(made, count)
    return states


def _undominated(states: list[State], count: int) -> list[State]:
    """The states that fewer than so many others beat: with costs and a loss that are no larger."""
    if len(states) < 2:
        return states
    states.sort(key=itemgetter(1, 2))
    kept: list[State] = []
    if len(states[0][1]) == 1:
        lowest: list[float] = []  # the smallest losses so far, negated, the largest of them first
        for state in states:
            if len(lowest) < count:
                heapq.heappush(lowest, -state[2])
            elif state[2] < -lowest[0]:
                heapq.heapreplace(lowest, -state[2])
            else:
                continue
            kept.append(state)
        return kept
    costs: tuple[Number, ...] | None = None
    same = 0
    for state in states:
        same = same + 1 if state[1] == costs else 1
        costs = state[1]
        if same <= count:
            kept.append(state)
    return kept


def _options(state: State) -> tuple[int, ...]:
    """The options of a state, in the order of the classes."""
    chosen: dict[int, int] = {}
    link = state[3]
    while isinstance(link, tuple):
        k, position, link = link
        chosen[k] = position
    return tuple(chosen[k] for k in range(len(chosen)))
