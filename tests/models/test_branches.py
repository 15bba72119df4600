"""Attention and MLPs leave models of transformers and torchvision: what stays computes what zeros in their places would."""

import copy

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.errors import PlanError
from depgraph.execution.branches import AddsNothing
from tests.models.test_drops import IDS, deep
from tests.zoo import torchvision, transformers
from tests.zoo.language import small_transformers

pytestmark = pytest.mark.models

TEXT = {"input_ids": IDS, "use_cache": False}


def gemma(number):
    """A small Gemma 2 or 3, whose branches end in a normalisation."""
    library = transformers()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "vocab_size": 100}
    sizes |= {"num_key_value_heads": 1, "head_dim": 8}
    torch.manual_seed(0)
    config = library.Gemma2Config(**sizes) if number == 2 else library.Gemma3TextConfig(**sizes)
    return library.AutoModelForCausalLM.from_config(config).eval()


def vit():
    torch.manual_seed(0)
    return torchvision().models.VisionTransformer(8, 4, 2, 2, 16, 24).eval()


CASES = {
    "llama attention": (lambda: deep("llama"), "model.layers.1.self_attn", ["input_layernorm"], "self_attn.o_proj"),
    "llama mlp": (lambda: deep("llama"), "model.layers.1.mlp", ["post_attention_layernorm"], "mlp.down_proj"),
    "gpt2 attention": (lambda: deep("gpt2"), "transformer.h.1.attn", ["ln_1"], "attn.c_proj"),
    "gpt2 mlp": (lambda: deep("gpt2"), "transformer.h.1.mlp", ["ln_2"], "mlp.c_proj"),
    "gemma2 mlp": (
        lambda: gemma(2),
        "model.layers.1.mlp",
        ["post_feedforward_layernorm", "pre_feedforward_layernorm"],
        "mlp.down_proj",
    ),
    "gemma3 attention": (
        lambda: gemma(3),
        "model.layers.1.self_attn",
        ["input_layernorm", "post_attention_layernorm"],
        "self_attn.o_proj",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_stays_computes_what_zeros_would(name):
    """The square, files, and the oracle: the last layer of the branch is zero."""
    build, path, beside, last = CASES[name]
    model = build()
    layer = path.rpartition(".")[0]
    graph = dg.trace(model, kwargs=TEXT)
    plan = dg.drop_branches(graph, path)
    assert plan.branches[0].beside == tuple(f"{layer}.{item}" for item in beside)
    small = testing.assert_square(graph, plan, model, kwargs=TEXT)
    assert dg.trace(small, kwargs=TEXT).calls == plan.apply(graph).calls
    assert dg.trace(small, kwargs=TEXT).sequences == plan.apply(graph).sequences
    testing.assert_round_trip(graph, plan)
    assert_zeros(model, f"{layer}.{last}", small, TEXT)


def assert_zeros(model, last, small, kwargs):
    """The model with zeros in the last layer of a branch computes what the model without the branch does."""
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in zeroed.get_submodule(last).parameters():
            parameter.zero_()
        assert torch.equal(zeroed(**kwargs)[0], small(**kwargs)[0])


def test_a_norm_behind_the_sum_stays():
    """BERT normalises the sum, in the module that adds: what is before the sum goes, the norm does not."""
    model, _, kwargs = small_transformers("bert")()
    graph = dg.trace(model, kwargs=kwargs)
    for path, last in (("attention.self", "attention.output.dense"), ("intermediate", "output.dense")):
        plan = dg.drop_branches(graph, f"bert.encoder.layer.1.{path}")
        assert plan.branches[0].beside == (f"bert.encoder.layer.1.{last}",)
        small = testing.assert_square(graph, plan, model, kwargs=kwargs)
        assert isinstance(small.get_submodule(f"bert.encoder.layer.1.{last}".replace("dense", "LayerNorm")), nn.LayerNorm)
        assert_zeros(model, f"bert.encoder.layer.1.{last}", small, kwargs)
    with pytest.raises(PlanError, match=r"attention may not leave: what it gives is read by"):
        dg.drop_branches(graph, "bert.encoder.layer.1.attention")


def test_attention_of_torch_returns_none_beside_zeros():
    model, x = vit(), torch.randn(1, 3, 8, 8)
    graph = dg.trace(model, x)
    plan = dg.drop_branches(graph, ["encoder.layers.encoder_layer_0.self_attention", "encoder.layers.*.mlp"])
    small = testing.assert_square(graph, plan, model, x)
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for last in ("0.self_attention.out_proj", "0.mlp.3", "1.mlp.3"):
            for parameter in zeroed.get_submodule(f"encoder.layers.encoder_layer_{last}").parameters():
                parameter.zero_()
        assert torch.equal(zeroed(x), small(x))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("place", [0, 2])
def test_generation_goes_on_with_its_cache(name, place):
    """A cache takes its length from the first layer, whose attention may have left: the same tokens come as without it."""
    model = deep(name)
    path = f"model.layers.{place}.self_attn" if name == "llama" else f"transformer.h.{place}.attn"
    small = dg.execute(dg.drop_branches(dg.trace(model, kwargs=TEXT), path), model)
    assert small.get_submodule(path).layer_idx == place
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached = small.generate(IDS, use_cache=True, **options)
    assert torch.equal(cached, small.generate(IDS, use_cache=False, **options))
    assert torch.equal(cached, small.generate(IDS, cache_implementation="static", **options))


def test_places_follow_when_a_layer_leaves_as_well():
    """A layer before the one without attention leaves: the module that adds nothing moves up, and knows it."""
    model = deep("llama")
    graph = dg.trace(model, kwargs=TEXT)
    first = dg.drop_branches(graph, "model.layers.2.self_attn")
    plan = first.then(dg.drop(first.apply(graph), "model.layers", [0]))
    small = testing.assert_square(graph, plan, model, kwargs=TEXT)
    assert isinstance(small.model.layers[1].self_attn, AddsNothing)
    assert [layer.self_attn.layer_idx for layer in small.model.layers] == [0, 1, 2]
    other = dg.drop(graph, "model.layers", [0])
    assert plan == other.then(dg.drop_branches(other.apply(graph), "model.layers.1.self_attn"))


def test_a_folder_is_loaded_with_the_plan(tmp_path):
    """No configuration of transformers says that a layer has no attention: the plan beside the weights does."""
    model = deep("llama")
    plan = dg.drop_branches(dg.trace(model, kwargs=TEXT), ["model.layers.1.self_attn", "model.layers.3.mlp"])
    small = dg.execute(plan, model)
    said = dg.hf.save_pretrained(plan, small, tmp_path / "small")
    loaded = dg.hf.from_pretrained(said.folder)
    assert not said.stock and said.problems
    with torch.no_grad():
        assert torch.equal(loaded(**TEXT)[0], small(**TEXT)[0])


@pytest.mark.parametrize(
    ("name", "paths", "why"),
    [
        ("llama", ["model.layers.*.self_attn"], "keep one branch of its kind"),
        ("llama", ["model.layers.1.self_attn.o_proj"], "none of its arguments has the space"),
        ("llama", ["model.layers.1.mlp.up_proj"], "and not added to what it is made from"),
        ("llama", ["model.layers.1"], "is read by"),
        ("gpt2", ["transformer.h.1.mlp", "transformer.h.1.ln_2"], "h.1.mlp goes with transformer.h.1.ln_2: name one of them"),
    ],
)
def test_what_may_not_leave_is_told(name, paths, why):
    with pytest.raises(PlanError, match=why):
        dg.drop_branches(dg.trace(deep(name), kwargs=TEXT), paths)
