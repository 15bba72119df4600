"""Rules of recurrent networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest

from attrs import evolve

from depgraph.rules.common import broadcast, family, named, passed, pinned, table, values
from depgraph.solving.statements import (
    Call,
    Equal,
    Fresh,
    Larger,
    Named,
    Pin,
    Plus,
    Rule,
    Statement,
    Term,
    Times,
    Traits,
    Value,
    Work,
    pin_all,
)


def _biased(call: Call) -> Traits:
    """Vectors are biases. All axes may be mixed, for hidden units depend on each other, and tokens on earlier ones."""
    return Traits(offsets=tuple(value for value in call.inputs if value.ndim == 1))


def _recurrent(gates: int) -> Rule:
    def equations(call: Call) -> Iterator[Statement]:
        packed = isinstance(call["data"], Value)
        x, out = call["data"] if packed else call["input"], call.out
        states: list[Value] = list(call["hx"]) if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
        weights: list[Value] = list(call["params"])
        reported = call.outputs[1 : 3 if gates == 4 else 2]
        directions = 2 if call["bidirectional"] else 1
        cells = int(call["num_layers"]) * directions
        per_cell = len(weights) // cells
        projected = per_cell in {3, 5}
        hidden = Fresh(weights[1].shape[0] // gates)
        visible: Term = Fresh(weights[1].shape[1]) if projected else hidden
        if projected:
            yield Larger(hidden, visible, f"{call.op} projects to fewer units than the hidden ones")
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
        for value, width in zip_longest(reported, (visible, hidden)[: len(reported)]):
            yield Equal(value[-1], width)
        batch, time = (x[0], 1) if call["batch_first"] and x.ndim == 3 else (x[-2], 0)
        yield from pinned((x[time], out[time]), f"{call.op} runs along it, so its order matters")
        for value in (*states, *reported):
            yield Pin(value[0], "it counts the layers and directions of a recurrent network")
            if packed:
                yield Pin(value[1], _PACKED)
            elif value.ndim == 3:
                yield from broadcast((value[1],), (batch,))
        if packed:
            yield from pinned((*call["batch_sizes"].axes, x[0]), _PACKED)
        for value in call.outputs[1 + len(reported) :]:
            yield from pinned(value.axes, f"it is what {call.op} keeps for its gradient")

    return Rule(equations, "LSTM", _biased)


_PACKED = "it counts the rows of packed sequences, which the data gives"


def _cell(gates: int) -> Rule:
    """One step of one cell, with its parameters."""

    def equations(call: Call) -> Iterator[Statement]:
        x, inputs, recurrent = call["input"], call["w_ih"], call["w_hh"]
        hidden, count = Fresh(recurrent.shape[1]), Fresh(gates)
        yield Pin(count, "it counts the gates of a recurrent cell")
        yield Equal(inputs[1], x[-1])
        yield Equal(recurrent[1], hidden)
        for value in (inputs, recurrent, call["b_ih"], call["b_hh"]):
            if isinstance(value, Value):
                yield Equal(value[0], Times((count, hidden)))
        for state in (*values(call["hx"]), *call.outputs):
            yield Equal(state[-1], hidden)
            yield from broadcast(state.axes[:-1], x.axes[:-1])
        for weight in (inputs, recurrent):
            yield Work((*x.axes[:-1], *weight.axes))

    return Rule(equations, "LSTM", _biased)


def _fused_cell(gates: int) -> Rule:
    """One step of one cell, given its products with the weights."""

    def equations(call: Call) -> Iterator[Statement]:
        before = named(call, "cx", "hx")
        assert before is not None, "a cell has a state"
        count = Fresh(gates)
        yield Pin(count, "it counts the gates of a recurrent cell")
        for name in ("input_gates", "hidden_gates", "input_bias", "hidden_bias"):
            if isinstance(call[name], Value):
                yield Equal(call[name][-1], Times((count, before[-1])))
        for name in ("input_gates", "hidden_gates"):
            yield Equal(call[name][0], before[0])
        for value in call.outputs[:-1]:
            yield from passed(before, value)
        gate_values = call.outputs[-1]
        parts = Fresh(gate_values.shape[-1] // before.shape[-1])
        yield Pin(parts, f"it counts what {call.op} keeps of every unit for its gradient")
        yield Equal(gate_values[-1], Times((parts, before[-1])))
        yield Equal(gate_values[0], before[0])

    return Rule(equations, "LSTM", _biased)


def _mkldnn_layer(call: Call) -> Iterator[Statement]:
    """One layer in one direction of an LSTM."""
    x, out, hidden = call["input"], call.out, Fresh(int(call["hidden_size"]))
    count = Fresh(call["weight0"].shape[0] // hidden.size)
    yield Pin(count, "it counts the gates of a recurrent cell")
    yield Named(hidden, call["hidden_size"])
    yield Equal(call["weight0"][1], x[-1])
    yield Equal(call["weight1"][1], hidden)
    for name in ("weight0", "weight1", *(("weight2", "weight3") if call["has_biases"] else ())):
        yield Equal(call[name][0], Times((count, hidden)))
    if not call["has_biases"]:
        for name in ("weight2", "weight3"):
            yield from pinned(call[name].axes, f"{call.op} does not read it")
    for before, after in zip(x.axes[:-1], out.axes, strict=False):
        yield Equal(before, after)
    time = 1 if call["batch_first"] else 0
    yield from pinned((x[time], out[time]), f"{call.op} runs along it, so its order matters")
    for value in (out, call["hx_"], call["cx_"], *call.outputs[1:3]):
        if value.shape[-1:] == (hidden.size,):
            yield Equal(value[-1], hidden)
    for value in (call["hx_"], call["cx_"], *call.outputs[1:3]):
        if value.ndim == 3:
            yield Pin(value[0], "it counts the layers and directions of a recurrent network")
            yield from broadcast((value[1],), (x[0] if call["batch_first"] else x[1],))
    yield from pinned(call.outputs[3].axes, f"it is what {call.op} keeps for its gradient")


_GATES = {0: 1, 1: 1, 2: 4, 3: 3}
"""Gates for each mode of cuDNN: two plain networks, LSTM, GRU."""


def _cudnn(call: Call) -> Iterable[Statement]:
    if isinstance(call["weight_buf"], Value):
        return pin_all(call, f"the weights of {call.op} also lie in one flat buffer")
    states = [value for value in (call["hx"], call["cx"]) if isinstance(value, Value)]
    gates = _GATES[int(call["mode"])]
    if call["batch_sizes"]:
        return pin_all(call, f"{call.op} takes packed sequences")
    args = {**call.args, "params": call["weight"], "hx": states}
    results = call.outputs[: 3 if gates == 4 else 2]
    other_axes = [axis for value in call.outputs[len(results) :] for axis in value.axes]
    sizes = [Named(states[-1][-1], call["hidden_size"])]
    inner = evolve(call, args=args, outputs=results)
    reason = f"it is what {call.op} keeps for its gradient"
    return [*_recurrent(gates).equations(inner), *sizes, *pinned(other_axes, reason)]


def _pack(call: Call) -> Iterator[Statement]:
    """Batch and time become rows; the axes behind them pass."""
    x, data, counts = call["input"], call.out, call.outputs[1]
    for before, after in zip(x.axes[2:], data.axes[1:], strict=True):
        yield Equal(before, after)
    yield from pinned((*x.axes[:2], *call["lengths"].axes, data[0], *counts.axes), _PACKED)


def _unpack(call: Call) -> Iterator[Statement]:
    data, out, lengths = call["data"], call.out, call.outputs[1]
    for before, after in zip(data.axes[1:], out.axes[2:], strict=True):
        yield Equal(before, after)
    yield from pinned((data[0], *call["batch_sizes"].axes, *out.axes[:2], *lengths.axes), _PACKED)


RULES: dict[str, Rule] = {
    "aten.lstm": _recurrent(4),
    "aten.gru": _recurrent(3),
    "aten.rnn_tanh": _recurrent(1),
    "aten.rnn_relu": _recurrent(1),
    "aten._lstm_mps": _recurrent(4),
    "aten.lstm_cell": _cell(4),
    "aten.gru_cell": _cell(3),
    "aten.rnn_tanh_cell": _cell(1),
    "aten.rnn_relu_cell": _cell(1),
    "aten._thnn_fused_lstm_cell": _fused_cell(4),
    "aten._thnn_fused_gru_cell": _fused_cell(3),
    **family("mkldnn_rnn_layer", _mkldnn_layer, "LSTM", _biased),
    **family("_cudnn_rnn miopen_rnn", _cudnn, "LSTM", _biased),
    **table("_cudnn_rnn_flatten_weight", "{} lays all weights into one flat buffer"),
    **family("_pack_padded_sequence", _pack, "RESHAPE"),
    **family("_pad_packed_sequence", _unpack, "RESHAPE"),
}
