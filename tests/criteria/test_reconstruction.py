"""Criteria from second moments against least squares on the rows themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import depgraph as dg
from depgraph.criteria import Fluctuation, Reconstruction
from depgraph.moments import collect
from depgraph.plans.making import plan_of
from tests.attention import Attention, Stream
from tests.laws.refuting import refuted

pytestmark = pytest.mark.models


class Branches(nn.Module):
    """Two layers that read the same channels, one of them with a bias and one without."""

    def __init__(self, width=5):
        super().__init__()
        self.enter, self.one, self.two = nn.Linear(3, width), nn.Linear(width, 4), nn.Linear(width, 2, bias=False)

    def forward(self, x):
        x = torch.tanh(self.enter(x))
        return self.one(x), self.two(x)


class Square(nn.Module):
    """A layer whose outputs are its inputs' channels, and go with them."""

    def __init__(self):
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = torch.tanh(self.enter(x))
        return self.leave(x + self.inner(x).relu())


def images():
    """A convolution, a grouped one, a transposed one, and a linear layer behind a flatten."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.ReLU(),
        nn.Conv2d(6, 4, 1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 3),
    )  # fmt: skip


MODELS = {
    "branches": (Branches, (3,)),
    "square": (Square, (3,)),
    "images": (images, (2, 6, 6)),
    "attention": (lambda: Stream(Attention(heads=3, width=2, values=2)), (3, 3)),
    "grouped": (lambda: Stream(Attention(heads=4, shared=2, width=2, values=2, how="kernel")), (3, 3)),
}


def made(kind, seed, samples=120):
    """A model in double precision with its graph, rows to read, and the moments of these."""
    make, shape = MODELS[kind]
    torch.manual_seed(seed)
    model = make().double().eval()
    x = torch.randn(samples, *shape, dtype=torch.float64) + 0.5
    graph = dg.trace(model, x[:2])
    return model, graph, x, collect(model, [x], dtype=torch.float64, rows_per_input=1000)


def read_by(model, x):
    """What each layer reads, ``[blocks, rows, inputs]``, by the name of its weight."""
    read = {}

    def hook(name, layer):
        def keep(module, args):
            rows = args[0]
            if isinstance(layer, nn.Conv2d):
                rows = F.unfold(rows, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
                rows = rows.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
            else:
                rows = rows.reshape(1, -1, rows.shape[-1])
            read[f"{name}.weight"] = rows

        return layer.register_forward_pre_hook(keep)

    hooks = [hook(name, layer) for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    with torch.no_grad():
        model(x)
    for handle in hooks:
        handle.remove()
    return read


def least_squares(model, plan, x):
    """For each layer that loses inputs the mean squared error, summed over outputs, of the best weights for those that stay."""
    errors = {}
    for name, rows in read_by(model, x).items():
        kept, layer = plan.kept.get(name, {}), model.get_submodule(name.removesuffix(".weight"))
        if 1 not in kept:
            continue
        blocks = getattr(layer, "groups", 1)
        weight = layer.weight.detach().flatten(2) if layer.weight.ndim > 2 else layer.weight.detach()[..., None]
        outputs = torch.zeros(len(weight), dtype=torch.bool)
        outputs[list(kept.get(0, range(len(weight))))] = True
        inputs = torch.zeros(weight.shape[1:], dtype=torch.bool)
        inputs[list(kept[1])] = True
        total = 0.0
        for block, part, stay in zip(rows, weight.flatten(1).chunk(blocks), outputs.chunk(blocks), strict=True):
            wanted, known = block @ part[stay].T, block[:, inputs.flatten()]
            known = torch.cat([known, torch.ones(len(known), 1, dtype=known.dtype)], 1) if layer.bias is not None else known
            best = torch.linalg.lstsq(known, wanted, driver="gelsd").solution
            total += float((wanted - known @ best).square().sum() / len(block))
        errors[name] = total
    return errors


def error_of(model, graph, group, x, gone):
    """The same in all layers together, without some indices of a group."""
    return sum(least_squares(model, plan_of(graph, {group.atom: dg.IndexSet.of(gone)}), x).values())


def tells_least_squares(scores, model, graph, x):
    """Each index has the error of the best weights without it."""
    assert scores
    for name, numbers in scores.items():
        group = graph.groups_by_name[name]
        expected = [error_of(model, graph, group, x, [index]) for index in range(group.size)]
        assert numbers == pytest.approx(expected, rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_an_index_has_the_error_of_the_best_weights_without_it(kind, seed):
    """Single columns, kernels, channels behind a flatten, blocks, heads, several readers, and outputs that go along."""
    model, graph, x, known = made(kind, seed)
    tells_least_squares(dg.score(graph, model, Reconstruction(known, ridge=0, normaliser="none")), model, graph, x)


@pytest.mark.parametrize("kind", MODELS)
def test_other_numbers_are_not_the_error(kind):
    """Neither are those of inputs that do not correlate, nor of moments of other rows."""
    model, graph, x, known = made(kind, 1)
    refuted(tells_least_squares, dg.score(graph, model, Fluctuation(known, normaliser="none")), model, graph, x)
    other = collect(model, [x[:60]], dtype=torch.float64)
    refuted(tells_least_squares, dg.score(graph, model, Reconstruction(other, ridge=0, normaliser="none")), model, graph, x)


def takes_the_best_each_time(scores, model, graph, x):
    """In the order of the numbers each index is the one whose removal adds least to the error of the best weights."""
    for name, numbers in scores.items():
        group = graph.groups_by_name[name]
        order = sorted(range(group.size), key=numbers.__getitem__)
        assert len(set(numbers)) == group.size
        for step in range(group.size - 1):
            errors = [error_of(model, graph, group, x, [*order[:step], index]) for index in order[step:]]
            assert errors[0] <= min(errors) * (1 + 1e-6) + 1e-9, f"{name}, step {step}"


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=3)
@given(seed=st.integers(0, 10**6))
def test_the_greedy_order_takes_the_best_each_time(kind, seed):
    """The law of the order, for several readers and for blocks; the first number is the lowest of those without an order."""
    model, graph, x, known = made(kind, seed)
    scores = dg.score(graph, model, Reconstruction(known, ridge=0, normaliser="none", greedy=True))
    takes_the_best_each_time(scores, model, graph, x)
    alone = dg.score(graph, model, Reconstruction(known, ridge=0, normaliser="none"))
    assert scores.keys() == alone.keys()
    for name, numbers in scores.items():
        assert min(numbers) == pytest.approx(min(alone[name]), rel=1e-6, abs=1e-12)
        assert numbers.index(min(numbers)) == alone[name].index(min(alone[name]))


def twins():
    """Two channels that are nearly the same and matter, and two that are on their own and matter less."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2)).double()
    mixing = torch.eye(4, dtype=torch.float64)
    mixing[1] = torch.tensor([1.0, 0.01, 0.0, 0.0])
    model[0].weight.data.copy_(mixing)
    model[1].weight.data.copy_(torch.tensor([[3.0, 3.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.1]]))
    x = torch.randn(300, 4, dtype=torch.float64)
    return model, dg.trace(model, x[:2]), x, collect(model, [x], dtype=torch.float64)


def test_an_order_by_each_index_alone_is_not_greedy():
    """Of two channels that stand in for each other one may go, not both; the greedy order knows, and a plan follows it."""
    model, graph, x, known = twins()
    alone = dg.score(graph, model, Reconstruction(known, ridge=0))
    ordered = dg.score(graph, model, Reconstruction(known, ridge=0, greedy=True))
    refuted(takes_the_best_each_time, alone, model, graph, x, says="step 1")
    takes_the_best_each_time(ordered, model, graph, x)
    half = {name: dg.plan(graph, scores, ratio=0.5).removed["0.weight:0"] for name, scores in (("a", alone), ("o", ordered))}
    assert half["a"] == dg.IndexSet.of([0, 1])
    assert len(half["o"] & dg.IndexSet.of([0, 1])) == 1
    several = dg.score(graph, model, Reconstruction(known, ridge=0, greedy=True, at_once=4))
    refuted(takes_the_best_each_time, several, model, graph, x, says="step 1")


def are_free(scores, *indices):
    """These indices have next to no importance, and another one has some."""
    numbers = scores["0.weight:0"]
    assert max(numbers) > 1e-7
    assert all(numbers[index] < 1e-11 for index in indices)


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_an_affine_combination_of_the_others_costs_nothing(seed):
    """Channel 0 is a constant, which the reader's bias takes up; 1, 2 and 3 lie in a plane; 4 is on its own."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double()
    x = torch.randn(100, 4, dtype=torch.float64)
    model[0].weight.data[0] = 0
    for values in (model[0].weight.data, model[0].bias.data):
        values[2] = 2 * values[1] - values[3]
    graph, known = dg.trace(model, x[:2]), collect(model, [x], dtype=torch.float64)
    scores = dg.score(graph, model, Reconstruction(known, ridge=0, normaliser="none"))
    are_free(scores, 0, 1, 2, 3)
    refuted(are_free, scores, 4)
    ordered = dg.score(graph, model, Reconstruction(known, ridge=0, greedy=True, normaliser="none"))
    first, second, third, *_ = sorted(range(5), key=ordered["0.weight:0"].__getitem__)
    assert 0 in (first, second)
    are_free(ordered, first, second)
    refuted(are_free, ordered, third)
    constant = dg.score(graph, model, Fluctuation(known, normaliser="none"))
    are_free(constant, 0)
    refuted(are_free, constant, 2)
    without = nn.Sequential(model[0], nn.Linear(5, 3, bias=False)).double()
    bound = Reconstruction(collect(without, [x], dtype=torch.float64), ridge=0, normaliser="none")
    refuted(are_free, dg.score(dg.trace(without, x[:2]), without, bound), 0)


@pytest.mark.parametrize("kind", MODELS)
def test_fluctuation(kind):
    """The variance of each column times the squares of its weights, without those whose outputs go along."""
    model, graph, x, known = made(kind, 3)
    scores = dg.score(graph, model, Fluctuation(known, normaliser="none"))
    for name, numbers in scores.items():
        group, expected = graph.groups_by_name[name], []
        for index in range(group.size):
            plan, total = plan_of(graph, {group.atom: dg.IndexSet.of([index])}), 0.0
            for weight, rows in read_by(model, x).items():
                kept, matrix = plan.kept.get(weight, {}), model.get_parameter(weight).detach().clone()
                if 1 in kept:
                    matrix[:, list(kept[1])] = 0
                    gone = set(range(len(matrix))) - set(kept.get(0, range(len(matrix))))
                    matrix[sorted(gone)] = 0
                    matrix = matrix.flatten(1).unflatten(0, (len(rows), -1))
                    total += float((matrix.square() * rows.var(1, unbiased=False)[:, None]).sum())
            expected.append(total)
        assert numbers == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("criterion", [Fluctuation, Reconstruction])
def test_tables_add_up_where_heads_stand_for_themselves(criterion):
    """With `ragged` the value dims of each head have numbers of their own; of single columns those that the readers give."""
    model, graph, _, known = made("attention", 4)
    (name,) = [name for name in dg.ragged.ragged_groups(graph) if name in dg.score(graph, model, criterion(known))]
    table = dg.score(graph, model, criterion(known, ragged=True, normaliser="none"))[name]
    assert (len(table), len(table[0])) == (3, 2)
    plain = dg.score(graph, model, criterion(known, normaliser="none"))[name]
    sums = [sum(row[dim] for row in table) for dim in range(2)]
    if criterion is Fluctuation:
        assert sums == pytest.approx(plain)
    else:
        assert all(apart <= together for apart, together in zip(sums, plain, strict=True))


def test_groups_that_no_layer_reads_are_left_out():
    """Dims of queries and keys, which nothing linear reads."""
    model, graph, _, known = made("attention", 5)
    scores = dg.score(graph, model, Reconstruction(known))
    unread = {group.name for group in graph.groups} - scores.keys()
    assert unread == {"inner.q.weight:0"} or all(name.startswith(("inner.q", "inner.k")) for name in unread)
    both = {**dg.score(graph, model, dg.Magnitude()), **scores}
    assert both.keys() == {group.name for group in graph.groups}


@pytest.mark.parametrize("criterion", [Fluctuation, Reconstruction])
def test_moments_and_batches_give_the_same(criterion):
    """Of batches all samples count; of moments those that are held out, too. The model stays as it was."""
    model, graph, x, _ = made("images", 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    known = collect(model, x.split(30), holdout=0.3)
    expected = dg.score(graph, model, criterion(known))
    found = dg.score(graph, model, criterion(x.split(30)))
    assert found.keys() == expected.keys()
    for name, numbers in found.items():
        assert numbers == pytest.approx(expected[name], rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def are_alike(one, other):
    """The same numbers for each group."""
    for name, numbers in one.items():
        assert numbers == pytest.approx(other[name], rel=1e-4)


def test_relative_numbers_do_not_change_with_the_scale_of_a_layer():
    """Each reader's misses are shares of what it gives."""
    model, graph, x, _ = made("branches", 7)
    plain, shares = ({"relative": relative, "ridge": 0, "normaliser": "none"} for relative in (False, True))
    before = [dg.score(graph, model, Reconstruction([x], **options)) for options in (plain, shares)]
    model.one.weight.data.mul_(10)
    after = [dg.score(graph, model, Reconstruction([x], **options)) for options in (plain, shares)]
    are_alike(before[1], after[1])
    refuted(are_alike, before[0], after[0])


@pytest.mark.parametrize("greedy", [False, True])
def test_relative_numbers_are_shares_of_what_a_layer_gives(greedy):
    """The variance of the outputs of all of its blocks; about zero where it has no bias."""
    model, graph, x, known = made("images", 9)
    options = {"ridge": 0, "normaliser": "none", "greedy": greedy}
    plain, shares = (dg.score(graph, model, Reconstruction(known, relative=each, **options)) for each in (False, True))
    layers = {"0.weight:0": 2, "2.weight:0[0]": 7, "2.weight:0[1]": 4, "4.weight:0[1]": 7}
    outputs = {}
    assert layers.keys() == plain.keys()
    with torch.no_grad():
        for number, layer in enumerate(model):
            x = outputs[number] = layer(x)
    for name, number in layers.items():
        given = outputs[number].movedim(1, -1).flatten(0, -2)
        given = given - given.mean(0) if model[number].bias is not None else given
        energy = float(given.square().mean(0).sum())
        assert [energy * share for share in shares[name]] == pytest.approx(list(plain[name]), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reconstruction(torch.zeros(3)), "moments of a model or an iterable of batches, met Tensor"),
        (lambda: Reconstruction([], ridge=-1), "ridge= to be a number from 0 on, met -1"),
        (lambda: Reconstruction([], at_once=0), "at_once= to be a whole number from 1 on, met 0"),
        (lambda: Reconstruction([], greedy=1), "greedy= to be True or False, met 1"),
        (lambda: Reconstruction([], greedy=True, ragged=True), "leave out ragged=True, or greedy=True"),
        (lambda: Reconstruction([], greedy=True, reduction="max"), "reduction='max' does not go with it"),
        (lambda: Fluctuation([], training=True), "leave out training=True"),
        (lambda: Fluctuation([], combine=False), "leave out combine=False"),
    ],
)
def test_wrong_options(make, message):
    """Each is refused where it is given, with what would do."""
    with pytest.raises(dg.errors.PlanError, match=message):
        make()


def test_moments_of_another_model():
    """Refused before anything is read of them."""
    model, graph, _, _ = made("branches", 8)
    other = collect(nn.Sequential(nn.Linear(3, 2)), [torch.randn(4, 3)])
    with pytest.raises(dg.errors.MismatchError, match=r"no parameter '0\.weight'"):
        dg.score(graph, model, Reconstruction(other))
