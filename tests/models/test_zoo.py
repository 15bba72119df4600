"""A cross-section of the zoos through the checks of `tox run -e zoo`, with what is expected of each model by name."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.plans.making import plan_of
from depgraph.solving.statements import Rule
from tests.zoo import catalogue, conformance, detection

pytestmark = pytest.mark.models

# zoo and model: the most of the parameters that may remain; what can be pruned beside channels: heads (H), head dims (D),
# query heads for each key-value head (G), groups of convolutions (C)
MODELS = {
    "torchvision/resnet18": (0.27, ""), "torchvision/resnext50_32x4d": (0.18, "C"), "torchvision/mobilenet_v2": (0.36, ""),
    "torchvision/mobilenet_v3_small": (0.36, ""), "torchvision/googlenet": (0.64, ""), "torchvision/squeezenet1_1": (0.36, ""),
    "torchvision/shufflenet_v2_x0_5": (0.46, ""), "torchvision/lraspp_mobilenet_v3_large": (0.27, ""),
    "torchvision/fasterrcnn_mobilenet_v3_large_fpn": (0.27, ""),
    "timm/vit_tiny_patch16_224": (0.25, "HD"), "timm/convformer_s18": (0.28, ""), "timm/mixer_s32_224": (0.29, ""),
    "timm/cs3darknet_s": (0.30, ""), "timm/skresnet18": (0.27, ""), "timm/levit_128s": (0.24, "HD"),
    "timm/mobilevit_xxs": (0.30, "HD"), "timm/ghostnet_050": (0.39, ""), "timm/test_coatnet": (0.31, "HD"),
    "timm/test_nfnet": (0.38, "C"), "timm/resnest14d": (0.30, "C"), "transformers/sew": (0.14, "HDC"),
    "transformers/bert": (0.32, "HD"), "transformers/roberta": (0.33, "HD"), "transformers/gpt2": (0.25, "HD"),
    "transformers/opt": (0.35, "HD"), "transformers/gpt_neox": (0.35, "HD"), "transformers/llama": (0.35, "HD"),
    "transformers/llama_gqa": (0.22, "HDG"), "transformers/mistral": (0.23, "HDG"), "transformers/qwen3": (0.24, "HDG"),
    "transformers/gemma2": (0.22, "HDG"), "transformers/phi3": (0.23, "HDG"), "transformers/falcon": (0.28, "D"),
    "transformers/bloom": (0.28, "D"), "transformers/t5": (0.39, "HD"), "transformers/bart": (0.42, "HD"),
    "transformers/vit": (0.26, "HD"), "transformers/swin": (0.23, "HD"), "transformers/clip": (0.50, "HD"),
    "transformers/whisper": (0.32, "HD"), "transformers/wav2vec2": (0.13, "HDC"), "transformers/segformer": (0.26, "HD"),
    "transformers/mamba": (0.30, ""), "transformers/mixtral": (0.25, "HDG"),
    "plain/shufflenet": (0.42, ""), "plain/gqa_complex_rope": (0.20, "HDG"), "plain/gcn": (0.39, ""),
    "plain/lstm_bidirectional_2": (0.29, ""),
}  # fmt: skip
LETTERS = {"head": "H", "head_dim": "D", "kv_group": "G", "conv_group": "C"}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_the_zoos(name):
    """Without an annotation or a patched line: all roles are found, everything is halved, the model runs, and the laws hold."""
    zoo, _, model = name.partition("/")
    remain, letters = MODELS[name]
    record = conformance.examine(catalogue.ZOOS[zoo].models()[model], timed=False, sample=3)
    assert conformance.failures(record) == []
    assert record["remaining"] <= remain
    assert {LETTERS[role] for role in record["roles"] if role in LETTERS} == set(letters)
    assert not record["unknown"]


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("timm/resnest14d", {2}), ("transformers/sew", set()), ("transformers/gemma2", {2}), ("transformers/hiera", {17, 33}),
        ("transformers/llama_gqa", set()), ("plain/linear_attention", {2}), ("plain/lstm_projected", {7}),
    ],
)  # fmt: skip
def test_least_sizes_keep_forward_on_its_branches(name, bounds):
    """With no more left than the least size of every group, forward does what it did; query heads may become single ones."""
    zoo, _, model = name.partition("/")
    model, args, kwargs = catalogue.ZOOS[zoo].models()[model]()
    graph = dg.trace(model, args, kwargs)
    assert {group.lower_bound for group in graph.groups} - {1} == bounds
    plan = plan_of(graph, {group.atom: dg.IndexSet.range(0, group.size - group.lower_bound) for group in graph.groups})
    testing.assert_square(graph, plan, model, args, kwargs)


@pytest.mark.parametrize("name", ["resnet50", "vit_base_patch16_224", "swin_base_patch4_window7_224", "convnext_base"])
def test_models_without_weights(name):
    """On the meta device a model is traced, planned and executed, and the square closes."""
    record = conformance.examine(catalogue.ZOOS["timm-meta"].models()[name], timed=False)
    assert record["checks"] == dict.fromkeys(conformance.META_CHECKS, "ok")
    assert (record["device"], record["prunable"] > 0.95) == ("meta", True)


def test_a_wrong_rule_is_found(monkeypatch):
    """Where ReLU is taken to say nothing, the checks fail, and the record says so; a forward that fails is a record, too."""

    def make():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval(), (torch.randn(1, 3, 8, 8),), {}

    assert conformance.failures(conformance.examine(make, timed=False)) == []
    true = dg.trace
    deaf = dg.RULES | {"aten.relu": Rule(lambda call: ())}
    monkeypatch.setattr(dg, "trace", lambda *args: true(*args, rules=deaf))
    record = conformance.examine(make, timed=False)
    assert {failure.split(":")[0] for failure in conformance.failures(record)} == {"zero_channels", "sound"}
    assert "RuntimeError: Given groups=1" in record["checks"]["sound"]
    record = conformance.examine(lambda: (nn.Linear(3, 4), (torch.randn(2, 5),), {}), timed=False)
    assert record["checks"]["trace"].startswith("RuntimeError") and record["checks"]["plan"] == "not reached"


def test_regions_and_suppression():
    """The stand-ins for torchvision's operators: a known overlap, and pooling a plane gives the plane's values."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 4]])
    scores = torch.tensor([0.5, 0.9, 0.7, 0.6])
    assert detection.nms(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert detection.nms(boxes, scores, 0.9).tolist() == [1, 2, 3, 0]
    rows = torch.arange(16.0)[:, None].expand(16, 16)[None, None]
    pooled = detection.roi_align(rows, torch.tensor([[0.0, 4, 4, 12, 12]]), 1.0, 2, 2, 2, True)
    assert torch.allclose(pooled, torch.tensor([[5.5, 5.5], [9.5, 9.5]])[None, None])


def test_channels_pass_through_pooled_regions():
    """`roi_align` keeps channels apart from boxes: the producer's outputs are the consumer's inputs."""
    detection.operators()

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x, boxes):
            return self.last(torch.ops.torchvision.roi_align(self.first(x), boxes, 1.0, 2, 2, 2, True))

    graph = dg.trace(Pooled(), (torch.randn(1, 3, 8, 8), torch.tensor([[0.0, 1, 1, 7, 7]])), mode="real")
    assert [group.members for group in graph.groups] == [(("first.weight", 0), ("first.bias", 0), ("last.weight", 1))]


@pytest.fixture(scope="module")
def script():
    """docs/zoo.py as a module."""
    path = Path(__file__).parents[2] / "docs" / "benchmarks" / "zoo.py"
    spec = importlib.util.spec_from_file_location("zoo_script", path)
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    return module


def test_records_are_merged(script, tmp_path):
    """A later run replaces its own records only; Torch-Pruning's columns stay beside ours; the page counts both."""
    store = script.Store(tmp_path)
    done = {"checks": {"trace": "ok", "square": "ok"}, "roles": {}, "params": 1, "pinned": []}
    store.merge("torchvision", False, {"model": "resnet18", **done})
    store.merge("torchvision", False, {"model": "alexnet", "checks": {"trace": "ValueError: no"}})
    store.merge("torchvision", True, {"model": "resnet18", "checks": {"construct": "ok", "prune": "KeyError: x"}})
    store.merge("torchvision", False, {"model": "alexnet", **done})
    records = store.load()
    assert list(records) == [("torchvision", "alexnet"), ("torchvision", "resnet18")]
    assert records["torchvision", "alexnet"]["checks"]["trace"] == "ok"
    assert records["torchvision", "resnet18"]["peer"]["checks"]["prune"] == "KeyError: x"
    page = (tmp_path / "zoo.md").read_text()
    assert "| torchvision | 2 | 2/2 | 2/2 |" in page and "- resnet18, prune: KeyError: x" in page


def test_what_a_process_leaves_is_kept(script):
    """A process that ends in a check, by the limit or by itself, gives a record that names the check."""
    started = {"model": "m", "stage": "square", "checks": {"trace": "ok", "square": "not reached"}}
    record = script.finished(dict(started, checks=dict(started["checks"])), "over the limit of 1 s", [])
    assert record == {"model": "m", "checks": {"trace": "ok", "square": "over the limit of 1 s (in square)"}}
    record = script.finished({"model": "m", "stage": "start"}, "ended with status 1", ["ImportError: no timm"])
    assert record["checks"] == {"trace": "ended with status 1: ImportError: no timm (in start)"}
    assert script.finished({"model": "m", "checks": {"trace": "ok"}}, "ended with status 0", [])["checks"] == {"trace": "ok"}
