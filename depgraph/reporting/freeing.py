"""What would free a pinned axis, by what pins it."""

from __future__ import annotations

import re

_WAYS = (
    (r"is a dimension of the model's input", "The inputs come from outside: prune them by giving the model other inputs."),
    (r"is a dimension of the model's", "Trace a model that ends earlier, such as the backbone without its head."),
    (r"indexed by the data \(a vocabulary\)", "Make the vocabulary smaller together with the tokenizer; no index is spare."),
    (r"is not used in forward", "Call what uses it, too: dg.trace(..., also=[...]); or leave it, it costs no time."),
    (r"there is no rule for", "Give the operator a rule: dg.trace(..., rules=...), or one for the module or function."),
    (r"the rule for .* (says nothing|does not fit|equates)", "The rule does not cover this call: give one of your own."),
    (r"kernel (axis|positions)|counts the kernel", "Kernel positions are not indices: choose another kernel size before training."),
    (r"gates of a recurrent cell|layers and directions", "A recurrent layer needs them all: its hidden size is the group."),
    (r"named by|named in|names it|names its size|named as", "Write the number as a size in forward: x.shape[i] or an attribute."),
    (r"compared with|is compared|comparison", "Let forward compare sizes in a way that sizes decide, or not at all."),
    (r"takes a fixed position|writes to a fixed position|cuts it at a position|cuts it into unequal|leaves a remainder",
     "Compute the position from sizes: x.shape[i] // 2 instead of a number."),
    (r"positions|remainder", "Positions carry a meaning of their own here; nothing would free them but another operator."),
    (r"falls into single indices|do not nest", "Both sides read the axis in blocks that do not fit: use blocks that divide each other."),
    (r"no parameter holds it", "Nothing to gain: no parameter has this axis."),
    (r"size", "Let forward take the number from x.shape or from an attribute of the layer, so that it is followed."),
)  # fmt: skip
"""A part of a reason, and what one does about it; the first that fits counts."""


def way_out(reason: str) -> str:
    """What would free an axis that is pinned for this reason.

    >>> way_out("it is a dimension of the model's output['logits']")
    'Trace a model that ends earlier, such as the backbone without its head.'
    """
    for part, way in _WAYS:
        if re.search(part, reason):
            return way
    return "Its place in forward is named in the reason: write it with operators that keep indices apart."
