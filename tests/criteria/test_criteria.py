"""Criteria on weights: exact values against hand formulas, reductions, normalisers, who takes part, laws."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.algebra.index_maps import leaves
from depgraph.criteria.reductions import NORMALISERS, REDUCTIONS

WEIGHTS = [
    dg.Magnitude(p=1),
    dg.Magnitude(p=2),
    dg.Magnitude(p=3.5),
    dg.criteria.LAMP(),
    dg.criteria.FPGM(),
    dg.criteria.FPGM(p=2),
    dg.criteria.Elementwise(torch.exp),
]


def raw(criterion=dg.Magnitude, **options):
    """A criterion without a normaliser."""
    return criterion(normaliser="none", **options)


def only(scores):
    """The importances of the one group that there is."""
    (values,) = scores.values()
    return values


class Net(nn.Module):
    """Convolution, normalisation, and a linear layer behind a flatten: three members, two biases."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Linear(3 * 4, 2)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


def net():
    """A `Net` with random scales and biases, and its graph."""
    torch.manual_seed(1)
    model = Net().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model, dg.trace(model, torch.randn(2, 2, 3, 3))


def places(model):
    """Each member's weights, one row per channel."""
    return model.conv.weight.flatten(1), model.norm.weight[:, None], model.head.weight.view(2, 3, 4).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("p", [0.5, 1, 2, 3])
def test_magnitude_is_the_mean_of_the_members_power_sums(p):
    """Rows of the convolution, scales, and the four columns of each channel behind the flatten."""
    model, graph = net()
    expected = sum(part.abs().pow(p).sum(1) for part in places(model)) / 3
    assert only(dg.score(graph, model, raw(p=p))) == pytest.approx(expected.tolist(), rel=1e-5)
    assert only(dg.score(graph, model, raw(p=p))) != pytest.approx(places(model)[0].abs().pow(p).sum(1).tolist(), rel=1e-2)


def test_biases_take_part_when_asked_for():
    """Then each is a member of its own."""
    model, graph = net()
    parts = [*places(model), model.conv.bias[:, None], model.norm.bias[:, None]]
    expected = sum(part.square().sum(1) for part in parts) / 5
    assert only(dg.score(graph, model, raw(bias=True))) == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_group_of_biases_only_is_measured_by_them():
    """A vector that is only added is a bias, but where a group has nothing else it takes part."""

    class Added(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.tensor([1.0, -2.0, 3.0])), nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return x + (self.a + self.b).sum()

    graph = dg.trace(Added(), torch.randn(2, 2))
    assert only(dg.score(graph, Added(), raw(reduction="sum"))) == (1.0, 4.0, 9.0)


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.InstanceNorm2d])
def test_biases_of_normalisations_are_told_from_their_scales(kind):
    """The second parameter of a normalisation is its bias."""
    norm = {nn.LayerNorm: lambda: nn.LayerNorm([4, 1, 1]), nn.GroupNorm: lambda: nn.GroupNorm(2, 4)}.get(
        kind, lambda: kind(4, affine=True)
    )()
    model = nn.Sequential(nn.Conv2d(2, 4, 1), norm, nn.Conv2d(4, 2, 1))
    graph = dg.trace(model.eval(), torch.randn(2, 2, 1 if kind is nn.LayerNorm else 3, 1 if kind is nn.LayerNorm else 3))
    apart = dg.score(graph, model, dg.Magnitude(reduction="none"))
    assert {name for held in apart.members.values() for name, _ in held} == {"0.weight", "1.weight", "2.weight"}


def test_biases_of_addmm_and_recurrent_layers_are_known():
    """The first operand of addmm, and the one-dimensional parameters of a recurrent layer."""

    class Addmm(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b, self.head = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(5)), nn.GRU(5, 4)

        def forward(self, x):
            return self.head(torch.addmm(self.b, x, self.w)[None])[0].sum(-1)

    model = Addmm()
    graph = dg.trace(model, torch.randn(2, 3))
    apart = dg.score(graph, model, dg.Magnitude(reduction="none"))
    named = {name for held in apart.members.values() for name, _ in held}
    assert named == {"w", "head.weight_ih_l0", "head.weight_hh_l0"}


def test_a_transposed_view_of_a_weight_is_the_weight():
    """What reaches a product through a transpose counts with the product's type."""

    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.head = nn.Parameter(torch.randn(5, 3)), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(nn.functional.linear(x, self.w.t().contiguous().t()))

    model = Views()
    graph = dg.trace(model, torch.randn(2, 3))
    assert only(dg.score(graph, model, dg.Magnitude(types={dg.OpType.LINEAR}, reduction="none")).members) == (
        ("w", 0), ("head.weight", 1),
    )  # fmt: skip


def test_types_choose_layers():
    """Only convolutions, or only the linear layer; a type that no group has is an error that names it."""
    model, graph = net()
    conv, _, head = places(model)
    found = dg.score(graph, model, raw(types={dg.OpType.CONV}))
    assert only(found) == pytest.approx(conv.square().sum(1).tolist(), rel=1e-5)
    found = dg.score(graph, model, raw(types=dg.OpType.LINEAR))
    assert only(found) == pytest.approx(head.square().sum(1).tolist(), rel=1e-5)
    with pytest.raises(dg.errors.PlanError, match="no group has a parameter in a layer of the types EMBEDDING"):
        dg.score(graph, model, dg.Magnitude(types={dg.OpType.EMBEDDING}))


def test_bn_scale_is_the_absolute_scale():
    """Network slimming; a group without a batch normalisation has no score, and the plan says so."""
    model, graph = net()
    assert only(dg.score(graph, model, raw(dg.criteria.BNScale))) == pytest.approx(model.norm.weight.abs().tolist())
    both = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 1, 1)).eval()
    graph = dg.trace(both, torch.randn(1, 1, 2, 2))
    scores = dg.score(graph, both, dg.criteria.BNScale())
    assert list(scores) == ["0.weight:0"]
    with pytest.raises(dg.errors.PlanError, match=r"there is no score for group '2\.weight:0'.* name these in only="):
        dg.plan(graph, scores, ratio=0.5)
    assert dg.plan(graph, scores, ratio=0.5, only=["0.weight:0"]).cuts
    assert dg.plan(graph, {**dg.score(graph, both, dg.Magnitude()), **scores}, ratio=0.5).cuts


def test_lamp_divides_by_what_is_not_smaller():
    """Ascending 1, 2, 5 become 1/8, 2/7 and 1."""
    assert NORMALISERS["lamp"](torch.tensor([5.0, 1.0, 2.0])).tolist() == pytest.approx([1.0, 1 / 8, 2 / 7])


def test_fpgm_sums_distances_of_whole_channels():
    """All that a channel owns in a member is one vector, the four columns behind the flatten too."""
    model, graph = net()
    conv, _, head = places(model)
    expected = sum(torch.stack([(part - row).norm(dim=1).sum() for row in part]) for part in (conv, head)) / 2
    assert only(dg.score(graph, model, raw(dg.criteria.FPGM))) == pytest.approx(expected.tolist(), rel=1e-5)
    squared = sum(torch.stack([(part**2 - row**2).norm(dim=1).sum() for row in part]) for part in (conv, head)) / 2
    assert only(dg.score(graph, model, raw(dg.criteria.FPGM, p=2))) == pytest.approx(squared.tolist(), rel=1e-5)


def test_a_function_of_ones_own():
    """Elementwise, summed as any other; and a callable of (graph, model) is a criterion by itself."""
    model, graph = net()
    found = dg.score(graph, model, raw(dg.criteria.Elementwise, function=lambda w: (w > 0.5).float()))
    assert only(found) == pytest.approx((sum((part > 0.5).sum(1) for part in places(model)) / 3).tolist())
    found = dg.score(graph, model, lambda given, inside: {"conv.weight:0": inside.conv.weight.square().sum((1, 2, 3))})
    assert found == {"conv.weight:0": tuple(model.conv.weight.square().sum((1, 2, 3)).tolist())}
    assert dg.score(graph, nn.DataParallel(model), lambda given, inside: {} if (given, inside) == (graph, model) else 1) == {}
    with pytest.raises(dg.errors.PlanError, match=r"the function gave \(\) for 'conv.weight'; expected a tensor of shape"):
        dg.score(graph, model, dg.criteria.Elementwise(lambda w: w.sum()))


def test_what_a_function_returns_is_checked():
    """All that is wrong is told at once; infinite numbers, which never go or go first, are right."""
    model, graph = net()
    infinite = (math.inf, -math.inf, 1.0)
    assert only(dg.score(graph, model, lambda *_: {"conv.weight:0": infinite})) == infinite
    for values, problem in [
        ((1.0, 2.0), "expected 3 numbers, one per index, met 2"),
        ((1.0, math.nan, 2.0), "NaN at index 1"),
        ((1.0, "2", 3.0), "expected numbers, met '2'"),
        (torch.tensor(1.0), "expected one number per index, met float"),
        (torch.ones(2, 3), "met a table, but "),
    ]:
        with pytest.raises(dg.errors.PlanError) as caught:
            dg.score(graph, model, lambda *_, values=values: {"conv.weight:0": values, "convv": ()})
        assert problem in str(caught.value) and "'convv': it is no group of the graph" in str(caught.value)
    with pytest.raises(dg.errors.PlanError, match="to return group names with their numbers, met float"):
        dg.score(graph, model, lambda *_: 1.0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions(reduction):
    """Each against its formula over the members in the order of the group."""
    model, graph = net()
    parts = torch.stack([part.square().sum(1) for part in places(model)])[[0, 1, 2]]
    expected = {
        "sum": parts.sum(0), "mean": parts.mean(0), "max": parts.amax(0), "prod": parts.prod(0), "first": parts[0],
        "gate": parts[2],
    }[reduction]  # fmt: skip
    order = only(dg.score(graph, model, dg.Magnitude(reduction="none")).members)
    assert order == (("conv.weight", 0), ("norm.weight", 0), ("head.weight", 1))
    assert only(dg.score(graph, model, raw(reduction=reduction))) == pytest.approx(expected.tolist(), rel=1e-5)


def test_no_reduction_keeps_members_apart_and_plans_refuse_it():
    """`MemberScores` reduce to what the criterion gives with that reduction."""
    model, graph = net()
    apart = dg.score(graph, model, raw(reduction="none"))
    expected = [tuple(part.square().sum(1).tolist()) for part in places(model)]
    assert [pytest.approx(values, rel=1e-5) for values in expected] == list(only(apart.scores))
    assert only(apart.reduce("max", "sum")) == pytest.approx(
        only(dg.score(graph, model, dg.Magnitude(reduction="max", normaliser="sum"))), rel=1e-5
    )
    with pytest.raises(dg.errors.PlanError, match="expected scores by group name, met MemberScores"):
        dg.plan(graph, apart, ratio=0.5)
    with pytest.raises(dg.errors.PlanError, match="expected a reduction among"):
        apart.reduce("none")


@pytest.mark.parametrize("name", NORMALISERS)
def test_normalisers(name):
    """Each against its formula; where all are equal to zero, nothing is divided by it."""
    values = torch.tensor([1.0, 2.0, 5.0])
    expected = {
        "none": [1, 2, 5], "sum": [1 / 8, 2 / 8, 5 / 8], "mean": [3 / 8, 6 / 8, 15 / 8], "max": [0.2, 0.4, 1],
        "standardisation": [0, 0.25, 1], "lamp": [1 / 8, 2 / 7, 1],
        "gaussian": [(v - 8 / 3) / math.sqrt(13 / 3) for v in (1, 2, 5)],
    }[name]  # fmt: skip
    assert NORMALISERS[name](values).tolist() == pytest.approx(expected)
    assert NORMALISERS[name](torch.zeros(3)).tolist() == [0, 0, 0]
    assert math.isfinite(NORMALISERS[name](torch.ones(1)).item())


def test_a_normaliser_of_ones_own():
    """A function of one vector; another shape is refused."""
    model, graph = net()
    values = torch.tensor(only(dg.score(graph, model, raw())))
    found = only(dg.score(graph, model, dg.Magnitude(normaliser=lambda v: v / v.median())))
    assert found == pytest.approx((values / values.median()).tolist())
    with pytest.raises(dg.errors.PlanError, match=r"the normaliser gave the shape \(\) for group 'conv.weight:0' of 3 indices"):
        dg.score(graph, model, dg.Magnitude(normaliser=torch.sum))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: dg.Magnitude(p=-1), "expected p= to be a positive number, met -1"),
        (lambda: dg.Magnitude(p=math.inf), "expected p= to be a positive number, met inf"),
        (lambda: dg.Magnitude(p="2"), "expected p= to be a positive number, met '2'"),
        (lambda: dg.Magnitude(reduction="median"), r"expected reduction= to be one of \['sum', .*met 'median'"),
        (lambda: dg.Magnitude(normaliser="norm"), r"expected normaliser= to be one of \['none', .*met 'norm'"),
        (lambda: dg.Magnitude(bias=1), "expected bias= to be True or False, met 1"),
        (lambda: dg.Magnitude(types=nn.Linear), "expected types= to be a set of dg.OpType"),
        (lambda: dg.criteria.FPGM(types=["conv"]), "expected types= to be a set of dg.OpType"),
        (lambda: dg.Magnitude(types=()), "expected types= to be a set of dg.OpType"),
        (lambda: dg.criteria.FPGM(p=0), "expected p= to be a positive number, met 0"),
        (lambda: dg.criteria.Elementwise(3), "expected function= to be a function of a tensor, met 3"),
    ],
)  # fmt: skip
def test_options_are_checked(make, match):
    """What was expected and what was met."""
    with pytest.raises(dg.errors.PlanError, match=match):
        make()


def test_grouped_convolutions_sum_over_their_blocks():
    """Index i of each block goes in every block: its importance is the sum over the blocks."""
    model = nn.Sequential(
        nn.Conv2d(2, 6, 1, bias=False), nn.Conv2d(6, 4, 1, groups=2, bias=False), nn.Conv2d(4, 2, 1, bias=False)
    )
    graph = dg.trace(model, torch.randn(1, 2, 3, 3))
    scores = dg.score(graph, model, raw(reduction="sum", types={dg.OpType.CONV}))
    first = model[0].weight.square().sum((1, 2, 3)).view(2, 3)
    inner = graph.group("1.weight", dim=1)
    expected = first.sum(0) + model[1].weight.square().sum((0, 2, 3))
    assert inner.size == 3 and scores[inner.name] == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_summed_in_single_precision(dtype):
    """Sums of many small squares do not stop growing, as they would in half precision."""
    model = nn.Sequential(nn.Linear(20000, 2, bias=False), nn.Linear(2, 1)).to(dtype)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    graph = dg.trace(model, torch.randn(1, 20000, dtype=dtype))
    assert only(dg.score(graph, model, raw(reduction="first"))) == (20000.0, 20000.0)


@pytest.mark.parametrize(
    "criterion", WEIGHTS, ids=[f"{number}-{type(criterion).__name__}" for number, criterion in enumerate(WEIGHTS)]
)
def test_scores_are_plain_numbers_and_the_model_is_left_alone(criterion):
    """Python floats, one for each index, and the same bytes in the model."""
    model, graph = net()
    before = testing.snapshot(model)
    scores = dg.score(graph, model, criterion)
    assert testing.snapshot(model) == before
    assert all(type(value) is float for value in only(scores)) and len(only(scores)) == 3


@settings(max_examples=15, deadline=None)
@given(testing.modules(), st.sampled_from(WEIGHTS), st.randoms(use_true_random=False))
def test_permuting_indices_permutes_the_scores(model, criterion, random):
    """Permute the indices of one group in every tensor: its scores are permuted, those of the other groups stay."""
    graph = dg.trace(model, torch.randn(2, 3, 4, 4))
    group = random.choice(graph.groups)
    order = list(range(group.size))
    random.shuffle(order)
    shuffled = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in shuffled.named_parameters():
            for dim, space in enumerate(graph.by_name[name].axes):
                tensor.copy_(tensor.index_select(dim, torch.tensor(permutation(space, group.atom, order))))
    before, after = dg.score(graph, model, criterion), dg.score(graph, shuffled, criterion)
    expected = {**before, group.name: tuple(before[group.name][index] for index in order)}
    for name, values in expected.items():
        assert after[name] == pytest.approx(values, rel=1e-3, abs=1e-6), name
    if max(before[group.name]) - min(before[group.name]) > 1e-2 and order[::-1] != order:
        turned = tuple(before[group.name][order.index(index)] for index in range(group.size))
        assert turned == pytest.approx(before[group.name]) or after[group.name] != pytest.approx(before[group.name], rel=1e-6)


def permutation(space, atom, order):
    """Where each flat index of a space is read from, when the indices of one of its atoms are read in another order."""
    flat = list(range(space.size))
    for leaf in leaves(space):
        if leaf.atom == atom:
            for base in leaf.bases():
                for new, old in enumerate(order):
                    to, source = (atom.size - 1 - new, atom.size - 1 - old) if leaf.backwards else (new, old)
                    for step in range(leaf.stride):
                        flat[base + to * leaf.stride + step] = base + source * leaf.stride + step
    return flat


@settings(max_examples=10, deadline=None)
@given(st.floats(0.25, 4.0), st.sampled_from([1, 2, 3]))
def test_scaling_the_weights_scales_the_scores(factor, p):
    """abs(c w) ** p = abs(c) ** p abs(w) ** p; a mean normaliser takes the factor out again."""
    model, graph = net()
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.mul_(-factor)
    before = only(dg.score(graph, model, raw(p=p)))
    assert only(dg.score(graph, scaled, raw(p=p))) == pytest.approx([factor**p * value for value in before], rel=1e-4)
    assert only(dg.score(graph, scaled, dg.Magnitude(p=p))) == pytest.approx(
        only(dg.score(graph, model, dg.Magnitude(p=p))), rel=1e-4
    )


def test_scores_of_members_are_read_only_and_can_be_copied():
    """A frozen value hands out nothing that can be written to; pickling and deep copies give an equal one."""
    model, graph = net()
    apart = dg.score(graph, model, dg.Magnitude(reduction="none"))
    for mapping in (apart.members, apart.scores):
        with pytest.raises(TypeError, match="does not support item assignment"):
            mapping["x"] = ()
    assert copy.deepcopy(apart) == apart
