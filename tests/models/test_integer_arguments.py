"""Sizes that reach an operator as an integer that names no axis: strides, positions, counts. Nothing is silently wrong."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import depgraph as dg

X = torch.randn(3, 6)

FORMS = {
    "adaptive_avg_pool1d": lambda s, x, h, n: F.adaptive_avg_pool1d(x[:, None], n // 4),
    "interpolate size": lambda s, x, h, n: F.interpolate(x[:, None], size=n),
    "interpolate scale": lambda s, x, h, n: F.interpolate(x[:, None], scale_factor=n // 4),
    "avg_pool1d": lambda s, x, h, n: F.avg_pool1d(x[:, None], n // 4),
    "max_pool1d stride": lambda s, x, h, n: F.max_pool1d(x[:, None], 2, n // 4),
    "conv1d stride": lambda s, x, h, n: F.conv1d(x[:, None], s.kernel, stride=n // 4),
    "conv1d padding": lambda s, x, h, n: F.conv1d(x[:, None], s.kernel, padding=n // 4),
    "conv1d dilation": lambda s, x, h, n: F.conv1d(x[:, None], s.kernel, dilation=n // 4),
    "unfold size": lambda s, x, h, n: x.unfold(1, n // 2, 1),
    "unfold step": lambda s, x, h, n: x.unfold(1, 4, n // 2),
    "one_hot": lambda s, x, h, n: F.one_hot(x.argmax(1), n).float(),
    "arange": lambda s, x, h, n: torch.arange(n).float() * x[:, :1],
    "linspace": lambda s, x, h, n: torch.linspace(0, 1, n) * x[:, :1],
    "embedding of arange": lambda s, x, h, n: F.embedding(torch.arange(n) % 3, s.table),
    "histc": lambda s, x, h, n: torch.histc(x, n),
    "roll": lambda s, x, h, n: x.roll(n, 1),
    "index": lambda s, x, h, n: x[:, n // 2],
    "select": lambda s, x, h, n: x.select(1, n // 4),
    "tril": lambda s, x, h, n: x.tril(n // 4),
    "diagonal": lambda s, x, h, n: x.diagonal(n // 8),
    "kthvalue": lambda s, x, h, n: x.kthvalue(n // 4, 1)[0],
    "shifted": lambda s, x, h, n: x[:, : n >> 2],
    "end": lambda s, x, h, n: x[:, : n // 8],
    "end where a step is 1": lambda s, x, h, n: x[:, : n // 8 : 1],
    "start": lambda s, x, h, n: x[:, n // 8 :],
    "own end": lambda s, x, h, n: h[:, : n // 8],
    "behind the end": lambda s, x, h, n: x[:, :n],
    "behind the end, after an ellipsis": lambda s, x, h, n: x[..., None, :n],
    "before the start": lambda s, x, h, n: x[:, -n:],
    "least of two": lambda s, x, h, n: x[:, : min(n, 10)],
    "pad": lambda s, x, h, n: F.pad(x, (-(n // 8), 0)),
    "split with a remainder": lambda s, x, h, n: x.split(n // 2, 1)[0],
    "a remainder": lambda s, x, h, n: x[:, : 1 + n % 3],
    "an integer again": lambda s, x, h, n: x[:, : int(n) // 4],
    "a name": lambda s, x, h, n: x * {"8": 2.0}.get(f"{n}", 3.0),
    "a key": lambda s, x, h, n: x * {8: 2.0}.get(n, 3.0),
    "bits": lambda s, x, h, n: x[:, : (n & 7) + 1],
    "a loop": lambda s, x, h, n: repeated(x, n // 4),
    "half, cast": lambda s, x, h, n: x[:, : int(n * 0.5)],
    "one, computed": lambda s, x, h, n: x.topk(int(n / 8))[0],
    "one of the batch, computed": lambda s, x, h, n: x[:1].expand(max(int(n / 8), 0), -1),
    "a root": lambda s, x, h, n: x[:, : int(math.sqrt(n))],
    "a common divisor": lambda s, x, h, n: x[:, : math.gcd(n, 6)],
    "from the start": lambda s, x, h, n: x[:, n % 4 :],
    "a list": lambda s, x, h, n: x * len([0] * n),
    "a tensor of positions": lambda s, x, h, n: x[:, torch.tensor([n // 4])],
    "rounded": lambda s, x, h, n: F.avg_pool1d(x[:, None], round(n / 4)),
}


def repeated(x, times):
    """As often as a number says."""
    for _ in range(times):
        x = torch.tanh(x) * 2
    return x


ORIGINS = {
    "an axis": lambda s, h: h.shape[1],
    "an attribute": lambda s, h: s.width,
    "a layer of torch": lambda s, h: s.inner.out_features,
}


class Net(nn.Module):
    """A layer whose width reaches another operator as a number."""

    def __init__(self, use, origin):
        super().__init__()
        self.inner, self.last = nn.Linear(6, 8), nn.Linear(8, 2)
        self.kernel, self.table = nn.Parameter(torch.ones(2, 1, 2)), nn.Parameter(torch.randn(3, 4))
        self.width, self.use, self.origin = 8, use, origin

    def forward(self, x):
        h = self.inner(x)
        return self.use(self, x, h, self.origin(self, h)), self.last(h.view(3, self.width) if self.origin is NAMED else h)


NAMED = ORIGINS["an attribute"]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("form", FORMS)
def test_no_cut_changes_what_the_number_does(form, origin):
    """Whatever the lower bound leaves may go: shapes and values of the output stay, and the square closes."""
    torch.manual_seed(0)
    model = Net(FORMS[form], ORIGINS[origin]).eval()
    graph = dg.trace(model, X)
    group = graph.groups_by_name.get("inner.weight:0")
    if group is None:
        assert graph.why_pinned(graph.axis("inner.weight", 0)) != "its size is 1, and the last index is never removed"
        return
    for count in {1, 2, group.size - group.lower_bound} - {0}:
        if count > group.size - group.lower_bound:
            continue
        plan = dg.cut(graph, "inner.weight", range(count), dim=0)
        small = dg.execute(plan, model)
        with torch.no_grad():
            expected, met = dg.mask(plan, model)(X)[0], small(X)[0]
        assert expected.shape == met.shape and torch.allclose(expected, met, atol=1e-5), (form, count)
        assert dg.trace(small, X) == plan.apply(graph)


def test_what_scales_is_free():
    """Means by hand and attention's root are not what this is about: their sizes may go."""
    for use in (lambda s, x, h, n: h.sum(1) / n, lambda s, x, h, n: x * n**-0.5, lambda s, x, h, n: x * (1 / n)):
        graph = dg.trace(Net(use, ORIGINS["an axis"]), X)
        assert "inner.weight:0" in graph.groups_by_name
