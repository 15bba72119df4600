"""Axes of inputs, outputs and vocabularies that are free: the plan keeps its promises to who calls the model."""

import copy

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.errors import MismatchError, PinnedError, PlanError, TraceError, UnknownNameError
from depgraph.testing import modules, plans
from tests.laws.refuting import refuted
from tests.zoo import transformers

IMAGES = torch.rand(3, 3, 4, 4)
FREE = ["input:1", "output:1"]


def interface_only(graph, plan):
    """The part of a plan that cuts what callers know."""
    roles = {group.name: group.role for group in graph.groups}
    return dg.cut_each(graph, {cut.group: [*cut.removed] for cut in plan.cuts if roles[cut.group] in {"input", "output"}})


def assert_same_for_callers(plan, model, small, x):
    """Law: on the inputs that stay, beside zeros in place of those that went, the outputs that stay are what they were."""
    kept_in, kept_out = dict(plan.kept_inputs.get("input[0]", {})), dict(plan.kept_outputs.get("output", {}))
    whole, taken = torch.zeros_like(x), [*kept_in.get(1, range(x.shape[1]))]
    whole[:, taken] = x[:, taken]
    expected = model(whole)[:, [*kept_out.get(1, range(model(whole).shape[1]))]]
    torch.testing.assert_close(small(x[:, taken]), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=8)
@given(st.data())
def test_what_is_free_may_go_and_the_rest_is_what_it_was(data):
    """Random networks lose input channels and classes: the laws of plans hold, and callers get what the plan says."""
    model = data.draw(modules())
    graph = dg.trace(model, IMAGES, free=FREE)
    assert {group.role for group in graph.groups} >= {"input", "output"}
    plan = data.draw(plans(graph))
    inputs = IMAGES[:, [*plan.kept_inputs.get("input[0]", {}).get(1, range(3))]]
    testing.assert_square(graph, plan, model, inputs)
    testing.assert_round_trip(graph, plan)
    testing.assert_unit(graph, plan)
    again = data.draw(plans(plan.apply(graph)))
    assert plan.then(again).apply(graph) == again.apply(plan.apply(graph))
    alone = interface_only(graph, plan)
    if not alone.cuts:
        return
    small = testing.assert_square(graph, alone, model, inputs)
    with torch.no_grad():
        assert_same_for_callers(alone, model, small, IMAGES)
        if alone.kept_outputs and len(alone.kept_outputs["output"][1]) > 1:
            other = copy.deepcopy(small)
            last = [module for module in other.modules() if isinstance(module, nn.Linear)][-1]
            last.weight.copy_(last.weight.flip(0))
            last.bias.copy_(last.bias.flip(0) + torch.arange(len(last.bias)))
            refuted(assert_same_for_callers, alone, model, other, IMAGES)


def test_nothing_is_free_unless_it_is_named():
    """Without `free=` graphs are what they were; a ratio, a budget and a layer's name leave free axes whole."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
    x = torch.zeros(2, 4)
    graph = dg.trace(model, x, free=["output:-1"])
    assert dg.trace(model, x).free == () and dg.trace(model, x) != graph
    scores = dg.score(graph, model, dg.Magnitude())
    by_layer = {"ratio": {"*": 0.5, "2": 0.5}}
    options = ({"ratio": 0.5}, {"params": 0.5}, by_layer, {"ratio": 0.5, "only": ["2", "0"]}, {"ratio": 0.5, "only": "*"})
    for option in options:
        assert list(dg.plan(graph, scores, **option).removed) == ["0.weight:0"]
    for option in ({"ratio": {"role:output": 0.5}}, {"ratio": 0.5, "only": ["2.weight:0"]}):
        assert list(dg.plan(graph, scores, **option).removed) == ["2.weight:0"]
    with pytest.raises(
        PlanError, match=r"'2:out' names no group: it holds what those who call .* '2.weight:0' \(role:output\)"
    ):
        dg.plan(graph, scores, ratio={"2:out": 0.5})
    assert {candidate.group for candidate in dg.candidates(graph, scores)} == {"0.weight:0"}


def test_names_of_what_is_free():
    """Inputs and outputs go by the names that the graph shows, with dots as well; all that is wrong is told at once."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.age, self.sex = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 2)

        def forward(self, x, scale):
            y = self.body(x * scale).relu()
            return {"age": self.age(y), "sex": self.sex(y)}

    model, x = Heads(), torch.zeros(2, 3)

    def free(*names):
        graph = dg.trace(model, x, {"scale": torch.ones(3)}, free=names)
        return [(item.name, item.dim, item.kind) for item in graph.free]

    assert free("output.age:-1") == free("output['age']:1") == [("output['age']", 1, "output")]
    assert free("scale:0", "input:-1") == [("input[0]", 1, "input"), ("kwargs['scale']", 0, "input")]
    message = (
        "expected free= to name axes of inputs, outputs and vocabularies, met:\n"
        "  - 'output:-1': there are several, \"output['age']\", \"output['sex']\"; name one\n"
        "  - 'input:2': 'input[0]' has 2 dimensions, 2 is not one of them\n"
        "  - 'output.aeg:1': no input, output or vocabulary has this name; did you mean \"output['age']\"?\n"
        "  - 'input': write a name and a dimension, such as 'output:-1', 'input:1', or 'vocabulary'\n"
        "  - 'vocabulary': forward looks up no numbers of an input in a parameter\n"
        "Nothing was changed."
    )
    with pytest.raises(TraceError) as caught:
        free("output:-1", "input:2", "output.aeg:1", "input", "vocabulary")
    assert str(caught.value).replace("\"output['age']\", \"output['sex']\"?", "\"output['age']\"?") == message
    with pytest.raises(TraceError, match=r"expected free= as a list of texts such as 'output:-1', met 3 in it"):
        free(3)
    graph = dg.trace(model, x, {"scale": torch.ones(3)}, free=["output.age:-1"])
    plan = dg.cut(graph, "output['age']", [1, 2], dim=1)
    assert dict(plan.kept_outputs["output['age']"]) == {1: dg.IndexSet.of([0, 3, 4])}
    with pytest.raises(PinnedError, match="it is a dimension of the model's output"):
        dg.cut(graph, "output['sex']", [1], dim=1)


class Language(nn.Module):
    """A model of ids with a head that is tied, of its own or missing, and with masks made in one of several ways."""

    def __init__(self, head, mask, vocabulary=9, padding=6):
        super().__init__()
        self.mask, self.pad_token_id, self.vocab_size = mask, padding, vocabulary
        self.embed, self.body = nn.Embedding(vocabulary, 4, padding_idx=padding), nn.Linear(4, 4)
        self.head = nn.Linear(4, vocabulary) if head != "none" else nn.Identity()
        if head == "tied":
            self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids.view(-1, ids.shape[-1]))
        if self.mask == "attribute":
            x = x * ids.ne(self.pad_token_id)[..., None]
        elif self.mask == "literal":
            x = x * (ids != 2)[..., None]
        elif self.mask == "used":
            x = x * (ids != self.pad_token_id)[..., None] + self.pad_token_id * torch.ones_like(x)
        return self.head(self.body(x).relu().cumsum(1))


def assert_left_as_it_was(plan, model, small, ids):
    """Law: on inputs without the ids that went, the logits that stay are what they were."""
    kept = plan.kept_outputs.get("output", {}).get(2)
    expected = model(ids) if kept is None else model(ids)[..., [*kept]]
    torch.testing.assert_close(small(dg.new_ids(plan, ids)), expected)


@settings(max_examples=25)
@given(st.sampled_from(["tied", "own", "none"]), st.sampled_from(["none", "attribute", "literal", "used"]), st.data())
def test_ids_that_stay_mean_what_they_meant(head, mask, data):
    """Whatever ids go, logits of the others are what they were, and numbers that stand for ids follow or hold them back."""
    torch.manual_seed(0)
    model = Language(head, mask).eval()
    stay = data.draw(st.sets(st.integers(0, 8), min_size=2, max_size=8)) | {6}
    gone = sorted(set(range(9)) - stay)
    ids = torch.tensor(
        data.draw(st.lists(st.lists(st.sampled_from(sorted(stay)), min_size=3, max_size=3), min_size=1, max_size=3))
    )
    graph = dg.trace(model, ids, free=["vocabulary", *(["output:-1"] if head == "own" else [])])
    removed = {"embed.weight:0": gone, **({"head.weight:0": gone} if head == "own" else {})}
    held = {"literal": 2, "used": 6}.get(mask, -1)
    if gone and gone[0] <= held:
        with pytest.raises(PlanError, match=f"the indices 0 to {held} of a vocabulary must stay"):
            dg.cut_each(graph, removed)
        return
    plan = dg.cut_each(graph, removed)
    if not plan.cuts:
        return
    small = testing.assert_square(graph, plan, model, dg.new_ids(plan, ids))
    testing.assert_round_trip(graph, plan)
    assert small.embed.padding_idx == small.pad_token_id == sorted(stay).index(6)
    assert small.vocab_size == len(stay)
    with torch.no_grad():
        assert_left_as_it_was(plan, model, small, ids)
        moved = copy.deepcopy(small)
        moved.embed.weight.copy_(moved.embed.weight.roll(1, 0) + 1)
        refuted(assert_left_as_it_was, plan, model, moved, ids)
    second = data.draw(st.sampled_from([new for new, old in enumerate(sorted(stay)) if old != 6 and old > held] or [None]))
    if second is not None and len(stay) > 2 and head != "own":
        again = dg.cut(plan.apply(graph), "embed.weight", [second], dim=0)
        both = plan.then(again)
        assert both.apply(graph) == again.apply(plan.apply(graph))
        assert both == dg.cut(graph, "embed.weight", [*gone, sorted(stay)[second]], dim=0)


def test_a_plan_that_leaves_an_index_behind_is_refused():
    """The moves of a plan follow from its cuts: fewer, more or others are no plan for the graph."""
    model, ids = Language("tied", "attribute"), torch.tensor([[0, 3]])
    graph = dg.trace(model, ids, free=["vocabulary"])
    plan = dg.cut(graph, "embed.weight", [1, 2], dim=0)
    assert [(edit.path, edit.old, edit.new) for edit in plan.moves] == [("embed.padding_idx", 6, 4), ("pad_token_id", 6, 4)]
    for moves in ((), plan.moves[:1], (attrs.evolve(plan.moves[0], new=3), plan.moves[1])):
        with pytest.raises(MismatchError, match="its moves of indices are not those that its cuts ask for"):
            attrs.evolve(plan, moves=moves).apply(graph)
    with pytest.raises(MismatchError, match="its axes of inputs, outputs and vocabularies are not those"):
        attrs.evolve(plan, free=plan.free[:1]).apply(graph)
    with pytest.raises(PlanError, match=r"index 6 of a vocabulary would go, for which the attribute embed.padding_idx stands"):
        dg.cut(graph, "embed.weight", [6], dim=0)


def test_what_else_is_done_with_ids_pins_the_vocabulary():
    """Ids that forward computes, or computes with, are positions that nobody may move; the same ids move two tables."""

    class Other(nn.Module):
        def __init__(self, way):
            super().__init__()
            self.way, self.one, self.two = way, nn.Embedding(8, 4), nn.Embedding(8, 4)

        def forward(self, ids):
            if self.way == "shifted":
                return self.one((ids + 1) % 8)
            if self.way == "ordered":
                return self.one(ids) * (ids > 3)[..., None]
            if self.way == "computed":
                return self.one(ids) + self.one(torch.arange(ids.shape[1]))
            return self.one(ids) + self.two(ids)

    ids = torch.tensor([[1, 2, 5]])
    with pytest.raises(TraceError, match="no input, output or vocabulary has this name"):
        dg.trace(Other("shifted"), ids, free=["one.weight:0"])
    for way, reason in (
        ("ordered", r"aten.gt computes with its ids"),
        ("computed", "forward computes the ids that it looks up"),
    ):
        graph = dg.trace(Other(way), ids, free=["vocabulary"])
        assert not [group for group in graph.groups if group.role == "vocabulary"]
        with pytest.raises(PinnedError, match=reason):
            dg.cut(graph, "one.weight", [0], dim=0)
    graph = dg.trace(Other("both"), ids, free=["vocabulary"])
    plan = dg.cut(graph, "one.weight", [0, 3], dim=0)
    assert plan.kept_ids["one.weight"] == plan.kept_ids["two.weight"] == dg.IndexSet.of([1, 2, 4, 5, 6, 7])
    testing.assert_square(graph, plan, Other("both"), dg.new_ids(plan, ids))
    alone = dg.trace(Other("both"), ids, free=["one.weight:0"])
    with pytest.raises(PinnedError, match="the same ids look up another table, which is not free"):
        dg.cut(alone, "one.weight", [0], dim=0)


def test_new_ids_of_tokens():
    """Ids that went are told, or replaced by one that stays; labels that do not count pass."""
    graph = dg.trace(Language("none", "none"), torch.tensor([[0, 3]]), free=["embed.weight:0"])
    plan = dg.cut(graph, "embed.weight", [1, 4], dim=0)
    assert dg.new_ids(plan, torch.tensor([-100, 0, 8])).tolist() == [-100, 0, 6]
    assert dg.new_ids(plan, torch.tensor([1, 4, 5], dtype=torch.int32), instead=3).tolist() == [2, 2, 3]
    with pytest.raises(PlanError, match=r"the ids 1, 4 went from 'embed.weight'. Leave them out, or say with instead="):
        dg.new_ids(plan, torch.tensor([4, 1, 0, 1]))
    with pytest.raises(PlanError, match=r"expected ids below 9, for so many 'embed.weight' has, met 9"):
        dg.new_ids(plan, torch.tensor([9]))
    with pytest.raises(PlanError, match=r"expected an id that 'embed.weight' keeps as instead=, met 4"):
        dg.new_ids(plan, torch.tensor([0]), instead=4)
    with pytest.raises(PlanError, match=r"expected a Plan and a tensor of integers, met Plan and Tensor of torch.float32"):
        dg.new_ids(plan, torch.zeros(2))
    with pytest.raises(PlanError, match="expected a plan that cuts one vocabulary, met one that cuts none"):
        dg.new_ids(dg.Plan.empty(graph), torch.tensor([0]))
    with pytest.raises(UnknownNameError, match=r"did you mean 'embed.weight'"):
        dg.new_ids(plan, torch.tensor([0]), table="embde.weight")


def language_model(name):
    """A small language model of transformers, with ids of its configuration in the middle of the vocabulary."""
    library = transformers()
    torch.manual_seed(0)
    shared = {"vocab_size": 20, "pad_token_id": 4, "bos_token_id": 9, "eos_token_id": [12, 19] if name == "llama" else 19}
    if name == "gpt2":
        config = library.GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=16, **shared)
        return library.GPT2LMHeadModel(config).eval()
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    if name == "llama":
        return library.LlamaForCausalLM(library.LlamaConfig(**sizes, **shared)).eval()
    return library.BertForMaskedLM(library.BertConfig(**sizes, max_position_embeddings=16, **shared)).eval()


@pytest.mark.models
@pytest.mark.needs("transformers")
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_real_language_models_lose_tokens(name, tmp_path):
    """A tied head, one of its own, and a tied one with a bias: logits of what stays, the loss, generation and ids are right."""
    model, gone = language_model(name), [0, 2, 5, 13, 14]
    kwargs = {"input_ids": torch.tensor([[1, 12, 9, 19], [18, 3, 4, 4]]), **({} if name == "bert" else {"use_cache": False})}
    graph = dg.trace(model, (), kwargs, free=["vocabulary", *(["output.logits:-1"] if name == "llama" else [])])
    tables = [group.name for group in graph.groups if group.role in {"vocabulary", "output"}]
    assert len(tables) == (2 if name == "llama" else 1)
    plan = dg.cut_each(graph, dict.fromkeys(tables, gone))
    new = {**kwargs, "input_ids": dg.new_ids(plan, kwargs["input_ids"])}
    small = testing.assert_square(graph, plan, model, (), new)
    kept = [*plan.kept_outputs["output['logits']"][2]]
    assert kept == [token for token in range(20) if token not in gone]
    with torch.no_grad():
        torch.testing.assert_close(small(**new).logits, model(**kwargs).logits[..., kept])
        labels = {"input_ids": new["input_ids"], "labels": new["input_ids"]}
        assert small(**labels).loss.isfinite()
        if name != "bert":
            prompts = kwargs["input_ids"][:1]
            options = {"max_new_tokens": 4, "do_sample": False}
            banned = {"suppress_tokens": gone}
            longer = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options, **banned)
            shorter = small.generate(dg.new_ids(plan, prompts), attention_mask=torch.ones_like(prompts), **options)
            assert dg.new_ids(plan, longer).equal(shorter)
    assert (small.config.vocab_size, small.config.pad_token_id) == (15, 2)
    assert small.config.eos_token_id == ([9, 14] if name == "llama" else 14)
    assert model.config.vocab_size == 20 and model.config.pad_token_id == 4
    saved = dg.hf.save_pretrained(plan, small, tmp_path / "small")
    assert saved.keys["vocab_size"] == (20, 15) and saved.keys["pad_token_id"] == (4, 2)
    loaded = dg.hf.from_pretrained(tmp_path / "small")
    assert loaded.config.pad_token_id == 2 and loaded(**new).logits.equal(small(**new).logits)
