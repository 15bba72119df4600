"""Rules of recurrent networks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from depgraph.equations import Call, Equal, Fresh, Pin, Plus, Rule, Statement, Term, Times, Value, Work


def _recurrent(gates: int) -> Rule:
    def equations(call: Call) -> Iterator[Statement]:
        x, out = call["input"], call.out
        states: list[Value] = list(call["hx"]) if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
        weights: list[Value] = list(call["params"])
        directions = 2 if call["bidirectional"] else 1
        cells = int(call["num_layers"]) * directions
        per_cell = len(weights) // cells
        projected = per_cell in {3, 5}
        hidden = Fresh(weights[1].shape[0] // gates)
        visible: Term = Fresh(weights[1].shape[1]) if projected else hidden
        four = Fresh(gates)
        yield Pin(four, "it counts the gates of a recurrent cell")
        below: Term = x[-1]
        tokens = x.axes[:-1]
        for layer in range(int(call["num_layers"])):
            for direction in range(directions):
                start = (layer * directions + direction) * per_cell
                cell = weights[start : start + per_cell]
                yield Equal(cell[0][1], below)
                yield Equal(cell[1][1], visible)
                for weight in cell[: per_cell - projected]:
                    yield Equal(weight[0], Times((four, hidden)))
                if projected:
                    yield Equal(cell[-1][0], visible)
                    yield Equal(cell[-1][1], hidden)
                for weight in cell:
                    if weight.ndim == 2:
                        yield Work((*tokens, *weight.axes))
            below = Plus((visible,) * directions)
        yield Equal(out[-1], below)
        for before, after in zip(tokens, out.axes, strict=False):
            yield Equal(before, after)
        for value, width in zip_longest(states, (visible, hidden)[: len(states)]):
            yield Equal(value[-1], width)
        for value, width in zip_longest(call.outputs[1:], (visible, hidden)[: len(call.outputs) - 1]):
            yield Equal(value[-1], width)
        for value in (*states, *call.outputs[1:]):
            yield Pin(value[0], "it counts the layers and directions of a recurrent network")

    return Rule(equations, "LSTM")


RULES: dict[str, Rule] = {
    "aten.lstm": _recurrent(4),
    "aten.gru": _recurrent(3),
    "aten.rnn_tanh": _recurrent(1),
    "aten.rnn_relu": _recurrent(1),
}
