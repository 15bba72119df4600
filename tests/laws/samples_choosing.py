"""Samples of operators that move, take and count numbers of indices which the data chose."""

import torch

from tests.laws.drawing import Sample, call

_FIRST, _SECOND = "args[0]", "args[1]"


def _numbers(d, *shape, of):
    """Numbers of so many indices."""
    return d.below(of, *shape)


def _moved(name, *shape, **kwargs):
    """A call that moves numbers; its further arguments are functions of draws."""
    return lambda d: call(name, _numbers(d, *shape, of=5), *kwargs.get("args", ()), chosen={_FIRST: 5})


def _subscripted(d):
    return call("index.Tensor", d.tensor(5, d.size()), [_numbers(d, 3, 4, of=5)], chosen={"args[1][0]": 5})


def _behind(d):
    """The numbers are those of the first indices of an axis; what lies behind them is never chosen."""
    return call("index_select", d.tensor(7, d.size()), 0, _numbers(d, 4, of=5), chosen={"args[2]": 5})


def _picked(name, *more, **kwargs):
    def form(d):
        n = d.size()
        source = [d.tensor(n, 3)] if more == ("src",) else list(more)
        index = torch.stack([d.distinct(6, 3) for _ in range(n)])
        return call(name, d.tensor(n, 6), 1, index, *source, chosen={"args[2]": 6}, **kwargs)

    return form


def _added(d):
    n = d.size()
    return call("index_add", d.tensor(n, 6), 1, _numbers(d, 4, of=6), d.tensor(n, 4), chosen={"args[2]": 6})


def _binned(d):
    n = d.integers(4, 6)
    bins = lambda x, count: torch.histc(x, count, 0, count - 1)  # noqa: E731 - one number says how many there are
    return Sample(bins, (_numbers(d, 8, of=n).double(), n), over=((_FIRST, 0),), chosen={_FIRST: n})


def _counted(d):
    numbers = torch.cat([d.distinct(5, 5), _numbers(d, 4, of=5)])
    return call("bincount", numbers, None, 5, over=((_FIRST, 0),), chosen={_FIRST: 5})


def _joined(name):
    return lambda d: call(name, [_numbers(d, 3, of=5), _numbers(d, 3, of=5)], 0, chosen={f"{_FIRST}[{k}]": 5 for k in (0, 1)})


CHOOSING_ROWS = {
    "view": [_moved("view", 3, 4, args=([12],))],
    "transpose": [_moved("transpose.int", 3, 4, args=(0, 1))],
    "unsqueeze": [_moved("unsqueeze", 3, 4, args=(1,))],
    "expand": [_moved("expand", 3, 1, args=([3, 4],))],
    "select": [_moved("select.int", 3, 4, args=(1, 0))],
    "slice": [_moved("slice.Tensor", 3, 6, args=(1, 0, 4))],
    "unbind": [_moved("unbind.int", 3, 4, args=(1,))],
    "clone": [_moved("clone", 3, 4)],
    "_to_copy": [lambda d: call("_to_copy", _numbers(d, 3, 4, of=5), dtype=torch.float64, chosen={_FIRST: 5})],
    "copy": [lambda d: call("copy", d.tensor(3, 4, kind="int"), _numbers(d, 3, 4, of=5), chosen={_SECOND: 5})],
    "sort": [_moved("sort", 8)],
    "cat": [_joined("cat")],
    "stack": [_joined("stack")],
    "eq": [lambda d: call("eq.Scalar", _numbers(d, 3, 4, of=5), 2, chosen={_FIRST: 5})],
    "add": [lambda d: call("add.Scalar", _numbers(d, 3, 4, of=5), 2, chosen={_FIRST: 5})],
    "index": [_subscripted],
    "index_select": [_behind],
    "gather": [_picked("gather")],
    "scatter": [_picked("scatter.src", "src"), _picked("scatter.value", 0.5)],
    "scatter_add": [_picked("scatter_add", "src")],
    "index_add": [_added],
    "one_hot": [
        lambda d: call("one_hot", _numbers(d, d.size(), 3, of=5), 5, chosen={_FIRST: 5}),
        lambda d: call("one_hot", _numbers(d, d.size(), of=5), 7, chosen={_FIRST: 5}),
        lambda d: call("one_hot", d.distinct(5, 5), 5),
    ],
    "histc": [_binned],
    "bincount": [_counted],
}
