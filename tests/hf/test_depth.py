"""Models of transformers without some of their layers: saved, loaded by stock transformers, and their configurations."""

import pytest
import torch

import depgraph as dg
from tests.models.test_drops import IDS, deep
from tests.zoo.language import small_transformers

pytestmark = pytest.mark.models


def saved(model, kwargs, plan, folder):
    """What both ways of loading give for the pruned model, and what was said when it was saved."""
    small = dg.execute(plan, model)
    said = dg.hf.save_pretrained(plan, small, folder / "small")
    loaded = [dg.hf.from_pretrained(said.folder)]
    if said.stock:
        loaded.append(type(model).from_pretrained(said.folder).eval())
    with torch.no_grad():
        expected = small(**kwargs)[0]
        assert all(torch.equal(each(**kwargs)[0], expected) for each in loaded)
    return said, loaded


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_layers_and_widths(name, tmp_path):
    """The number of layers, and of each kind, beside the widths that all layers have."""
    model, path = deep(name), "model.layers"
    graph = dg.trace(model, IDS)
    drop = dg.drop(graph, path, [0, 3])
    left, small = drop.apply(graph), dg.execute(drop, model)
    plan = drop.then(dg.plan(left, dg.score(left, small, dg.Magnitude(p=2)), ratio=0.25, only=["*.mlp.*"]))
    said, loaded = saved(model, {"input_ids": IDS}, plan, tmp_path)
    assert said.stock and said.keys.items() >= {"num_hidden_layers": (4, 2), "intermediate_size": (48, 36)}.items()
    assert all(each.config.num_hidden_layers == 2 for each in loaded)
    if name == "qwen2":
        assert loaded[1].config.layer_types == ["sliding_attention", "full_attention"]


def test_a_number_that_forward_does_not_read_is_found(tmp_path):
    """BERT goes over its list whole: which key counts its layers is found by building."""
    model, _, kwargs = small_transformers("bert")()
    plan = dg.drop(dg.trace(model, kwargs=kwargs), "bert.encoder.layer", [1])
    said, _ = saved(model, kwargs, plan, tmp_path)
    assert said.stock and said.keys == {"num_hidden_layers": (2, 1)}


def test_layers_that_differ_are_loaded_by_the_plan(tmp_path):
    """Other widths in the two layers that stay: no configuration says so, the original one and the plan do."""
    model = deep("llama")
    graph = dg.trace(model, IDS)
    drop = dg.drop(graph, "model.layers", [1])
    left = drop.apply(graph)
    plan = drop.then(dg.cut(left, "model.layers.1.mlp.up_proj.weight", range(8), dim=0))
    said, (loaded,) = saved(model, {"input_ids": IDS}, plan, tmp_path)
    assert not said.stock and len(loaded.model.layers) == 3 and loaded.config.num_hidden_layers == 3


def test_a_configuration_in_place():
    model, _, kwargs = small_transformers("bert")()
    plan = dg.drop(dg.trace(model, kwargs=kwargs), "bert.encoder.layer", [0])
    small = dg.execute(plan, model)
    assert dg.hf.update_config_(plan, small) == {"num_hidden_layers": (2, 1)}
    assert small.config.num_hidden_layers == 1 and model.config.num_hidden_layers == 2
