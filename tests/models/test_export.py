"""Pruned models are ordinary modules: `torch.export` and `torch.compile` take them, for any batch, with the same outputs."""

import pytest
import torch
from torch import nn

import depgraph as dg
from tests.laws.refuting import refuted

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore::FutureWarning")]
BATCH = {0: torch.export.Dim.DYNAMIC}


class Residual(nn.Module):
    """Convolutions, a residual sum, a grouped convolution and a classifier behind a flatten."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.inner, self.depthwise = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.outer, self.head = nn.Conv2d(24, 16, 1), nn.Linear(16 * 4, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.depthwise(self.inner(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Attention(nn.Module):
    """Heads of which some share keys, a norm and a gated inner width; sizes are read off shapes and attributes."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head_dim = nn.Embedding(20, 32), nn.LayerNorm(32), 8
        self.q, self.kv, self.o = nn.Linear(32, 48), nn.Linear(32, 48), nn.Linear(48, 32)
        self.up, self.down, self.out = nn.Linear(32, 64), nn.Linear(32, 32), nn.Linear(32, 20)

    def forward(self, ids):
        x = self.embed(ids)
        q = self.q(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in self.kv(x).chunk(2, -1))
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        x = x + self.o(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        gate, value = self.up(self.norm(x)).chunk(2, -1)
        return self.out(x + self.down(torch.sigmoid(gate) * value))


CASES = {
    "convolutions": (Residual, lambda batch: torch.randn(batch, 3, 8, 8)),
    "attention": (Attention, lambda batch: torch.randint(20, (batch, 6))),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), lambda batch: torch.randn(batch, 5, 16)),
}


@pytest.fixture(params=["convolutions", "attention", "encoder"])
def case(request):
    """A model, its pruned copy, and a function that makes inputs."""
    torch.manual_seed(0)
    make, inputs = CASES[request.param]
    model = make().eval()
    graph = dg.trace(model, inputs(2))
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.4)
    assert plan.cuts
    return model, dg.execute(plan, model), inputs


def equal_outputs(exported, model, inputs):
    """The same numbers for batches of two and of three, up to the order of sums: torch's encoder layer has its own path."""
    for batch in (2, 3):
        x = inputs(batch)
        with torch.no_grad():
            torch.testing.assert_close(exported(x), model(x))


def test_a_pruned_model_is_exported(case):
    """Into a program for any batch, whose parameters have the sizes of the plan; the original is another one."""
    model, small, inputs = case
    program = torch.export.export(small, (inputs(2),), dynamic_shapes=(BATCH,))
    assert {name: tuple(tensor.shape) for name, tensor in program.state_dict.items()} == {
        name: tuple(tensor.shape) for name, tensor in small.state_dict().items()
    }
    equal_outputs(program.module(), small, inputs)
    refuted(equal_outputs, program.module(), model, inputs, says="not close")


def test_a_pruned_model_is_compiled(case):
    """By dynamo and AOTAutograd, without a compiler of code."""
    _, small, inputs = case
    torch.compiler.reset()
    equal_outputs(torch.compile(small, backend="aot_eager", dynamic=True, fullgraph=True), small, inputs)


def test_an_export_from_before_has_the_old_sizes():
    """A program is a copy: pruned in place, the module goes on, and the export does not follow."""
    model, x = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).eval(), torch.randn(2, 6)
    program, before = torch.export.export(model, (x,)), model(x)
    dg.execute_(dg.cut(dg.trace(model, x), "0.weight", [1, 2], dim=0), model)
    assert program.state_dict["0.weight"].shape == (12, 6) and model[0].weight.shape == (10, 6)
    assert torch.equal(program.module()(x), before)
