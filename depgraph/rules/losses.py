"""Rules of losses: a model may return its loss."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import broadcast, family, mixes_all, pinned, table
from depgraph.solving.statements import Call, Rule, Statement, Value

_CLASSES = "targets of {} number its classes"


def _pointwise(call: Call) -> Iterator[Statement]:
    """Predictions and targets match element by element; the loss is one number, or has their shape."""
    widest = max(call.inputs, key=lambda value: (value.ndim, value.shape))
    for value in call.inputs:
        yield from broadcast(value.axes, widest.axes)
    for out in call.outputs:
        yield from broadcast(out.axes, widest.axes)


def _classes(call: Call) -> Iterator[Statement]:
    """Scores by class: targets are numbers of classes, or weights of the scores' own shape."""
    x, target, weight = call["self"], call["target"], call["weight"]
    dim = 1 if x.ndim > 1 else 0
    rest = [axis for position, axis in enumerate(x.axes) if position != dim]
    reason = _CLASSES.format(call.op)
    yield from pinned((x[dim],), reason)
    if isinstance(weight, Value):
        yield from pinned(weight.axes, reason)
    if target.shape == x.shape and x.ndim > 0:
        yield from broadcast(target.axes, x.axes)
    else:
        yield from broadcast(target.axes, rest)
    for out in call.outputs:
        yield from broadcast(out.axes, rest)


def _numbered(call: Call) -> Iterator[Statement]:
    """The target is a list of classes, as long as the scores, which are pinned; batches match."""
    x = call["self"]
    reason = _CLASSES.format(call.op)
    for value in (*call.inputs, *call.outputs):
        if x.ndim > 1 and value.ndim:
            yield from broadcast(value.axes[:1], x.axes[:1])
        yield from pinned(value.axes[1:] if x.ndim > 1 else value.axes, reason)


RULES: dict[str, Rule] = {
    **family(
        "mse_loss l1_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits "
        "kl_div poisson_nll_loss",
        _pointwise,
        "REDUCE",
        mixes_all,
    ),
    **family(
        "cross_entropy_loss nll_loss nll_loss2d nll_loss_nd nll_loss_forward nll_loss2d_forward multi_margin_loss",
        _classes,
        "REDUCE",
        mixes_all,
    ),
    **family("multilabel_margin_loss multilabel_margin_loss_forward", _numbered, "REDUCE", mixes_all),
    **table("ctc_loss _ctc_loss _cudnn_ctc_loss miopen_ctc_loss", "{} aligns its classes and time with targets"),
    **table("_use_cudnn_ctc_loss _use_miopen_ctc_loss", "{} asks about its targets"),
}
