"""Layers leave models of transformers and timm: the identity in their places, caches, widths, and what stays."""

import pytest
import torch

import depgraph as dg
from depgraph import testing
from depgraph.errors import PlanError
from tests.zoo import transformers
from tests.zoo.elements import proven
from tests.zoo.language import seeded, small_transformers

pytestmark = pytest.mark.models

IDS = torch.arange(1, 9)[None]


def deep(name, layers=4, **options):
    """A small language model of some layers."""
    library = transformers()
    common = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    config = {
        "llama": lambda: library.LlamaConfig(num_key_value_heads=2, **common),
        "qwen2": lambda: library.Qwen2Config(
            num_key_value_heads=2,
            layer_types=["full_attention", "sliding_attention"] * (layers // 2),
            use_sliding_window=True,
            sliding_window=4,
            **common,
        ),
        "gpt2": lambda: library.GPT2Config(n_embd=32, n_layer=layers, n_head=4, vocab_size=100),
    }[name]()
    torch.manual_seed(0)
    return library.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(("name", "path"), [("llama", "model.layers"), ("qwen2", "model.layers"), ("gpt2", "transformer.h")])
def test_generation_goes_on_with_its_cache(name, path):
    """Each layer's place in the cache follows; with and without the cache the same tokens come."""
    model = deep(name)
    graph = dg.trace(model, IDS)
    small = dg.execute(dg.drop(graph, path, [0, 3]), model)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached = small.generate(IDS, use_cache=True, **options)
    assert torch.equal(cached, small.generate(IDS, use_cache=False, **options))
    layers = small.get_submodule(path)
    places = {path: module.layer_idx for path, module in layers.named_modules() if hasattr(module, "layer_idx")}
    assert list(places.values()) == [0, 1] and len(layers) == 2


def test_a_configuration_counts_the_layers_that_stay():
    """What forward counts the layers by, and the list with an entry for each of them."""
    model = deep("qwen2")
    plan = dg.drop(dg.trace(model, IDS), "model.layers", [0, 3])
    small = dg.execute(plan, model)
    assert small.config.num_hidden_layers == 2
    assert small.config.layer_types == ["sliding_attention", "full_attention"]
    assert model.config.num_hidden_layers == 4 and len(model.config.layer_types) == 4


@pytest.mark.parametrize("name", ["llama_gqa", "bert", "vit", "swin", "whisper", "mamba", "gpt_neox"])
def test_the_square_and_the_identity(name):
    """One of the elements of each list of several families, which know nothing of it."""
    model, args, kwargs = small_transformers(name)()
    graph = dg.trace(model, args, kwargs)
    found = 0
    for sequence in graph.sequences:
        for place in range(len(sequence.elements)):
            try:
                plan = dg.drop(graph, sequence.path, [place])
            except PlanError:
                continue
            record = proven(graph, plan, model, args, kwargs)
            assert (record["square"], record["identity"]) == (True, True), sequence.path
            found += 1
            break
    assert found


def test_the_layer_that_makes_the_positions_stays():
    """T5's first block gives its relative positions to all others."""
    model, args, kwargs = small_transformers("t5")()
    graph = dg.trace(model, args, kwargs)
    with pytest.raises(PlanError, match=r"encoder.block.0 may not leave: it gives 2 tensors that are read outside"):
        dg.drop(graph, "encoder.block", [0])
    assert len(dg.execute(dg.drop(graph, "encoder.block", [1]), model).encoder.block) == 1


def test_the_only_layers_of_a_kind_stay():
    """The window of sliding layers splits the positions: without any such layer another trace would not split them."""
    model = deep("qwen2")
    graph = dg.trace(model, IDS)
    with pytest.raises(PlanError, match="keep one of each kind"):
        dg.drop(graph, "model.layers", [1, 3])


def test_layers_and_widths_as_one_plan():
    """Depth first, then widths, as one plan: what both do one after the other."""
    model = deep("llama")
    graph = dg.trace(model, IDS)
    drop = dg.drop(graph, "model.layers", [1])
    left = drop.apply(graph)
    small = dg.execute(drop, model)
    cut = dg.plan(left, dg.score(left, small, dg.Magnitude(p=2)), ratio=0.25)
    both = drop.then(cut)
    once, twice = dg.execute(both, model), dg.execute(cut, small)
    with torch.no_grad():
        assert torch.equal(once(IDS).logits, twice(IDS).logits)
    testing.assert_square(graph, both, model, IDS)


def test_influence_chooses_the_layer_that_does_nothing():
    """A layer whose outputs are zeroed changes nothing: it scores 0, goes first, and is not missed."""
    model = seeded("llama")
    graph = dg.trace(model, IDS)
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
        before = model(IDS).logits
    scores = dg.score(graph, model, dg.criteria.BlockInfluence([IDS]))
    assert abs(scores["model.layers"][1]) < 1e-6 < scores["model.layers"][0]
    small = dg.execute(dg.plan(graph, scores, depth={"model.layers": 1}), model)
    with torch.no_grad():
        assert torch.equal(small(IDS).logits, before)
