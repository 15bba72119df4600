"""The influence of branches is what the paper says, computed by hand; and what is asked wrongly is told at once."""

import math

import pytest
import torch
from hypothesis import given, settings
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.errors import PlanError
from tests.laws.refuting import refuted
from tests.laws.test_branches import WAYS, Mlp, Stack, stacks
from tests.models.test_drops import IDS, deep

BATCHES = [torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]


def influence(pairs):
    """1 minus the mean cosine of what is before and after."""
    cosines = [nn.functional.cosine_similarity(before, after, dim=-1) for before, after in pairs]
    return (1 - torch.cat([item.flatten() for item in cosines])).mean().item()


def steps(block, x):
    """What the two branches of a block are added to, and what they add."""
    attention = block.attention(block.norm_1(x))[0]
    y = x if block.way == "parallel" else x + attention
    mlp = block.mlp(block.norm_2(y))
    return {"attention": (x, attention), "mlp": (y, block.last(mlp) if block.way != "parallel" else mlp)}, y


def by_hand(model, batches):
    """The influence of each branch, without hooks."""
    pairs = {}
    with torch.no_grad():
        for batch in batches:
            x = model.first(batch)
            for place, block in enumerate(model.blocks):
                found, _ = steps(block, x)
                for name, (before, added) in found.items():
                    pairs.setdefault(f"blocks.{place}.{name}", []).append((before, before + added))
                x = block(x)
    return {path: influence(each) for path, each in pairs.items()}


def assert_influence(found, expected):
    """The oracle: the same branches with the same numbers."""
    assert {path: value for path, (value,) in found.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)


@settings(max_examples=12)
@given(stacks())
def test_influence_is_what_the_paper_says(model):
    """Whatever lies before, behind and beside the branches; and the model is as it was."""
    before = testing.snapshot(model)
    graph = dg.trace(model, BATCHES[0])
    found = dg.score(graph, model, dg.criteria.BranchInfluence(BATCHES))
    assert_influence(found, by_hand(model, BATCHES))
    assert testing.snapshot(model) == before and not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("way", WAYS)
def test_named_branches_alone_are_scored(way):
    """By globs; with the numbers that they have among all."""
    model = Stack([way, "weights"]).eval()
    graph = dg.trace(model, BATCHES[0])
    every = dg.score(graph, model, dg.criteria.BranchInfluence(BATCHES))
    some = dg.score(graph, model, dg.criteria.BranchInfluence(BATCHES, branches="*.mlp"))
    assert some == {path: value for path, value in every.items() if path.endswith("mlp")} and len(some) == 2


def test_other_numbers_are_refuted():
    """The negative control: what the branch is given instead of the stream, and a branch without what comes behind it."""
    torch.manual_seed(0)
    model = Stack(["projection", "weights"]).eval()
    found = dg.score(dg.trace(model, BATCHES[0]), model, dg.criteria.BranchInfluence(BATCHES))
    expected = by_hand(model, BATCHES)
    assert_influence(found, expected)
    with torch.no_grad():
        for wrong in ("normalised", "cut short"):
            pairs = []
            for batch in BATCHES:
                block, x = model.blocks[0], model.first(batch)
                _, x = steps(block, x)
                y = block.norm_2(x)
                pairs.append((y, y + block.last(block.mlp(y))) if wrong == "normalised" else (x, x + block.mlp(y)))
            refuted(assert_influence, found, expected | {"blocks.0.mlp": influence(pairs)})


class Scaled(nn.Module):
    """A branch that is scaled, and added or taken away in place."""

    def __init__(self, way):
        super().__init__()
        self.first, self.mlp, self.last, self.way = nn.Linear(4, 4), Mlp(), nn.Linear(4, 2), way

    def forward(self, x):
        x = self.first(x)
        y = 0.3 * self.mlp(x)
        if self.way == "in place":
            x += y
        elif self.way in {"minus", "minus, swapped"}:
            x = x - y if self.way == "minus" else y - x
        else:
            x = y + x if self.way == "swapped" else x + y
        return self.last(x)


@pytest.mark.parametrize("way", ["plain", "swapped", "in place", "minus", "minus, swapped"])
def test_scales_count_and_sums_in_place_are_seen(way):
    model = Scaled(way).eval()
    graph = dg.trace(model, BATCHES[0])
    found = dg.score(graph, model, dg.criteria.BranchInfluence(BATCHES))
    with torch.no_grad():
        streams, sign = [model.first(batch) for batch in BATCHES], -1 if way.startswith("minus") else 1
        assert_influence(found, {"mlp": influence([(x, x + sign * 0.3 * model.mlp(x)) for x in streams])})


def test_the_lowest_leave():
    """The numbers order branches for `dg.drop_branches`: one that adds zeros is the first, and changes nothing."""
    model = Stack(["weights"] * 3).eval()
    for parameter in model.blocks[1].mlp.outer.parameters():
        parameter.data.zero_()
    graph = dg.trace(model, BATCHES[0])
    scores = dg.score(graph, model, dg.criteria.BranchInfluence(BATCHES))
    least = sorted(scores, key=scores.get)[:1]
    assert least == ["blocks.1.mlp"] and scores[least[0]][0] == pytest.approx(0, abs=1e-6)
    assert torch.equal(dg.execute(dg.drop_branches(graph, least), model)(BATCHES[0]), model(BATCHES[0]))


def test_what_no_batch_reaches_scores_infinitely():
    """So do branches that the forward of the user's own leaves out."""
    model = Stack(["weights"] * 2).eval()
    graph = dg.trace(model, BATCHES[0])
    first = dg.criteria.BranchInfluence(BATCHES, forward=lambda model, batch: model.blocks[0](model.first(batch)))
    scores = dg.score(graph, model, first)
    assert scores["blocks.1.mlp"] == (math.inf,) and scores["blocks.0.mlp"][0] < 2


def test_what_is_asked_wrongly_is_told_at_once():
    model = Stack(["weights"] * 2).eval()
    graph = dg.trace(model, BATCHES[0])
    wrong = dg.criteria.BranchInfluence(BATCHES, branches=["blocks.0.mpl", "blocks.0.norm_1", "blocks.1.mlp", "blocks.1.mlp"])
    with pytest.raises(PlanError) as error:
        dg.score(graph, model, wrong)
    assert [told.split(":")[0].split(";")[0] for told in error.value.problems] == [
        "no module is called 'blocks.0.mpl'",
        "'blocks.1.mlp' is given more than once",
        "blocks.0.norm_1 may not leave",
    ]
    with pytest.raises(PlanError, match="expected branches= as dotted paths of modules or globs, met 3"):
        dg.criteria.BranchInfluence(BATCHES, branches=3)
    with pytest.raises(PlanError, match="there was no batch"):
        dg.score(graph, model, dg.criteria.BranchInfluence([]))
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(PlanError, match="no module of the graph runs a branch that may leave"):
        dg.score(dg.trace(plain, BATCHES[0]), plain, dg.criteria.BranchInfluence(BATCHES))


class Together(nn.Module):
    """Branches that run beside each other behind a function, in the model itself."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right, self.last = nn.Linear(4, 4), Mlp(), Mlp(), nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        y = nn.functional.layer_norm(x, (4,))
        return self.last(x + self.left(y) + self.right(y))


def test_a_stream_that_nothing_shows_is_told():
    """The sum of the second branch has another term than what it is made from, and no module is given that."""
    model = Together().eval()
    graph = dg.trace(model, BATCHES[0])
    with pytest.raises(PlanError, match=r"^right: no module around it is given what it is made.*leave it out of branches="):
        dg.score(graph, model, dg.criteria.BranchInfluence(BATCHES))
    found = dg.score(graph, model, dg.criteria.BranchInfluence(BATCHES, branches="left"))
    with torch.no_grad():
        pairs = [(x, x + model.left(nn.functional.layer_norm(x, (4,)))) for x in map(model.first, BATCHES)]
        assert_influence(found, {"left": influence(pairs)})


@pytest.mark.models
@pytest.mark.needs("transformers")
def test_a_llama_is_scored_as_hooks_see_it():
    """The streams before and after are what norms and layers are given and return."""
    model = deep("llama").eval()
    kwargs = {"input_ids": IDS, "use_cache": False}
    graph = dg.trace(model, kwargs=kwargs)
    found = dg.score(graph, model, dg.criteria.BranchInfluence([kwargs]))
    seen, expected = {}, {}
    for place, layer in enumerate(model.model.layers):
        keep = lambda module, args, place=place, name="": seen.__setitem__((place, name), args[0])  # noqa: E731
        layer.input_layernorm.register_forward_pre_hook(lambda module, args, keep=keep: keep(module, args, name="before"))
        layer.post_attention_layernorm.register_forward_pre_hook(lambda m, args, keep=keep: keep(m, args, name="between"))
        layer.register_forward_hook(lambda m, args, result, keep=keep: keep(m, (result,), name="after"))
    with torch.no_grad():
        model(**kwargs)
    for place in range(len(model.model.layers)):
        before, between, after = (seen[place, name] for name in ("before", "between", "after"))
        expected[f"model.layers.{place}.self_attn"] = influence([(before, between)])
        expected[f"model.layers.{place}.mlp"] = influence([(between, after)])
    assert_influence(found, expected)
