"""Published numbers, networks of our own, and a large model without weights; `test_zoo.py` has the models of the zoos."""

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from tests import networks, zoo
from tests.zoo import vision

pytestmark = pytest.mark.models

HALF = {f"role:{role}": 0.5 for role in ("channel", "head_dim", "head", "kv_group", "conv_group", "block")}


def halve(model, inputs=(), kwargs=None):
    """Prune, check the laws, run; return the graph, its plan and the pruned model."""
    graph = testing.assert_pure(model, inputs, kwargs)
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    ratio = {role: value for role, value in HALF.items() if any(f"role:{group.role}" == role for group in graph.groups)}
    plan = dg.plan(graph, scores, ratio=ratio)
    small = testing.assert_square(graph, plan, model, inputs, kwargs)
    testing.assert_cost(plan.apply(graph), small, inputs, kwargs)
    testing.assert_zero_channels(graph, plan, model, inputs, kwargs)
    return graph, plan, small


def test_resnet18_keeps_the_published_number():
    """At ratio 0.5 ResNet-18 keeps 3,055,880 of 11,689,512 parameters, as the peer's example does."""
    model = vision.classifier("resnet18")
    graph = dg.trace(model, torch.randn(1, 3, 224, 224))
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    assert (graph.params, plan.apply(graph).params) == (11_689_512, 3_055_880)
    assert graph.macs == 1_814_073_344
    assert sum(p.numel() for p in dg.execute(plan, model).parameters()) == 3_055_880


def test_vit_keeps_the_published_number():
    """ViT-B/16, heads left, keeps 22,050,664 parameters: MultiheadAttention couples its inner width to the embedding."""
    model = vision.classifier("vit_b_16")
    graph = dg.trace(model, torch.randn(1, 3, 224, 224))
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    assert plan.apply(graph).params == 22_050_664


def test_plain_vgg():
    """A convolution without BatchNorm reaches the classifier through flatten: each channel is 16 of its inputs."""
    model = networks.PlainVGG().eval()
    graph, _, small = halve(model, torch.randn(1, 3, 16, 16))
    assert graph.group("features.3.weight", dim=0).members == (
        ("features.3.weight", 0), ("features.3.bias", 0), ("classifier.0.weight", 1),
    )  # fmt: skip
    assert small.classifier[0].in_features == 6 * 16


def test_unet():
    """Skip concats and transposed convolutions."""
    graph, _, small = halve(networks.UNet().eval(), torch.randn(1, 1, 16, 16))
    assert small.join1[0].in_channels == 8
    assert small.up1.out_channels == 4
    assert len(graph.groups) == 12


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_classifier(kind):
    """All gates lose the same hidden indices, and both directions and layers run after it."""
    model = networks.SequenceClassifier(kind).eval()
    tokens = torch.randint(0, 50, (2, 7))
    _, _, small = halve(model, tokens)
    assert (small.recurrent.hidden_size, small.recurrent.input_size) == (5, 6)
    assert small.recurrent.weight_ih_l1.shape[1] == 10
    assert all(flat is getattr(small.recurrent, name) for flat, name in zip(
        small.recurrent._flat_weights, small.recurrent._flat_weights_names, strict=True
    ))  # fmt: skip
    small.train()
    small(tokens).sum().backward()


def test_projected_lstm():
    """The projection of an LSTM is a group of its own; the hidden units stay more than it has, as PyTorch demands."""
    graph, _, small = halve(networks.SequenceClassifier(nn.LSTM, proj_size=6).eval(), torch.randint(0, 50, (2, 7)))
    assert graph.group("recurrent.weight_hr_l0", 1).lower_bound == 7
    assert small.recurrent.weight_hr_l0.shape == (3, 7)
    assert (small.recurrent.proj_size, small.recurrent.hidden_size) == (3, 7)


def test_llama_7b_on_meta():
    """A Llama-2-7B-shaped model is traced, planned and executed without a weight in memory."""
    zoo.torchvision()
    import transformers

    with torch.device("meta"):
        config = transformers.LlamaConfig(
            num_hidden_layers=4, intermediate_size=11008, hidden_size=4096, num_attention_heads=32
        )
        model = transformers.LlamaForCausalLM(config).eval()
    tokens = {"input_ids": torch.zeros(1, 8, dtype=torch.long)}
    graph = dg.trace(model, kwargs=tokens)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    small = testing.assert_square(graph, plan, model, kwargs=tokens)
    assert small.lm_head.weight.shape == (32000, 2048) and small.lm_head.weight.is_meta
    with pytest.raises(dg.errors.PlanError, match=r"meta device and has no weights to measure; use dg.criteria.Random\(seed\)"):
        dg.score(graph, model, dg.Magnitude(p=2))
