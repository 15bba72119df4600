"""Numbers do not depend on where in memory the weights lie: views of one buffer, strided and transposed parameters."""

import copy

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing

IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def in_one_buffer(parameters):
    """Views of one flat tensor, one after the other, as optimizers and sharded training lay parameters out."""
    flat = torch.cat([torch.full((3,), 9.0), *(parameter.detach().reshape(-1) for parameter in parameters)])
    offset = 3
    for parameter in parameters:
        parameter.data = flat[offset : offset + parameter.numel()].view(parameter.shape)
        offset += parameter.numel()


def every_other_element(parameters):
    """Views with holes between all elements."""
    for parameter in parameters:
        holes = torch.full((*parameter.shape, 2), 9.0)
        holes[..., 1] = parameter.detach()
        parameter.data = holes[..., 1]


def transposed(parameters):
    """The last dimension lies outermost in memory; a vector is read from a column of a matrix."""
    for parameter in parameters:
        data = parameter.detach()
        if data.ndim > 1:
            parameter.data = data.movedim(-1, 0).contiguous().movedim(0, -1)
        else:
            parameter.data = torch.stack([torch.full_like(data, 9.0), data], 1)[:, 1]


LAYOUTS = [in_one_buffer, every_other_element, transposed]


def loss(model, batch):
    """One loss per sample."""
    return model(batch).square().flatten(1).sum(1)


CRITERIA = {
    "magnitude": lambda **options: dg.Magnitude(p=2, **options),
    "absolute magnitude": lambda **options: dg.Magnitude(p=1, **options),
    "lamp": lambda **options: dg.criteria.LAMP(**options),
    "fpgm": lambda **options: dg.criteria.FPGM(**options),
    "elementwise": lambda **options: dg.criteria.Elementwise(lambda weight: weight, **options),
    "random": lambda **options: dg.criteria.Random(0),
    "taylor": lambda **options: dg.criteria.Taylor([IMAGES], loss, **options),
    "hessian": lambda **options: dg.criteria.Hessian([IMAGES], loss, **options),
    "obdc": lambda **options: dg.criteria.OBDC([IMAGES], loss, **options),
    "activation": lambda **options: dg.criteria.Activation([IMAGES], **options),
    "wanda": lambda **options: dg.criteria.Wanda([IMAGES], **options),
    "scale": lambda **options: dg.criteria.BNScale(normaliser="none"),
}


def pair(layout, kind):
    """A model, the same model in another layout, and their graph."""
    torch.manual_seed(0)
    if kind == "grouped":
        model = nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5), nn.Linear(5, 2)
        ).eval()
    else:
        model = testing.network(["attention", "residual"], 4, 3, 2, False).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    moved = copy.deepcopy(model)
    layout(list(moved.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), moved.parameters(), strict=True))
    graph = dg.trace(model, IMAGES)
    assert dg.trace(moved, IMAGES) == graph
    return model, moved, graph


def close(met, expected):
    """Whether two nests of numbers agree up to the order of sums."""
    if isinstance(expected, (tuple, list)):
        return len(met) == len(expected) and all(map(close, met, expected))
    return met == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", CRITERIA)
def test_scores_do_not_depend_on_the_layout(name, ragged, layout):
    """Every criterion, biases taking part, gives for views what it gives for a copy: for every member by itself."""
    for kind in ["grouped"] if name == "scale" else ["grouped", "attention"]:
        model, moved, graph = pair(layout, kind)
        apart = {} if name in {"random", "scale"} else {"reduction": "none"}
        criterion = CRITERIA[name](normaliser="none", bias=True, ragged=ragged, **apart)
        expected, met = dg.score(graph, model, criterion), dg.score(graph, moved, criterion)
        if apart:
            assert met.members == expected.members and expected.members
            expected, met = expected.scores, met.scores
        assert met.keys() == expected.keys() and expected
        assert all(close(met[group], expected[group]) for group in expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["grouped", "attention"])
def test_penalties_and_their_gradients_do_not_depend_on_the_layout(kind, layout):
    """The same gather serves the penalties."""
    model, moved, graph = pair(layout, kind)
    strengths = {group.name: torch.arange(1.0, group.size + 1) for group in graph.groups}
    for penalty in (dg.penalties.group_lasso, dg.penalties.group_l2):
        expected, met = penalty(graph, model, strengths), penalty(graph, moved, strengths)
        torch.testing.assert_close(met, expected)
        gradients = dg.penalties.penalty_gradients(met, moved)
        for name, gradient in dg.penalties.penalty_gradients(expected, model).items():
            torch.testing.assert_close(gradients[name], gradient)
