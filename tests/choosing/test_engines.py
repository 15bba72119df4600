"""Presets and checks for engines: a plan made with a preset brings nothing that the engine does not take as it is."""

from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.choosing import engines
from tests.laws.refuting import refuted
from tests.zoo import transformers

X = torch.arange(6).view(1, 6)


class Decoder(nn.Module):
    """A language model with grouped queries and a gated inner width in each layer."""

    def __init__(self, hidden=64, heads=8, kv_heads=4, head_dim=16, inner=(128, 128)):
        super().__init__()
        self.embed, self.kv_heads, self.head_dim = nn.Embedding(20, hidden), kv_heads, head_dim
        self.layers = nn.ModuleList(Layer(hidden, heads, kv_heads, head_dim, width) for width in inner)
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, 20)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Layer(nn.Module):
    def __init__(self, hidden, heads, kv_heads, head_dim, inner):
        super().__init__()
        self.dims = (heads, kv_heads, head_dim)
        self.norm_1, self.norm_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.q, self.k = nn.Linear(hidden, heads * head_dim), nn.Linear(hidden, kv_heads * head_dim)
        self.v, self.o = nn.Linear(hidden, kv_heads * head_dim), nn.Linear(heads * head_dim, hidden)
        self.up, self.gate, self.down = nn.Linear(hidden, inner), nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def forward(self, x):
        y, (_, _, width) = self.norm_1(x), self.dims
        q, k, v = (layer(y).unflatten(-1, (-1, width)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        repeats = q.shape[1] // k.shape[1]
        k, v = (each.repeat_interleave(repeats, 1) for each in (k, v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.norm_2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


@cache
def traced(**options):
    model = Decoder(**options)
    return model, dg.trace(model, X)


DECODERS = [
    {},
    {"hidden": 96, "heads": 8, "kv_heads": 1, "inner": (192, 192)},
    {"hidden": 60, "heads": 6, "kv_heads": 3, "head_dim": 10, "inner": (100, 100)},
    {"inner": (128, 96)},
]
SETTINGS = [
    ("vllm", {"tensor_parallel": 2}),
    ("vllm", {"tensor_parallel": 4, "attention": "flash_attention_3"}),
    ("tensorrt_llm", {"tensor_parallel": 3}),
    ("gguf", {"format": "q8_0"}),
    ("gguf", {"format": "f16"}),
    ("onnxruntime", {"multiple": 8}),
    ("onnxruntime", {"multiple": 4, "block_size": 16}),
    ("flash_attention", {"version": 2}),
]
"""Engines with settings that the small decoders above can meet, and one that they can't."""


def options_for(engine, settings, **more):
    return getattr(dg.engines, engine)(**settings, **more)


def nothing_new(graph, plan, engine, settings):
    """Whatever the engine does not take as it is was there before, at the same place and of the same kind."""
    before = {(item.layer, item.what) for item in dg.engines.check(graph, engine, **settings).findings}
    new = [
        item
        for item in dg.engines.check(graph, engine, plan=plan, **settings).findings
        if (item.layer, item.what) not in before
    ]
    assert not new, f"the plan brings {new[0].what} of {new[0].size}: {new[0].effect}"


def scored(graph, seed):
    random = Random(seed)
    return {group.name: [random.random() for _ in range(group.size)] for group in graph.groups}


TARGETS = st.sampled_from([{"ratio": 0.3}, {"ratio": {"*": 0.4, "role:head": 0.5}}, {"macs": 0.7}, {"params": 0.8}])


@given(
    st.sampled_from(DECODERS),
    st.integers(),
    st.sampled_from(SETTINGS),
    TARGETS,
    st.sampled_from(["group", "global", "isomorphic"]),
)
def test_a_plan_made_with_a_preset_brings_nothing_new(options, seed, engine, target, scope):
    """Under every kind of target and every scope."""
    (_, graph), (name, settings) = traced(**options), engine
    try:
        plan = dg.plan(graph, scored(graph, seed), scope=scope, **target, **options_for(name, settings))
    except dg.errors.PlanError as error:
        assert "nothing can be removed" in str(error) or "out of reach" in str(error)
        assume(False)
    nothing_new(graph, plan, name, settings)


def test_plans_made_otherwise_are_refuted():
    """Without a preset, for fewer ranks, without equal sizes, and with head dims that go."""
    _, graph = traced()
    scores = {group.name: [position + index for index in range(group.size)] for position, group in enumerate(graph.groups)}
    for name, asked in (item for item in SETTINGS if item[0] != "gguf" or item[1]["format"] != "f16"):
        says = "refused|falls back|padded|slower|differs"
        refuted(nothing_new, graph, dg.plan(graph, scores, ratio=0.3), name, asked, says=says)
    options = options_for("vllm", {"tensor_parallel": 2})
    plan = dg.plan(graph, scores, ratio=0.3, **options)
    nothing_new(graph, plan, "vllm", {"tensor_parallel": 2})
    refuted(nothing_new, graph, plan, "vllm", {"tensor_parallel": 4}, says="outputs of 90: refused")
    uneven = dg.plan(graph, scores, params=0.8, scope="global", **(options | {"uniform": ()}))
    refuted(nothing_new, graph, uneven, "vllm", {"tensor_parallel": 2}, says="equal sizes of .*: refused")
    narrow = dg.plan(graph, scores, ratio=0.5, **(options | {"ignore": ()}))
    refuted(nothing_new, graph, narrow, "vllm", {"tensor_parallel": 2}, says="head dim of 8: differs")


def read_off(small, ranks, multiple):
    """What the modules themselves hold that is no multiple, or can't be shared out: widths, and heads."""
    weights = {
        f"{name}.weight": layer.weight for name, layer in small.named_modules() if isinstance(layer, (nn.Linear, nn.Embedding))
    }
    inputs = {name: weight.shape[1] for name, weight in weights.items() if weight.shape[1] % multiple}
    outputs = {name: weight.shape[0] for name, weight in weights.items() if weight.shape[0] % multiple and name[0] == "l"}
    heads = {}
    for number, layer in enumerate(small.layers):
        width = layer.dims[2]
        counts = {path: getattr(layer, path).out_features // width for path in "qkv"} | {"o": layer.o.in_features // width}
        if counts["q"] % ranks:
            heads[f"layers.{number}"] = counts["q"]
        for path, count in counts.items():
            if ranks % count if count < ranks else count % ranks:
                heads[f"layers.{number}.{path}.weight"] = count
    return {"inputs": inputs, "outputs": outputs, "heads": heads}


def told_as_read(small, widths, heads, ranks, multiple):
    """The findings name the sizes that the modules have."""
    told = {what: {item.layer: item.size for item in widths.findings if item.what == what} for what in ("inputs", "outputs")}
    told["heads"] = {item.layer: item.size for item in heads.findings if item.what == "heads"}
    assert told == read_off(small, ranks, multiple), "other sizes are told than the modules have"


@given(st.sampled_from(DECODERS), st.integers(), st.integers(1, 4), st.integers(2, 9))
def test_what_is_checked_is_what_the_pruned_model_has(options, seed, ranks, multiple):
    """The pruned modules themselves, and the graph of them, say the same as the plan."""
    model, graph = traced(**options)
    roles = {f"role:{group.role}": 0.5 for group in graph.groups if group.role in ("head", "kv_group")}
    plan = dg.plan(
        graph,
        scored(graph, seed),
        ratio={"*": 0.4, **roles},
        min_width={"role:head": 2, "role:kv_group": 2} if len(roles) > 1 else 2,
    )
    small = dg.execute(plan, model)
    for around, after in ((graph, plan), (dg.trace(small, X), None)):
        widths = dg.engines.check(around, "onnxruntime", plan=after, multiple=multiple)
        told_as_read(
            small, widths, dg.engines.check(around, "tensorrt_llm", plan=after, tensor_parallel=ranks), ranks, multiple
        )


def test_the_sizes_before_the_plan_are_refuted():
    model, graph = traced(hidden=60, heads=6, kv_heads=3, head_dim=10, inner=(100, 100))
    small = dg.execute(dg.plan(graph, scored(graph, 0), ratio=0.3), model)
    before = [dg.engines.check(graph, "onnxruntime", multiple=7), dg.engines.check(graph, "tensorrt_llm", tensor_parallel=4)]
    refuted(told_as_read, small, *before, 4, 7, says="other sizes")
    told_as_read(model, *before, 4, 7)


def sizes(report, what):
    """The sizes of the first layer, by place."""
    found = (item for item in report.findings if item.what == what and not item.layer.startswith("layers.1"))
    return {item.layer.removeprefix("layers.0."): item.size for item in found}


def test_the_widths_of_a_rank():
    """Of 8 heads, 2 for keys, of 16 dims, over 4 ranks: each holds 2 and half of one, which is repeated."""
    _, graph = traced(hidden=100, heads=8, kv_heads=2, inner=(120, 120))
    report = dg.engines.check(graph, "vllm", tensor_parallel=4, quantisation="marlin")
    assert sizes(report, "outputs") == {"q.weight": 32, "k.weight": 16, "v.weight": 16, "o.weight": 100, "up.weight": 30,
                                        "gate.weight": 30, "down.weight": 100}  # fmt: skip
    assert sizes(report, "inputs") == {"embed.weight": 100, "q.weight": 100, "k.weight": 100, "v.weight": 100, "o.weight": 32,
                                       "up.weight": 100, "gate.weight": 100, "down.weight": 30, "head.weight": 100}  # fmt: skip
    assert not sizes(report, "heads") and {item.effect for item in report.findings} == {"refused"}


def test_heads_are_shared_out_or_repeated():
    """Key-value heads may be fewer than ranks, if they divide them; those of queries may not."""
    _, graph = traced(heads=6, kv_heads=3)
    for ranks, found in ((1, {}), (3, {}), (6, {})):
        assert sizes(dg.engines.check(graph, "vllm", tensor_parallel=ranks), "heads") == found
    report = dg.engines.check(graph, "vllm", tensor_parallel=2)
    assert sizes(report, "heads") == {"k.weight": 3, "v.weight": 3}
    report = dg.engines.check(graph, "tensorrt_llm", tensor_parallel=12)
    assert sizes(report, "heads") == {"layers.0": 6}


def test_layers_that_leave_are_not_asked():
    """A plan that drops the layer whose width differs leaves nothing that differs."""
    _, graph = traced(inner=(128, 120, 128))
    assert sizes(dg.engines.check(graph, "vllm"), "equal sizes") == {}  # those of the layers 1 and on
    assert [item.what for item in dg.engines.check(graph, "vllm").findings] == ["equal sizes"]
    plan = dg.drop(graph, "layers", [1])
    assert not dg.engines.check(graph, "vllm", plan=plan).findings
    kept = dg.drop(graph, "layers", [0])
    assert [item.layer for item in dg.engines.check(graph, "vllm", plan=kept).findings] == ["layers.2.up.weight:0"]


def test_engines_with_classes_of_their_own_refuse_models_without_branches():
    """From a plan, and from the graph of a model whose branch has left before; what is exported or run by PyTorch is fine."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.mlp = nn.LayerNorm(64), nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 64))

        def forward(self, x):
            return x + self.mlp(self.norm(x))

    graph = dg.trace(nn.Sequential(nn.Linear(256, 64), Block(), Block()), torch.zeros(1, 256))
    plan = dg.drop_branches(graph, "1.mlp")
    for name, refuses in {"vllm": 1, "tensorrt_llm": 1, "gguf": 1, "onnxruntime": 0, "flash_attention": 0}.items():
        settings = {"format": "f16"} if name == "gguf" else {}
        for report in (
            dg.engines.check(graph, name, plan=plan, **settings),
            dg.engines.check(plan.apply(graph), name, **settings),
        ):
            found = [(item.layer, item.what, item.effect) for item in report.findings]
            assert found == [("1.mlp", "branch", "refused")] * refuses
            assert ("find no weights" in str(report)) == bool(refuses)
        assert not dg.engines.check(graph, name, **settings).findings  # the control: with all branches it is fine


def test_kernels_of_attention():
    _, graph = traced(hidden=40, heads=4, kv_heads=4, head_dim=20)
    assert sizes(dg.engines.check(graph, "flash_attention"), "head dim") == {"layers.0": 20}
    assert sizes(dg.engines.check(graph, "vllm", attention="flash_attention_3"), "head dim") == {"layers.0": 20}
    _, graph = traced(hidden=40, heads=1, kv_heads=1, head_dim=264)
    assert sizes(dg.engines.check(graph, "flash_attention"), "head dim") == {"layers.0": 264}


def test_convolutions_run_at_any_width_in_onnx():
    """Those that have one input for each output are not asked for their inputs, nor the classifier for its outputs."""
    model = nn.Sequential(nn.Conv2d(4, 12, 3), nn.Conv2d(12, 12, 1, groups=12), nn.Flatten(), nn.Linear(432, 10))
    graph = dg.trace(model, torch.zeros(1, 4, 8, 8))
    found = dg.engines.check(graph, "onnxruntime").findings
    assert [(item.layer, item.what, item.size) for item in found] == [("0.weight", "inputs", 4), ("0.weight", "outputs", 12)]
    plan = dg.plan(graph, {"0.weight:0": range(12)}, ratio=0.4, **dg.engines.onnxruntime(multiple=8))
    assert [item.what for item in dg.engines.check(graph, "onnxruntime", plan=plan).findings] == ["inputs"]


def test_heads_go_with_packed_weights_only_where_their_width_is_known():
    _, graph = traced(hidden=256, heads=16, kv_heads=8, head_dim=64, inner=(512,))
    scores = {group.name: range(group.size) for group in graph.groups}
    ratio = {"*": 0.5, "role:head": 0.5}
    whole = dg.plan(graph, scores, ratio=ratio, **dg.engines.vllm(quantisation="marlin"))
    told = dg.plan(graph, scores, ratio=ratio, **dg.engines.vllm(quantisation="marlin", head_dim=64))
    assert {name: len(gone) for name, gone in whole.removed.items()} == {"embed.weight:1": 128, "layers.0.up.weight:0": 256}
    assert len(told.removed["layers.0.q.weight:0[0]"]) == 4
    for plan in (whole, told):
        nothing_new(graph, plan, "vllm", {"quantisation": "marlin"})
        nothing_new(graph, plan, "gguf", {"format": "q8_0"})


def test_every_requirement_stands_in_the_docs():
    """With its source, in the page that tells what the presets are made of."""
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    sources = [engines._VLLM_HEADS, engines._VLLM_SPLIT, engines._VLLM_FA, engines._MARLIN, engines._FA2, engines._FA3]
    sources += [engines._TRTLLM, engines._TRTLLM_SPLIT, engines._LLAMA_CPP, engines._ONNX_BLOCKS, engines._TENSOR_CORES]
    assert not [source for source in sources if source.split(" in ")[0].split(":")[0] not in page]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda graph: dg.engines.check(graph, "llama"), "engine= to be one of 'vllm', 'tensorrt_llm', 'gguf'"),
        (lambda graph: dg.engines.check(graph, ["vllm"]), r"engine= to be one of .*, met \['vllm'\]"),
        (lambda graph: dg.engines.check(graph, "gguf", ranks=3), "gguf has no setting 'ranks'; it has 'format'"),
        (lambda graph: dg.engines.check(graph, "vllm", tensor_parallel=0), "tensor_parallel= to be a whole number"),
        (lambda graph: dg.engines.check(dg.cut(graph, "embed.weight", [0], dim=1), "vllm"), "a plan has no layers"),
        (lambda graph: dg.engines.vllm(quantisation="int3"), "quantisation= to be one of None, 'marlin', met 'int3'"),
        (lambda graph: dg.engines.vllm(head_dim=0.5), "head_dim= to be a whole number"),
        (lambda graph: dg.engines.gguf("k"), "format= to be one of 'k-quants'"),
        (lambda graph: dg.engines.onnxruntime(multiple=-1), "multiple= to be a whole number"),
        (lambda graph: dg.engines.flash_attention(4), "version= to be one of 2, 3, met 4"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(call, says):
    with pytest.raises(dg.errors.PlanError, match=says):
        call(traced()[1])


def test_a_plan_for_another_graph_is_refused():
    (_, graph), (_, other) = traced(), traced(inner=(128, 96))
    with pytest.raises(dg.errors.MismatchError, match="made for another graph"):
        dg.engines.check(graph, "vllm", plan=dg.cut(other, "embed.weight", [0], dim=1))


@pytest.mark.models
@pytest.mark.needs("transformers")
def test_a_llama_for_four_ranks():
    """Two thirds of its inner width and half of its heads go, and all that vLLM asks for holds."""
    torch.manual_seed(0)
    config = transformers().LlamaConfig(
        hidden_size=256,
        intermediate_size=1536,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=8,
        vocab_size=50,
    )
    model = transformers().LlamaForCausalLM(config).eval()
    graph = dg.trace(model, kwargs={"input_ids": torch.arange(6)[None], "use_cache": False})
    settings = {"tensor_parallel": 4, "quantisation": "marlin"}
    options = {"scope": "global", "ratio": {"*.up_proj:out": 0.7, "role:head": 0.5}}
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), **options, **dg.engines.vllm(**settings, head_dim=16))
    small = dg.execute(plan, model)
    assert {layer.mlp.up_proj.out_features for layer in small.model.layers} == {512}
    nothing_new(graph, plan, "vllm", settings)
