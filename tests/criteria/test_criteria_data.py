"""Criteria that read data: exact values against hand formulas, purity, streaming, half precision, ranks, bad input."""

import copy
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from tests.ranks import printed_by_ranks

pytestmark = pytest.mark.models


def entropy(model, batch):
    """One cross entropy per sample."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def mean_entropy(model, batch):
    """The mean of them."""
    return entropy(model, batch).mean()


def first(model, batch):
    """Calls the model with the images alone."""
    return model(batch[0])


CRITERIA = {
    "taylor": lambda data, **options: dg.criteria.Taylor(data, mean_entropy, **options),
    "vector taylor": lambda data, **options: dg.criteria.Taylor(data, mean_entropy, multivariable=True, **options),
    "hessian": lambda data, **options: dg.criteria.Hessian(data, entropy, **options),
    "obdc": lambda data, **options: dg.criteria.OBDC(data, entropy, **options),
    "absolute": lambda data, **options: dg.criteria.Activation(data, forward=first, **options),
    "variance": lambda data, **options: dg.criteria.Activation(data, statistic="variance", forward=first, **options),
    "wanda": lambda data, **options: dg.criteria.Wanda(data, forward=first, **options),
}


class Net(nn.Module):
    """Convolution, batch normalisation, dropout, and a linear layer behind a flatten; it counts its calls."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Dropout()
        self.head, self.calls = nn.Linear(3 * 4, 4), 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))


def net():
    """A `Net` with random scales, its graph, and three batches."""
    torch.manual_seed(1)
    model = Net().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model, dg.trace(model, torch.randn(2, 2, 3, 3)), batches(3)


def batches(count, size=5):
    """Images and labels."""
    torch.manual_seed(3)
    return [(torch.randn(size, 2, 3, 3), torch.randint(0, 4, (size,))) for _ in range(count)]


def only(scores):
    """The importances of the one group that there is."""
    (values,) = scores.values()
    return values


def rows(conv, norm, head):
    """One row per channel for each member."""
    return conv.flatten(1), norm[:, None], head.view(4, 3, 4).transpose(0, 1).flatten(1)


def slopes(model, loss):
    """Gradients of the three weights by plain autograd."""
    return torch.autograd.grad(loss, (model.conv.weight, model.norm.weight, model.head.weight), retain_graph=True)


@pytest.mark.parametrize("multivariable", [False, True])
def test_taylor(multivariable):
    """abs(w g) summed, or abs of the sum, g averaged over the batches; the mean of the three members."""
    model, graph, data = net()
    found = [slopes(model, mean_entropy(model, batch)) for batch in data]
    gradients = rows(*(sum(each) / 3 for each in zip(*found, strict=True)))
    weights = rows(model.conv.weight, model.norm.weight, model.head.weight)
    parts = [w * g for w, g in zip(weights, gradients, strict=True)]
    expected = sum(part.sum(1).abs() if multivariable else part.abs().sum(1) for part in parts) / 3
    for loss in (mean_entropy, entropy):
        scores = dg.score(graph, model, dg.criteria.Taylor(data, loss, multivariable=multivariable, normaliser="none"))
        assert only(scores) == pytest.approx(expected.tolist(), rel=1e-4)
    scores = dg.score(graph, model, dg.criteria.Taylor(data, mean_entropy, multivariable=multivariable))
    assert only(scores) == pytest.approx((expected / expected.mean()).tolist(), rel=1e-4)
    last = [w * g for w, g in zip(weights, rows(*found[-1]), strict=True)]
    assert only(scores) != pytest.approx((sum(part.abs().sum(1) for part in last) / 3).tolist(), rel=1e-3)


@pytest.mark.parametrize("criterion", [dg.criteria.Hessian, dg.criteria.OBDC])
def test_optimal_brain_damage_counts_every_sample(criterion):
    """W ** 2 h / 2 with h the mean square of the samples' own gradients, over all members or the convolution's filters."""
    model, graph, data = net()
    samples = [slopes(model, loss) for batch in data for loss in entropy(model, batch)]
    curvature = rows(*(sum(slope.square() for slope in each) / 15 for each in zip(*samples, strict=True)))
    weights = rows(model.conv.weight, model.norm.weight, model.head.weight)
    parts = [(w.square() * h / 2).sum(1) for w, h in zip(weights, curvature, strict=True)]
    expected = parts[0] if criterion is dg.criteria.OBDC else sum(parts) / 3
    scores = only(dg.score(graph, model, criterion(data, entropy)))
    assert scores == pytest.approx(expected.tolist(), rel=1e-4)
    ones = [(batch[0][k : k + 1], batch[1][k : k + 1]) for batch in data for k in range(5)]
    assert only(dg.score(graph, model, criterion(ones, mean_entropy))) == pytest.approx(scores, rel=1e-4)
    assert only(dg.score(graph, model, criterion(data, mean_entropy))) != pytest.approx(scores, rel=1e-2)


def seen(model, data):
    """What the convolution reads, by channel, and what the linear layer reads, by channel, over all batches."""
    images = torch.cat([batch[0] for batch in data])
    hidden = torch.relu(model.norm(model.conv(images)))
    return images, hidden.flatten(1)


@pytest.mark.parametrize("statistic", ["absolute", "mean", "variance", "norm"])
def test_activations(statistic):
    """A statistic of each column that the linear layer reads, summed over the four columns of a channel."""
    model, graph, data = net()
    _, hidden = seen(model, data)
    column = {
        "absolute": hidden.abs().mean(0), "mean": hidden.mean(0).abs(), "variance": hidden.var(0, unbiased=False),
        "norm": hidden.square().mean(0).sqrt(),
    }[statistic]  # fmt: skip
    found = dg.score(graph, model, dg.criteria.Activation(data, statistic=statistic, forward=first, normaliser="none"))
    assert only(found) == pytest.approx(column.view(3, 4).sum(1).tolist(), rel=1e-4)


@pytest.mark.parametrize("p", [1, 2])
def test_wanda(p):
    """abs(w) times the norm of the input that it meets, over rows of the convolution and columns of the linear layer."""
    model, graph, data = net()
    images, hidden = seen(model, data)
    by_channel = images.transpose(0, 1).flatten(1).norm(dim=1)
    conv = (model.conv.weight.abs() * by_channel[None, :, None, None]).pow(p).sum((1, 2, 3))
    head = (model.head.weight.abs() * hidden.norm(dim=0)).pow(p).sum(0).view(3, 4).sum(1)
    found = dg.score(graph, model, dg.criteria.Wanda(data, p=p, forward=first, normaliser="none"))
    assert only(found) == pytest.approx(((conv + head) / 2).tolist(), rel=1e-4)


def test_wanda_in_grouped_and_transposed_convolutions():
    """Each block meets its own inputs; a transposed convolution's inputs lie along its first dimension."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 4, 1, groups=2), nn.ConvTranspose2d(4, 5, 2), nn.Conv2d(5, 1, 1))
    x = torch.randn(3, 2, 4, 4)
    graph = dg.trace(model, x)
    apart = dg.score(graph, model, dg.criteria.Wanda([x], reduction="none", normaliser="none"))
    norms = [model[:k](x).transpose(0, 1).flatten(1).norm(dim=1) for k in range(4)]
    group = graph.group("1.weight", dim=1)
    position = apart.members[group.name].index(("1.weight", 1))
    weight = model[1].weight[:, :, 0, 0].abs()
    expected = weight[:2].sum(0) * norms[1][:3] + weight[2:].sum(0) * norms[1][3:]
    assert apart.scores[group.name][position] == pytest.approx(expected.tolist(), rel=1e-4)
    group = graph.group("2.weight", dim=1)
    position = apart.members[group.name].index(("2.weight", 1))
    expected = (model[2].weight.abs() * norms[2][:, None, None, None]).sum((0, 2, 3))
    assert apart.scores[group.name][position] == pytest.approx(expected.tolist(), rel=1e-4)


class Attention(nn.Module):
    """Two heads; queries and keys are read by no layer. A product with a bare parameter at the end."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)
        self.last = nn.Parameter(torch.randn(6, 5))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = torch.softmax(q @ k.mT, -1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2)) @ self.last


def test_what_no_layer_reads_is_measured_where_it_is_made():
    """Head dims of queries and keys by the outputs of their layers, those of values by the input of the next."""
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(2, 3, 6)
    graph = dg.trace(model, x)
    apart = dg.score(graph, model, dg.criteria.Activation([x], reduction="none", normaliser="none"))
    shared = next(name for name, held in apart.members.items() if name == "query.weight:0[1]")
    assert apart.members[shared] == (("query.weight", 0), ("key.weight", 0))
    expected = model.query(x).abs().mean((0, 1)).view(2, 2).sum(0)
    assert apart.scores[shared][0] == pytest.approx(expected.tolist(), rel=1e-4)
    assert apart.members[graph.group("last", dim=0).name] == (("last", 0),)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_is_left_as_it_was(name, frozen):
    """Bytes, versions, gradients, flags, buffers, attributes, hooks and random state; in training mode, too."""
    model, graph, data = net()
    model.train()
    model.norm.eval()
    model.requires_grad_(not frozen)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    model.head.register_forward_hook(lambda module, args, output: None)
    before, random = testing.snapshot(model), torch.get_rng_state()
    for training in (False, True):
        scores = dg.score(graph, model, CRITERIA[name](data, training=training))
        assert testing.snapshot(model) == before and torch.equal(torch.get_rng_state(), random)
        assert all(type(value) is float for value in only(scores)) and max(only(scores)) > 0
    mean_entropy(model, data[0])
    assert testing.snapshot(model) != before, "a plain forward in training mode changes it"


@pytest.mark.parametrize("name", CRITERIA)
def test_the_model_is_left_as_it_was_by_a_failure(name):
    """An error in the third batch passes, and leaves nothing behind."""
    model, graph, data = net()
    model.train()
    data.append((torch.randn(1, 7), torch.zeros(1)))
    before = testing.snapshot(model)
    with pytest.raises(RuntimeError, match=r"Expected 3D .* input to conv2d"):
        dg.score(graph, model, CRITERIA[name](data))
    assert testing.snapshot(model) == before


@pytest.mark.parametrize("name", CRITERIA)
def test_memory_does_not_grow_with_the_number_of_batches(name):
    """No batch is alive while the next but one is read, and no tensor is added per batch."""
    import gc
    import weakref

    model, graph, _ = net()
    alive, most, counts = [], [], []

    def stream(count):
        for number in range(count):
            batch = (torch.randn(5, 2, 3, 3), torch.randint(0, 4, (5,)))
            alive.append(weakref.ref(batch[0]))
            yield batch
            del batch
            if number % 10 == 9:
                gc.collect()
                most.append(sum(reference() is not None for reference in alive))
                counts.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))

    dg.score(graph, model, CRITERIA[name](stream(40)))
    assert max(most) <= 2 and counts[-1] <= counts[0]


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_single_precision(name, dtype):
    """300 equal batches score as one does: in half precision their sum would stop growing at 256."""
    model, graph, _ = net()
    model = copy.deepcopy(model).to(dtype)
    batch = (torch.randn(2, 2, 3, 3).to(dtype), torch.tensor([0, 1]))
    one = only(dg.score(graph, model, CRITERIA[name]([batch], normaliser="mean")))
    many = only(dg.score(graph, model, CRITERIA[name]([batch] * 300, normaliser="mean")))
    assert many == pytest.approx(one, rel=1e-4)


def test_tied_weights_get_the_gradients_of_all_their_uses():
    """A weight that two layers share has one gradient, the sum."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    x = torch.randn(4, 3)
    graph = dg.trace(model, x)
    tied = {"0.weight", "1.weight"}
    assert {name for group in graph.groups for name, _ in group.members} & tied or not graph.groups
    embedded = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 7, bias=False))
    embedded[2].weight = embedded[0].weight
    tokens = torch.randint(0, 7, (2, 5))
    graph = dg.trace(embedded, tokens)
    loss = lambda model, batch: model(batch).square().mean()  # noqa: E731
    scores = dg.score(graph, embedded, dg.criteria.Taylor([tokens], loss, reduction="sum", normaliser="none"))
    slope, inner = torch.autograd.grad(embedded(tokens).square().mean(), (embedded[0].weight, embedded[1].weight))
    whole = (slope * embedded[0].weight).abs().sum(0)
    for name, values in scores.items():
        held = {(tensor, dim) for group in graph.groups if group.name == name for tensor, dim in group.members}
        mine = (inner * embedded[1].weight).abs()
        expected = whole * (("0.weight", 1) in held) + mine.sum(1) * (("1.weight", 0) in held)
        expected = expected + mine.sum(0) * (("1.weight", 1) in held)
        assert values == pytest.approx(expected.tolist(), rel=1e-4)


def test_recurrent_layers_have_gradients():
    """Their weights are held in a flat list besides; the model runs on the parameters themselves."""
    torch.manual_seed(0)
    model = nn.GRU(3, 4, batch_first=True)
    x = torch.randn(2, 5, 3)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = model, nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.inner(x)[0][:, -1])

    whole = Last()
    graph = dg.trace(whole, x)
    scores = dg.score(graph, whole, dg.criteria.Taylor([x], lambda model, batch: model(batch).sum()))
    assert all(min(values) > 0 for values in scores.values()) and scores


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(CRITERIA)), st.permutations(range(3)))
def test_permuting_channels_permutes_the_scores(name, order):
    """And the order of the batches does not count."""
    model, graph, data = net()
    shuffled = copy.deepcopy(model)
    with torch.no_grad():
        for tensor, dim in (
            (shuffled.conv.weight, 0),
            (shuffled.conv.bias, 0),
            (shuffled.norm.weight, 0),
            (shuffled.norm.bias, 0),
        ):
            tensor.copy_(tensor.index_select(dim, torch.tensor(order)))
        shuffled.head.weight.copy_(shuffled.head.weight.view(4, 3, 4)[:, list(order)].flatten(1))
    before = only(dg.score(graph, model, CRITERIA[name](data)))
    after = only(dg.score(graph, shuffled, CRITERIA[name](data[::-1])))
    assert after == pytest.approx([before[index] for index in order], rel=1e-3)


@pytest.mark.parametrize("name", CRITERIA)
def test_wrapped_and_reduced_apart(name):
    """Through `DataParallel`, and as `MemberScores`."""
    model, graph, data = net()
    expected = dg.score(graph, model, CRITERIA[name](data, normaliser="none"))
    assert dg.score(graph, nn.DataParallel(model), CRITERIA[name](data, normaliser="none")) == expected
    apart = dg.score(graph, model, CRITERIA[name](data, normaliser="none", reduction="none"))
    assert only(apart.reduce("mean", "none")) == pytest.approx(only(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda d: dg.criteria.Taylor([], mean_entropy), "there was no batch: batches= is empty"),
        (lambda d: dg.criteria.Wanda([]), "there was no batch: batches= is empty"),
        (lambda d: dg.criteria.Taylor(d[0][0], mean_entropy), "iterable of batches, such as a DataLoader, met Tensor"),
        (lambda d: dg.criteria.Taylor(3, mean_entropy), "iterable of batches, such as a DataLoader, met int"),
        (lambda d: dg.criteria.Hessian(d, None), r"expected loss= to be a function of \(model, batch\), met None"),
        (lambda d: dg.criteria.Taylor(d, lambda m, b: 3.0), "expected the loss to be a tensor, met float for batch 0"),
        (lambda d: dg.criteria.Taylor(d, lambda m, b: m(b[0])), r"a vector of one loss per sample, met the shape \(5, 4\)"),
        (lambda d: dg.criteria.Taylor(d, lambda m, b: m(b[0]).sum().detach()), "the loss of batch 0 has no gradient"),
        (lambda d: dg.criteria.Taylor(d, lambda m, b: m(b[0]).sum() * float("nan")), "the loss of batch 0 is nan"),
        (lambda d: dg.criteria.Taylor(d, lambda m, b: torch.ones((), requires_grad=True) * 1), "does not depend on any param"),
        (lambda d: dg.criteria.Activation(d, statistic="median"), "expected statistic= to be one of .* met 'median'"),
        (lambda d: dg.criteria.Activation(d, forward=lambda m, b: None), "forward ran none of the layers"),
        (lambda d: dg.criteria.Wanda(d, forward=lambda m, b: None), "forward ran none of the layers"),
        (lambda d: dg.criteria.Taylor(d, mean_entropy, progress=2), "expected progress= to be True or False, met 2"),
        (lambda d: dg.criteria.Wanda(d, forward=first, p=0), "expected p= to be a positive number, met 0"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, match):
    """What was expected, what was met, and where."""
    model, graph, data = net()
    before = testing.snapshot(model)
    with pytest.raises(dg.errors.PlanError, match=match):
        dg.score(graph, model, make(data))
    assert testing.snapshot(model) == before


def test_meta_models_are_refused():
    """There is nothing to run."""
    with torch.device("meta"):
        model = Net()
    graph = dg.trace(model, torch.randn(2, 2, 3, 3, device="meta"))
    for make in CRITERIA.values():
        with pytest.raises(
            dg.errors.PlanError, match=r"meta device and has no weights to measure; use dg.criteria.Random\(seed\)"
        ):
            dg.score(graph, model, make(batches(1)))


def test_a_progress_bar_on_demand(capsys, monkeypatch):
    """It counts batches on the error stream; without tqdm, the message says what to install."""
    pytest.importorskip("tqdm", reason="the progress bar is an extra")
    model, graph, data = net()
    expected = dg.score(graph, model, dg.criteria.Taylor(data, mean_entropy))
    assert dg.score(graph, model, dg.criteria.Taylor(data, mean_entropy, progress=True)) == expected
    assert "Taylor: 100%" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(dg.errors.PlanError, match="progress=True needs the package tqdm"):
        dg.score(graph, model, dg.criteria.Taylor(data, mean_entropy, progress=True))


RANK = """
import datetime, json, sys
import torch, torch.distributed as dist
import depgraph as dg
from tests.criteria import test_criteria_data as here
rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60))
model, graph, _ = here.net()
wrapped = torch.nn.parallel.DistributedDataParallel(model)
mine = here.batches(3)[:1] if rank == 0 else here.batches(3)[1:]
found = {name: here.only(dg.score(graph, wrapped, make(mine))) for name, make in here.CRITERIA.items()}
alone = {name: here.only(dg.score(graph, model, make(mine, combine=False))) for name, make in here.CRITERIA.items()}
print(json.dumps([found, alone]))
dist.destroy_process_group()
"""


def test_ranks_share_their_sums(tmp_path):
    """Two processes with one and two of three batches get the scores that one process gets from all three."""
    import json

    printed = printed_by_ranks(RANK, tmp_path / "store")
    (first_rank, first_alone), (second_rank, second_alone) = (json.loads(out.splitlines()[-1]) for out in printed)
    model, graph, data = net()
    for name, make in CRITERIA.items():
        expected = only(dg.score(graph, model, make(data)))
        assert first_rank[name] == second_rank[name] == pytest.approx(expected, rel=1e-4), name
        assert first_alone[name] == pytest.approx(only(dg.score(graph, model, make(data[:1]))), rel=1e-4)
        assert second_alone[name] != pytest.approx(first_alone[name], rel=1e-3)
