"""Models that are spread over ranks: the same plan gives what it gives of the whole model, and training goes on."""

import datetime
import pathlib

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import depgraph as dg
from depgraph.execution import execute
from depgraph.execution.shards import whole
from tests.ranks import printed_by_ranks

RANK = """
import sys
from tests.execution import test_shards as here
here.run(int(sys.argv[1]), *sys.argv[2:])
"""


def run(rank, folder, count, *names):
    """What a rank does: each of the named functions, in a group of all ranks."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=int(count),
        timeout=datetime.timedelta(seconds=180),
    )
    for name in names:
        torch.manual_seed(0)
        globals()[name](rank, int(count), folder)
    dist.destroy_process_group()


class Tied(nn.Module):
    """Layers whose widths no mesh divides; the last one has the weight of the first."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 9)
        self.inner = nn.Sequential(nn.Linear(9, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 9))
        self.head = nn.Linear(9, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        return self.head(hidden + self.inner(hidden))


class Block(nn.Module):
    """Attention and a gated pair of layers, written so that each rank may compute with heads of its own."""

    def __init__(self, width=8, heads=4, dim=3, inner=12):
        super().__init__()
        self.dim = dim
        self.q, self.k, self.v = (nn.Linear(width, heads * dim, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * dim, width)
        self.gate, self.up, self.down = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (-1, self.dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.o(mixed)
        return x + self.down(self.gate(x).sigmoid() * self.up(x))


class Added(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.linear(x)


class Residual(nn.Module):
    """A list of layers of which any may leave."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Added() for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


COLUMNS, ROWS = ("q", "k", "v", "gate", "up"), ("o", "down")


def gathered(model):
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


def assert_same(sharded, alone):
    """Bit for bit, and with the gradients of the whole model."""
    state = gathered(sharded)
    assert state.keys() == alone.state_dict().keys()
    for name, tensor in alone.state_dict().items():
        assert torch.equal(state[name], tensor), name
    for (name, parameter), other in zip(sharded.named_parameters(), alone.parameters(), strict=True):
        assert parameter.requires_grad == other.requires_grad and (parameter.grad is None) == (other.grad is None), name
        if parameter.grad is not None:
            assert torch.allclose(whole(parameter.grad), other.grad, atol=1e-6), name


def assert_close(sharded, alone):
    """Ranks add up gradients in another order."""
    state = gathered(sharded)
    for name, tensor in alone.state_dict().items():
        assert torch.allclose(state[name].to(tensor.dtype), tensor, atol=1e-6), name


def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def widths(graph, model):
    return dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.4)


def adam(model):
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01, eps=1e-3)


def trained_under_fully_shard(rank, count, folder):
    """Before the first forward and after a step; uneven and empty shards; a tied and a frozen parameter; momentum along."""
    for steps in (0, 1):
        torch.manual_seed(0)
        alone, model = Tied().eval(), Tied().eval()
        model.load_state_dict(alone.state_dict())
        for each in (alone, model):
            each.inner[0].bias.requires_grad_(False)
        x = torch.randint(0, 11, (3 * count,))
        graph = dg.trace(alone, x)
        plan = widths(graph, alone)
        for part in (model.inner, model):
            fully_shard(part, mesh=dist.init_device_mesh("cpu", (count,)))
        optimizer, other = adam(model), adam(alone)
        mine = x.chunk(count)[rank]
        for _ in range(steps):
            step(model, optimizer, mine)
            step(alone, other, x)
        with torch.no_grad():
            model(mine)  # leaves the parameters of the root gathered
        alone.load_state_dict(gathered(model))
        assert dg.trace(model, x) == graph
        carried, expected = (dg.optimizers.carry_state(plan, *pair) for pair in ((model, optimizer), (alone, other)))
        tied = model.embedding.weight
        model.reshard()
        before = dict(model.named_parameters())
        replaced = dg.execute_(plan, model)
        assert model.head.weight is model.embedding.weight is not tied
        assert {id(new) for new in replaced.values()} <= {id(parameter) for parameter in model.parameters()}
        assert all(old in replaced for name, old in before.items() if name in plan.kept)
        small = dg.execute(plan, alone)
        assert_same(model, small)
        assert dg.trace(model, x) == plan.apply(graph)
        optimizer, other = adam(model), adam(small)
        optimizer.load_state_dict(carried)
        other.load_state_dict(expected)
        step(model, optimizer, mine)
        step(small, other, x)
        assert_close(model, small)


def repaired(rank, count, folder):
    """New values go to the shards; weights that a repair was not made from are refused on all ranks."""
    alone = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    x = torch.randn(64, 4)
    plan = dg.cut(dg.trace(alone, x), "0.weight", [1, 4], dim=0)
    repair = dg.refit(plan, alone, [x])
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    model.load_state_dict(alone.state_dict())
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (count,)))
    other = fully_shard(nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)), mesh=dist.init_device_mesh("cpu", (count,)))
    with pytest.raises(dg.errors.MismatchError, match="other weights"):
        dg.execute_(plan, other, repair=repair)
    dg.execute_(plan, model, repair=repair)
    assert_same(model, dg.execute(plan, alone, repair=repair))


def refused(rank, count, folder):
    """On all ranks, also what only one of them could tell; a failure leaves the model as it was, and it trains on."""
    alone, model = (nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)) for _ in range(2))
    model.load_state_dict(alone.state_dict())
    x = torch.randn(3, 4)
    graph = dg.trace(alone, x)
    plan = dg.cut(graph, "0.weight", [1], dim=0)
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (count,)))
    before, parameters = gathered(model), dict(model.named_parameters())
    with pytest.raises(dg.errors.MismatchError, match="ranks have different plans"):
        dg.execute_(dg.cut(graph, "0.weight", [rank], dim=0), model)
    model[0].out_features = 9 if rank else 8
    with pytest.raises(dg.errors.MismatchError, match="expected 9, met 8"):
        dg.execute_(plan, model)
    model[0].out_features = 9
    with pytest.raises(dg.errors.UnsupportedError, match="execute_ take such a model"):
        dg.execute(plan, model)
    with pytest.raises(dg.errors.TraceError, match="spread over ranks"):
        dg.trace(model, x, mode="real")

    deep = fully_shard(Residual(), mesh=dist.init_device_mesh("cpu", (count,)))
    with pytest.raises(dg.errors.MismatchError, match=r"elements of lists or branches leave(.|\n)*prune the checkpoint"):
        dg.execute_(dg.drop(dg.trace(deep, x), "blocks", [1]), deep)

    def failing(*_):
        raise OSError("full")

    write, execute.write = execute.write, failing
    try:
        with pytest.raises(OSError, match="full"):
            dg.execute_(plan, model)
    finally:
        execute.write = write
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in gathered(model).items())
    for each in (model, alone):
        step(each, torch.optim.SGD(each.parameters(), lr=0.1), x)
    alone.load_state_dict(gathered(model))
    dg.execute_(plan, model)
    assert_same(model, dg.execute(plan, alone))


def checkpoints(rank, count, folder):
    """A folder that ranks saved is pruned by them together, each its own file, moments along."""
    alone = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2))
    x = torch.randn(3 * count, 4)
    plan = dg.cut(dg.trace(alone, x), "0.weight", [1, 4], dim=0)
    model = fully_shard(nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)), mesh=dist.init_device_mesh("cpu", (count,)))
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer, x.chunk(count)[rank])
    weights, states = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optim": states, "step": 7}, checkpoint_id=f"{folder}/full")
    dg.prune_checkpoint(plan, f"{folder}/full", f"{folder}/small")
    carried = dg.optimizers.carry_state(plan, model, optimizer)
    dg.execute_(plan, model)
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.load_state_dict(carried)
    expected, moments = get_state_dict(model, optimizer)
    blank = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    means = {f"optim.state.{name}.exp_avg": torch.zeros_like(tensor) for name, tensor in expected.items()}
    loaded = {"model": blank, **means, "step": 0}
    dcp.load(loaded, checkpoint_id=f"{folder}/small")
    assert loaded["step"] == 7
    for name, tensor in expected.items():
        assert torch.equal(whole(blank[name]), whole(tensor)), name
        assert torch.equal(whole(means[f"optim.state.{name}.exp_avg"]), whole(moments["state"][name]["exp_avg"])), name
    with pytest.raises(dg.errors.PlanError, match="exists"):
        dg.prune_checkpoint(plan, f"{folder}/full", f"{folder}/small")
    damaged = pathlib.Path(folder) / f"damaged{rank}"
    damaged.mkdir()
    (damaged / ".metadata").write_bytes(b"damaged")
    with pytest.raises(OSError if rank else dg.errors.DocumentError, match="is no list of a checkpoint"):
        dg.prune_checkpoint(plan, f"{folder}/full" if rank else damaged, f"{folder}/other")


def in_two_dimensions(rank, count, folder):
    """Tensor parallelism under `fully_shard`, and replicas of shards; what ranks could not divide is refused."""
    mesh = dist.init_device_mesh("cpu", (2, count // 2), mesh_dim_names=("data", "tensor"))
    styles = {**dict.fromkeys(COLUMNS, ColwiseParallel()), **dict.fromkeys(ROWS, RowwiseParallel())}
    x = torch.randn(4, 5, 8)
    for kind in ("tensor", "both", "replicas", "columns"):
        torch.manual_seed(1)
        alone, model = Block(), Block()
        model.load_state_dict(alone.state_dict())
        graph = dg.trace(alone, x)
        plan = dg.cut(graph, "gate.weight", [0, 1, 5, 7, 9, 11], dim=0)
        heads = dg.cut(plan.apply(graph), "q.weight", [*range(3), *range(6, 9)], dim=0)
        plan = plan.then(heads)
        if kind in ("tensor", "both"):
            parallelize_module(model, mesh["tensor"], styles)
            for place, group in (([2], "gate.weight"), ([0, 1, 2], "q.weight")):
                with pytest.raises(dg.errors.MismatchError, match=r"which 2 does not divide(.|\n)*round_to="):
                    dg.execute_(dg.cut(graph, group, place, dim=0), model)
        if kind != "tensor":
            columns = (lambda parameter: Shard(parameter.ndim - 1)) if kind == "columns" else None
            fully_shard(model, mesh=mesh if kind == "replicas" else mesh["data"], shard_placement_fn=columns)
        if kind == "columns":
            with pytest.raises(dg.errors.MismatchError, match="fully_shard divides dimension 1 evenly among 2 ranks"):
                dg.execute_(dg.cut(graph, "gate.weight", [0], dim=0), model)
        assert dg.trace(model, x) == graph
        dg.execute_(plan, model)
        small = dg.execute(plan, alone)
        assert_same(model, small)
        parts = {"tensor": 1, "replicas": 4}.get(kind, 2)
        mine = x.chunk(parts)[{1: 0, 2: mesh.get_coordinate()[0], 4: rank}[parts]]
        step(model, torch.optim.SGD(model.parameters(), lr=0.1), mine)
        step(small, torch.optim.SGD(small.parameters(), lr=0.1), x)
        assert_close(model, small)


def test_two_ranks_prune_and_train_what_is_sharded(tmp_path):
    printed_by_ranks(RANK, tmp_path, 2, "trained_under_fully_shard", "repaired", "refused", "checkpoints", seconds=300)
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_four_ranks_prune_and_train_what_is_sharded(tmp_path):
    printed_by_ranks(RANK, tmp_path, 4, "trained_under_fully_shard", "in_two_dimensions", count=4, seconds=300)
