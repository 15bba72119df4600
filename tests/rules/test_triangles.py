"""Which diagonals of `triu` and `tril` let a row go together with its column: those behind which nothing moves nearer."""

import pytest
import torch
from torch import nn

import depgraph as dg

FREE = {"tril": {-1, 0}, "triu": {0, 1}}


class Triangle(nn.Module):
    def __init__(self, name, diagonal):
        super().__init__()
        self.name, self.diagonal = name, diagonal
        self.a, self.b, self.weight = nn.Linear(4, 6), nn.Linear(6, 2), nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return self.b(self.a(x) @ getattr(torch, self.name)(self.weight, self.diagonal))


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("diagonal", [-2, -1, 0, 1, 2])
def test_a_row_goes_with_its_column_or_stays(name, diagonal):
    """Exactly these are one group, and what is pruned computes what is masked; the others are pinned by the operator."""
    model, x = Triangle(name, diagonal).eval(), torch.randn(3, 4)
    graph = dg.trace(model, x)
    if diagonal in FREE[name]:
        (group,) = graph.groups
        assert {("weight", 0), ("weight", 1), ("a.weight", 0), ("b.weight", 1)} <= set(group.members)
        plan = dg.cut(graph, "weight", [1, 4], dim=0)
        torch.testing.assert_close(dg.execute(plan, model)(x), dg.mask(plan, model)(x))
    else:
        assert graph.groups == () and f"aten.{name} depends on its positions" in str(graph.pinned)


@pytest.mark.parametrize("name, diagonal", [("tril", 1), ("triu", -1)])
def test_the_other_sign_would_be_wrong(name, diagonal):
    """Behind a removed row the band lies elsewhere: what a rule with the wrong sign allows computes something else."""
    weight, kept = torch.randn(6, 6), [0, 2, 3, 5]
    triangle = getattr(torch, name)
    assert not torch.equal(triangle(weight, diagonal)[kept][:, kept], triangle(weight[kept][:, kept], diagonal))
    assert torch.equal(triangle(weight, 0)[kept][:, kept], triangle(weight[kept][:, kept], 0))
