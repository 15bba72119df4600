"""Repair of models of torchvision and transformers, whose layers nobody named."""

import pytest
import torch

import depgraph as dg
from tests.zoo import torchvision, transformers

pytestmark = [pytest.mark.models, pytest.mark.needs("transformers", "torchvision", "timm")]


def pruned_and_repaired(model, inputs, batches, mode="auto", **options):
    """A plan of about half of the MACs, and its repair."""
    graph = dg.trace(model, kwargs=inputs)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), **{"macs": 0.6, **options})
    repair = dg.refit(plan, model, batches, mode=mode)
    small = dg.execute(plan, model, repair=repair)
    assert dg.trace(small, kwargs=inputs) == plan.apply(graph)
    return plan, repair


def test_a_residual_network():
    """Residual streams, strides and batch normalisation: all convolutions are solved."""
    torchvision()  # timm imports it
    import timm

    torch.manual_seed(0)
    model, x = timm.create_model("test_resnet", num_classes=5).eval(), torch.randn(24, 3, 48, 48)
    plan, repair = pruned_and_repaired(model, {"x": x[:1]}, list(x.split(12)))
    assert not repair.left and repair.mode == "sequential"
    assert {layer.weight for layer in repair.layers} >= {name for name, dims in plan.kept.items() if 1 in dims}
    assert repair.outputs[1] < 0.5 * repair.outputs[0]


def llama(**options):
    torch.manual_seed(0)
    config = transformers().LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=50,
        **options,
    )  # fmt: skip
    return transformers().LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("mode", ["sequential", "independent"])
def test_llama(mode):
    """Grouped queries, gates, no biases: every layer that loses inputs is solved."""
    model, ids = llama(), torch.randint(50, (24, 12))
    batches = [{"input_ids": part, "use_cache": False} for part in ids.split(8)]
    plan, repair = pruned_and_repaired(model, batches[0], batches, mode)
    assert repair.left.keys() <= {"model.embed_tokens.weight"} and not repair.note
    assert repair.outputs[1] < repair.outputs[0]
    losing = {name for name, dims in plan.kept.items() if 1 in dims and "embed" not in name}
    assert losing and losing <= {layer.weight for layer in repair.layers}


def test_a_tied_language_model_keeps_its_embedding():
    model, ids = llama(tie_word_embeddings=True), torch.randint(50, (24, 12))
    batches = [{"input_ids": part, "use_cache": False} for part in ids.split(8)]
    _, repair = pruned_and_repaired(model, batches[0], batches)
    assert repair.left == {"model.embed_tokens.weight": "aten.embedding.default uses it, too"}


def test_experts_of_a_mixture_in_one_parameter():
    """Experts that forward multiplies one by one are solved on the rows that are routed to them, or left with the operator."""
    torch.manual_seed(0)
    config = transformers().MixtralConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, vocab_size=50,
        num_local_experts=4, experts_implementation="eager",
    )  # fmt: skip
    model, ids = transformers().MixtralForCausalLM(config).eval(), torch.randint(50, (32, 12))
    batches = [{"input_ids": part, "use_cache": False} for part in ids.split(8)]
    graph = dg.trace(model, kwargs=batches[0])
    plan = dg.cut(graph, "model.layers.0.mlp.experts.down_proj", range(0, 32, 3), dim=2)
    repair = dg.refit(plan, model, batches)
    experts = [layer for layer in repair.layers if layer.weight.endswith("experts.down_proj")]
    assert len(experts) == 4 and sum(layer.rows for layer in experts) == pytest.approx(2 * 24 * 12, rel=0.1), repair
    assert repair.outputs[1] < repair.outputs[0]
