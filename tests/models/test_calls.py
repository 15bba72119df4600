"""Models that other calls than the first one break, pruned for all of them."""

import pytest
import torch

import depgraph as dg
from depgraph.graph.checking import check
from tests.zoo import torchvision, transformers

pytestmark = pytest.mark.models

EVERYTHING = {"*": 0.5, "role:head": 0.5, "role:kv_group": 0.5}


def llama():
    """A small model with grouped queries, a prompt, and the same with a mask that has zeros on the left."""
    library = transformers()
    config = library.LlamaConfig(
        vocab_size=101,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    ids, mask = torch.randint(0, 101, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    mask[0, :3] = 0
    return library.LlamaForCausalLM(config).eval(), {"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}


def pruned(graph, model, ratio):
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=ratio)
    return plan, dg.execute(plan, model)


def test_a_language_model_for_prompts_masks_training_and_generation():
    """`num_key_value_groups` is read only where there is a mask: traced with it, padded batches run."""
    model, prompt, padded = llama()
    blind = pruned(dg.trace(model, kwargs=prompt), model, EVERYTHING)[1]
    with pytest.raises(RuntimeError, match="must match the size of tensor"):
        blind(**padded)
    calls = [dg.Call(kwargs=padded), dg.Call(kwargs=prompt | {"labels": prompt["input_ids"]}, training=True)]
    graph = dg.trace(model, kwargs=prompt, also=calls)
    assert check(graph) == ()
    plan, small = pruned(graph, model, EVERYTHING)
    assert [edit.new for edit in plan.edits if edit.path.endswith("num_key_value_groups")] == [2, 2]
    assert small(**padded).logits.shape == (2, 6, 101)
    assert small.train()(**prompt, labels=prompt["input_ids"]).loss.ndim == 0
    assert small.eval().generate(**padded, max_new_tokens=3, do_sample=False).shape == (2, 9)
    assert dg.trace(small, kwargs=prompt, also=calls) == plan.apply(graph)


def test_auxiliary_heads_of_googlenet():
    """They are reached in training only, and read what the plan cuts."""
    model, x = torchvision().models.googlenet(init_weights=False).eval(), torch.randn(2, 3, 96, 96)
    with pytest.warns(dg.errors.UnreachedWarning, match="'aux1.conv.conv'"):
        blind = dg.trace(model, x)
    with pytest.raises(RuntimeError, match="expected input"):
        pruned(blind, model, 0.5)[1].train()(x)
    calls = [dg.Call(x, training=True)]
    graph = dg.trace(model, x, also=calls)
    assert graph.macs == blind.macs
    plan, small = pruned(graph, model, 0.5)
    assert [tuple(out.shape) for out in small.train()(x)] == [(2, 1000)] * 3
    assert dg.trace(small.eval(), x, also=calls) == plan.apply(graph)
