"""Real models: half of every prunable group by L2 magnitude, executed, run, and laws 3, 6 and 10."""

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from tests import networks, zoo
from tests.zoo import language, vision

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


# (name, image size, the most of the parameters that may remain): nothing here is pruned by halves only
VISION = [
    ("resnet18", 64, 0.27), ("resnet50", 64, 0.28), ("resnext50_32x4d", 64, 0.28), ("wide_resnet50_2", 64, 0.27),
    ("densenet121", 64, 0.30), ("mobilenet_v2", 64, 0.36), ("mobilenet_v3_large", 64, 0.33), ("efficientnet_b0", 64, 0.33),
    ("regnet_y_400mf", 64, 0.29), ("vgg16_bn", 64, 0.27), ("googlenet", 64, 0.66), ("inception_v3", 96, 0.37),
    ("squeezenet1_1", 64, 0.37), ("convnext_tiny", 64, 0.29), ("vit_b_16", 224, 0.14),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size", "remain"), VISION)
def test_vision_models(name, size, remain):
    """Each torchvision model is pruned by half in every group, runs, and keeps the laws."""
    model = vision.classifier(name)
    x = torch.randn(1, 3, size, size)
    graph, plan, small = halve(model, x)
    with torch.no_grad():
        assert small(x).shape == (1, 1000)
    assert plan.apply(graph).params <= remain * graph.params


# what of a model's attention can be pruned: heads (H), head dims (D), query heads per key-value head (G), and channels
TRANSFORMERS = {
    "bert": "HD", "roberta": "HD", "gpt2": "HD", "opt": "HD", "gpt_neox": "HD", "llama": "HD", "llama_gqa": "HDG",
    "mistral": "HDG", "qwen2": "HDG", "qwen3": "HDG", "gemma2": "HDG", "phi3": "HDG", "falcon": "D", "bloom": "D", "t5": "HD",
    "bart": "HD", "vit": "HD", "swin": "HD", "clip": "HD", "whisper": "HD", "wav2vec2": "HD", "segformer": "HD", "mamba": "",
    "mixtral": "HDG",
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_models(name):
    """Without an annotation or a patched line: heads and head dims are found, everything is halved, and the model runs."""
    torch.manual_seed(0)
    model, _, kwargs = language.small_transformers(name)()
    graph = testing.assert_pure(model, kwargs=kwargs)
    letters = {"head": "H", "head_dim": "D", "kv_group": "G"}
    assert set(TRANSFORMERS[name]) == {letters[group.role] for group in graph.groups if group.role in letters}
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    # a count of one query head per key-value head is another branch of the forward code: leave two
    halved = {group.name: 0.5 for group in graph.groups if group.role != "kv_group" or group.size > 2}
    plan = dg.plan(graph, scores, ratio=halved)
    small = testing.assert_square(graph, plan, model, kwargs=kwargs)
    testing.assert_atomic(plan, model)
    with torch.no_grad():
        before, after = model(**kwargs), small(**kwargs)
    assert [tuple(leaf.shape) for leaf in _tensors(after)] and plan.apply(graph).params < 0.6 * graph.params
    first = "logits_per_text" if name == "clip" else "logits"
    assert before[first].shape == after[first].shape


def _tensors(output):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama", "llama_gqa"])
def test_language_models(name):
    """The same with law 6 and law 10: the masked twin gives the same output, and the cost is what PyTorch counts."""
    model = language.seeded(name)
    tokens = {"input_ids": torch.randint(0, 100, (2, 12))}
    graph, plan, small = halve(model, kwargs=tokens)
    with torch.no_grad():
        assert small(**tokens).logits.shape == model(**tokens).logits.shape
    assert {"channel", "head_dim", "head"} <= {group.role for group in graph.groups}
    assert plan.apply(graph).params < 0.35 * graph.params


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
    """The projection of an LSTM is a group of its own."""
    _, _, small = halve(networks.SequenceClassifier(nn.LSTM, proj_size=6).eval(), torch.randint(0, 50, (2, 7)))
    assert small.recurrent.weight_hr_l0.shape == (3, 5)
    assert (small.recurrent.proj_size, small.recurrent.hidden_size) == (3, 5)


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
    plan = dg.plan(graph, dg.score(graph, model, dg.Random(0)), ratio=0.5)
    small = testing.assert_square(graph, plan, model, kwargs=tokens)
    assert small.lm_head.weight.shape == (32000, 2048) and small.lm_head.weight.is_meta
    with pytest.raises(dg.PlanError, match=r"meta device and has no weights to measure; use dg.Random\(seed\)"):
        dg.score(graph, model, dg.Magnitude(p=2))
