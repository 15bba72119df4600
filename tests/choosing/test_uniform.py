"""`uniform=`: the named groups keep equal sizes under every policy and budget."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from tests.laws.refuting import refuted
from tests.zoo import transformers


class Stack(nn.Module):
    """Layers with an inner width each, on one stream."""

    def __init__(self, widths):
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(4, width) for width in widths)
        self.down = nn.ModuleList(nn.Linear(width, 4) for width in widths)

    def forward(self, x):
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return x


GRAPH = dg.trace(Stack([8, 8, 8]), torch.zeros(1, 4))
INNER = tuple(group.name for group in GRAPH.groups)
SCORES = st.fixed_dictionaries({name: st.lists(st.floats(0, 9), min_size=8, max_size=8) for name in INNER})


def equal_sizes(graph, names, plan):
    """All of these groups lose equally many indices."""
    counts = {len(plan.removed.get(name, ())) for name in names}
    assert len(counts) == 1, f"the groups lose {sorted(counts)}"


@given(
    SCORES,
    st.sampled_from(["group", "global", "isomorphic"]),
    st.sampled_from([{"macs": 0.6}, {"params": 0.5}, {"ratio": 0.4}]),
)
def test_sizes_stay_equal_and_each_loses_its_own(scores, scope, target):
    plan = dg.plan(GRAPH, scores, scope=scope, uniform=["up.*:out"], **target)
    equal_sizes(GRAPH, INNER, plan)
    assert plan.cuts
    for name, removed in plan.removed.items():
        kept = set(range(8)) - set(removed)
        assert max(scores[name][index] for index in removed) <= min(scores[name][index] for index in kept)


def test_a_global_ranking_alone_is_refuted():
    scores = {name: [number * 10.0 + index for index in range(8)] for number, name in enumerate(INNER)}
    plan = dg.plan(GRAPH, scores, scope="global", macs=0.6)
    refuted(equal_sizes, GRAPH, INNER, plan, says=r"the groups lose \[")
    equal_sizes(GRAPH, INNER, dg.plan(GRAPH, scores, scope="global", macs=0.6, uniform=["up.*:out"]))


def test_sets_are_uniform_each_for_itself():
    scores = {name: [number * 10.0 + index for index in range(8)] for number, name in enumerate(INNER)}
    plan = dg.plan(GRAPH, scores, scope="global", macs=0.6, uniform=[("up.0:out", "up.1:out"), "up.2:out"])
    equal_sizes(GRAPH, INNER[:2], plan)
    assert INNER[2] not in plan.removed


def test_what_cannot_be_uniform_is_told():
    graph = dg.trace(Stack([8, 6]), torch.zeros(1, 4))
    scores = {group.name: list(range(group.size)) for group in graph.groups}
    with pytest.raises(
        dg.errors.PlanError, match=r"cannot keep equal sizes, for theirs are different: 'up\.0\.weight:0' has 8"
    ):
        dg.plan(graph, scores, ratio=0.5, uniform=["up.*:out"])
    with pytest.raises(dg.errors.UnknownNameError, match="upp"):
        dg.plan(graph, scores, ratio=0.5, uniform=["upp.*"])


@pytest.mark.models
@pytest.mark.needs("transformers")
def test_a_llama_keeps_one_width_for_all_layers():
    torch.manual_seed(0)
    config = transformers().LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=50
    )
    model, ids = transformers().LlamaForCausalLM(config).eval(), torch.randint(50, (2, 6))
    graph = dg.trace(model, kwargs={"input_ids": ids, "use_cache": False})
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    options = {"scope": "global", "params": 0.7, "only": ["*.up_proj:out"]}
    small = dg.execute(dg.plan(graph, scores, uniform=["*.up_proj:out"], **options), model)
    widths = {layer.mlp.up_proj.out_features for layer in small.model.layers}
    assert len(widths) == 1 and widths < {*range(64)}


@pytest.mark.parametrize("wrong", [5, [5], [None, "up.*"]])
def test_what_is_no_pattern_is_told(wrong):
    with pytest.raises(dg.errors.PlanError, match=r"expected uniform= as a list of patterns, .* met (5|None)"):
        dg.plan(GRAPH, dict.fromkeys(INNER, range(8)), ratio=0.5, uniform=wrong)


@given(SCORES, st.sampled_from([{"macs": 0.6}, {"params": 0.5}, {"ratio": 0.4}]))
def test_groups_of_one_structure_are_uniform(scores, target):
    """Without patterns: those that have the same size, so that nothing is asked for what can't be equal."""
    equal_sizes(GRAPH, INNER, dg.plan(GRAPH, scores, scope="global", uniform="isomorphic", **target))


def test_groups_of_one_structure_and_different_sizes_stay_apart():
    graph = dg.trace(Stack([8, 8, 6]), torch.zeros(1, 4))
    scores = {group.name: [number * 10.0 + index for index in range(group.size)] for number, group in enumerate(graph.groups)}
    plan = dg.plan(graph, scores, macs=0.6, scope="global", uniform="isomorphic")
    equal_sizes(graph, [group.name for group in graph.groups[:2]], plan)
    refuted(equal_sizes, graph, [group.name for group in graph.groups], plan)
