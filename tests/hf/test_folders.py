"""Folders of pruned models of transformers: what is loaded is what was saved, and nothing is half written."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import depgraph as dg
from tests.zoo import transformers
from tests.zoo.language import small_transformers

pytestmark = pytest.mark.needs("transformers", "safetensors")
WHOLE_HEADS = {"*": 0.5, "role:head": 0.5, "role:head_dim": 0}
LITTLE = ("llama_gqa", "gpt2", "bert")
MANY = ("mistral", "qwen3", "gemma2", "phi3", "opt", "t5", "bart", "vit", "swin", "clip", "wav2vec2", "mamba", "mixtral")


def scored(name):
    """A model with its inputs, its graph and scores."""
    torch.manual_seed(0)
    transformers().logging.disable_progress_bar()
    model, _, inputs = small_transformers(name)()
    graph = dg.trace(model, kwargs=inputs)
    return model, inputs, graph, dg.score(graph, model, dg.Magnitude(p=2))


def inner(graph):
    """The groups of channels that lie inside of one layer."""
    found = []
    for group in graph.groups:
        steps = [name.split(".") for name, _ in group.members]
        shared = [parts[0] for parts in zip(*steps, strict=False) if len(set(parts)) == 1]
        if group.role == "channel" and any(step.isdigit() for step in shared):
            found.append(group.name)
    return found


def outputs(model, inputs):
    with torch.no_grad():
        return [value for value in model(**inputs).values() if isinstance(value, torch.Tensor)]


def alike(one, other, inputs):
    """Whether two models give equal outputs, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(outputs(one, inputs), outputs(other, inputs), strict=True))


def uneven(name):
    """A pruned model whose layers differ, its plan and inputs."""
    model, inputs, graph, scores = scored(name)
    channels = [group.name for group in graph.groups if group.role == "channel"]
    ratios = {channel: 0.25 if position % 2 else 0.5 for position, channel in enumerate(channels)}
    plan = dg.plan(graph, scores, ratio=ratios, round_to=4, min_width=4)
    return dg.execute(plan, model), plan, inputs


def check_uneven(name, folder):
    small, plan, inputs = uneven(name)
    saved = dg.hf.save_pretrained(plan, small, folder)
    again = dg.hf.from_pretrained(folder)
    assert not saved.stock and "per_layer_config" in saved.problems[0] and type(small).__name__ in saved.problems[0]
    assert alike(small, again, inputs)
    assert {n: p.shape for n, p in small.named_parameters()} == {n: p.shape for n, p in again.named_parameters()}
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))
    with pytest.raises(RuntimeError):
        type(small).from_pretrained(folder)


def check_stock(name, folder, ratio=None):
    model, inputs, graph, scores = scored(name)
    plan = dg.plan(graph, scores, ratio=ratio) if ratio else dg.plan(graph, scores, ratio=0.5, only=inner(graph))
    small = dg.execute(plan, model)
    saved = dg.hf.save_pretrained(plan, small, folder)
    assert saved.stock and saved.keys and not saved.problems
    assert alike(small, type(model).from_pretrained(folder).eval(), inputs)
    assert alike(small, dg.hf.from_pretrained(folder), inputs)
    return saved


@pytest.mark.parametrize("name", LITTLE)
def test_layers_that_differ_are_loaded_by_the_plan(name, tmp_path):
    """The original weights are not needed, and transformers itself refuses the folder."""
    check_uneven(name, tmp_path / "model")


@pytest.mark.parametrize("name", LITTLE)
def test_equal_inner_widths_are_loaded_by_transformers(name, tmp_path):
    """A configuration with other numbers gives the pruned model."""
    check_stock(name, tmp_path / "model")


def test_a_width_that_only_other_numbers_would_give_is_left():
    """BERT's queries are as wide as its hidden states: where only these become smaller, no key is true, nor are the heads."""
    model, _, graph, scores = scored("bert")
    width = next(group.name for group in graph.groups if "embed" in group.members[0][0])
    plan = dg.plan(graph, scores, ratio={width: 0.5})
    small = dg.execute(plan, model)
    assert dg.hf.update_config_(plan, small) == {}
    assert (small.config.hidden_size, small.config.num_attention_heads) == (64, 4)


@pytest.mark.models
@pytest.mark.parametrize("name", MANY)
def test_layers_of_more_families_are_loaded_by_the_plan(name, tmp_path):
    """The same of encoders, translators, vision, sound, state spaces and experts."""
    check_uneven(name, tmp_path / "model")


def test_whole_heads_and_widths_are_found_together(tmp_path):
    """Three keys that depend on each other are found, and nothing else is changed in the file."""
    saved = check_stock("llama_gqa", tmp_path / "model", WHOLE_HEADS)
    assert saved.keys == {
        "hidden_size": (128, 64), "intermediate_size": (128, 64), "num_attention_heads": (8, 4), "num_key_value_heads": (2, 1),
    }  # fmt: skip
    stored = json.loads((saved.folder / "config.json").read_text())
    original = json.loads(scored("llama_gqa")[0].config.to_json_string(use_diff=False))
    assert {key for key in original if stored[key] != original[key]} <= {*saved.keys, "architectures", "dtype"}


@pytest.mark.parametrize("head_dim", [16, 8, 12], ids=["as many as rotary frequencies", "as head dims", "as nothing else"])
def test_the_number_of_experts_follows_whatever_else_is_as_large(head_dim, tmp_path):
    """The model's own number of experts is read by no forward without the loss that balances them; OLMoE has 64 of both."""
    module = transformers()
    torch.manual_seed(0)
    config = module.Qwen3MoeConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=head_dim, num_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    model, inputs = module.Qwen3MoeForCausalLM(config).eval(), {"input_ids": torch.arange(8)[None], "use_cache": False}
    graph = dg.trace(model, inputs)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5, only=["role:expert"])
    small = dg.execute(plan, model)
    saved = dg.hf.save_pretrained(plan, small, tmp_path / "model")
    assert saved.stock and saved.keys == {"num_local_experts": (8, 4)}
    again = module.Qwen3MoeForCausalLM.from_pretrained(saved.folder).eval()
    assert alike(small, again, inputs) and again.num_experts == again.config.num_experts == 4


def test_a_key_that_was_none_is_given_its_value(tmp_path):
    """GPT-2's inner width is four times its width where the configuration says None."""
    assert check_stock("gpt2", tmp_path / "model").keys == {"n_inner": (None, 128)}


@pytest.mark.parametrize(("width", "ratio"), [(32, 2.0), (48, 4 / 3)])
def test_a_ratio_is_given_its_value(width, ratio, tmp_path):
    """Swin's inner widths are the whole part of a ratio's product: a ratio that falls short of it is moved by one bit."""
    module = transformers()
    torch.manual_seed(0)
    config = module.SwinConfig(embed_dim=width, depths=[1, 1], num_heads=[2, 4], image_size=16, patch_size=2, window_size=4)
    model, inputs = module.SwinModel(config).eval(), {"pixel_values": torch.randn(1, 3, 16, 16)}
    graph = dg.trace(model, inputs)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=1 - ratio / 4 + 1e-9, only=inner(graph))
    small = dg.execute(plan, model)
    saved = dg.hf.save_pretrained(plan, small, tmp_path / "model")
    assert saved.stock and saved.keys.keys() == {"mlp_ratio"} and saved.keys["mlp_ratio"] == (4.0, pytest.approx(ratio))
    assert alike(small, type(model).from_pretrained(tmp_path / "model").eval(), inputs)


@pytest.mark.models
def test_layers_that_differ_have_their_own_numbers_where_the_class_reads_them(tmp_path):
    """Heads of single layers, from the configuration's `per_layer_config`; a model that was loaded is pruned again."""
    module = transformers()
    torch.manual_seed(0)
    kinds = {"mlp_layer_types": ["dense"] * 3, "layer_types": ["full_attention"] * 3, "sliding_window": 16, "pad_token_id": 0}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 100, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = module.Step3p7TextConfig(**sizes, **heads, **kinds)
    model, inputs = module.Step3p7TextModel(config).eval(), {"input_ids": torch.arange(8)[None]}
    keys = set()
    for layer in (0, 2):
        graph = dg.trace(model, inputs)
        group = next(group.name for group in graph.groups if group.role == "head" and f"layers.{layer}." in group.name)
        plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio={group: 0.5})
        small = dg.execute(plan, model)
        folder = tmp_path / f"model {layer}"
        saved = dg.hf.save_pretrained(plan, small, folder)
        start = f"per_layer_config.{layer}.num_"
        assert saved.stock and saved.keys == {f"{start}attention_heads": (4, 2), f"{start}key_value_heads": (2, 1)}
        keys |= saved.keys.keys()
        assert dg.hf.update_config_(plan, small) == {}
        model = type(model).from_pretrained(folder).eval()
        assert alike(small, model, inputs) and alike(small, dg.hf.from_pretrained(folder), inputs)
    assert len(keys) == 4 and set(json.loads((folder / "config.json").read_text())["per_layer_config"]) == {"0", "2"}


def test_head_dims_ask_for_the_plan_because_the_scale_stays(tmp_path):
    """Shapes alone do not prove that a stock model is equal: its attention is scaled by the new size of a head."""
    model, inputs, graph, scores = scored("bert")
    plan = dg.plan(graph, scores, ratio=0.5)
    small = dg.execute(plan, model)
    saved = dg.hf.save_pretrained(plan, small, tmp_path / "model")
    assert saved.keys == {"hidden_size": (64, 32), "intermediate_size": (128, 64)}
    assert saved.problems and all("scaling" in problem for problem in saved.problems)
    assert alike(small, dg.hf.from_pretrained(tmp_path / "model"), inputs)
    config = copy.deepcopy(model.config)
    config.hidden_size, config.intermediate_size = 32, 64
    stock = type(model)(config).eval()
    stock.load_state_dict(small.state_dict())  # every shape fits
    assert not alike(small, stock, inputs)


@pytest.mark.parametrize("name", ["llama_gqa", "mistral"])
def test_the_configuration_follows_as_far_as_the_plan_decides(name, tmp_path):
    """What is true in all layers is written, what differs stays, and saving still finds the original."""
    model, inputs, graph, scores = scored(name)
    width = next(group.name for group in graph.groups if "embed" in group.members[0][0])
    first = next(group for group in inner(graph) if ".0." in group)
    plan = dg.plan(graph, scores, ratio={width: 0.5, first: 0.5})
    small = dg.execute(plan, model)
    before = model.config.to_dict()
    assert dict(plan.removed).keys() == {width, first}
    changed = dg.hf.update_config_(plan, small)
    assert small.config.hidden_size == before["hidden_size"] // 2 and "hidden_size" in changed
    assert small.config.intermediate_size == before["intermediate_size"] and "intermediate_size" not in changed
    assert model.config.to_dict() == before
    assert not dg.hf.save_pretrained(plan, small, tmp_path / "model").stock
    assert alike(small, again := dg.hf.from_pretrained(tmp_path / "model"), inputs)
    assert again.config.hidden_size == small.config.hidden_size
    assert not dg.hf.save_pretrained(plan, again, tmp_path / "again").stock


def test_updating_twice_changes_nothing_more(tmp_path):
    """The second update finds the same values, and a folder saved after it is stock."""
    model, _, graph, scores = scored("llama_gqa")
    plan = dg.plan(graph, scores, ratio=WHOLE_HEADS)
    small = dg.execute(plan, model)
    first = dg.hf.update_config_(plan, small)
    once = small.config.to_dict()
    assert dg.hf.update_config_(plan, small) == first and small.config.to_dict() == once
    assert dg.hf.save_pretrained(plan, small, tmp_path / "model").keys == first


def test_a_model_that_was_loaded_is_pruned_again(tmp_path):
    """From a stock folder the second plan starts at its configuration; else both plans in turn lead from the original."""
    model, inputs, graph, scores = scored("llama_gqa")
    plan = dg.plan(graph, scores, ratio=0.25, only=inner(graph))
    dg.hf.save_pretrained(plan, dg.execute(plan, model), tmp_path / "first")
    loaded = type(model).from_pretrained(tmp_path / "first").eval()
    graph = dg.trace(loaded, kwargs=inputs)
    second = dg.plan(graph, dg.score(graph, loaded, dg.Magnitude(p=2)), ratio=0.5, only=inner(graph))
    saved = dg.hf.save_pretrained(second, small := dg.execute(second, loaded), tmp_path / "second")
    assert saved.stock and saved.keys == {"intermediate_size": (96, 48)}
    uneven_first = dg.plan(graph, dg.score(graph, loaded, dg.Magnitude(p=2)), ratio={inner(graph)[0]: 0.5})
    dg.hf.save_pretrained(uneven_first, dg.execute(uneven_first, loaded), tmp_path / "third")
    third = dg.hf.from_pretrained(tmp_path / "third")
    graph = dg.trace(third, kwargs=inputs)
    assert graph == uneven_first.apply(dg.trace(loaded, kwargs=inputs))
    last = dg.plan(graph, dg.score(graph, third, dg.Magnitude(p=2)), ratio={inner(graph)[1]: 0.25})
    small = dg.execute(last, third)
    with pytest.raises(dg.errors.MismatchError):
        dg.hf.save_pretrained(last, small, tmp_path / "fourth")
    dg.hf.save_pretrained(uneven_first.then(last), small, tmp_path / "fourth")
    assert alike(small, dg.hf.from_pretrained(tmp_path / "fourth"), inputs)


def test_a_folder_is_data(tmp_path):
    """Whatever the configuration's record says, only whole numbers are written, at plain keys."""
    small, plan, inputs = uneven("bert")
    dg.hf.save_pretrained(plan, small, tmp_path / "model")
    path = tmp_path / "model/config.json"
    stored = json.loads(path.read_text())
    stored["depgraph"]["values"] = {"__class__": 3, "_private": 4, "hidden_size": "text", "vocab_size": 7}
    path.write_text(json.dumps(stored))
    loaded = dg.hf.from_pretrained(tmp_path / "model")
    assert alike(small, loaded, inputs) and type(loaded.config) is type(small.config)
    assert (loaded.config.hidden_size, loaded.config.vocab_size) == (64, 7) and not hasattr(loaded.config, "_private")
    path.write_text(json.dumps({**stored, "architectures": ["logging"]}))
    with pytest.raises(dg.errors.PlanError, match="model_class"):
        dg.hf.from_pretrained(tmp_path / "model")


def test_the_model_and_the_random_numbers_stay(tmp_path):
    """Saving changes no tensor, no entry of the configuration, and draws no random number."""
    small, plan, _ = uneven("bert")
    weights, config = copy.deepcopy(small.state_dict()), small.config.to_dict()
    state = torch.get_rng_state()
    dg.hf.save_pretrained(plan, small, tmp_path / "model")
    dg.hf.from_pretrained(tmp_path / "model")
    assert torch.equal(state, torch.get_rng_state())
    assert small.config.to_dict() == config
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in weights.items())


def test_shards_have_an_index_and_are_loaded(tmp_path):
    """Many files of weights are one model."""
    small, plan, inputs = uneven("bert")
    dg.hf.save_pretrained(plan, small, tmp_path / "model", max_shard_size="40KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 2
    assert (tmp_path / "model/model.safetensors.index.json").is_file()
    assert alike(small, dg.hf.from_pretrained(tmp_path / "model"), inputs)


class Tokenizer:
    """What is asked of a tokenizer."""

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}")


def test_transformers_is_loaded_when_it_is_asked_for():
    """The shelf itself loads nothing of it."""
    code = "import sys, depgraph as dg; dg.hf.save_pretrained, dg.trace, dg.execute; print('transformers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_half_precision_model_with_tied_embeddings(tmp_path):
    """The dtype and the tie are as they were, and the files hold no tensor twice."""
    module = transformers()
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100}
    config = module.LlamaConfig(**sizes, num_hidden_layers=4, tie_word_embeddings=True)
    torch.manual_seed(0)
    model = module.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    inputs = {"input_ids": torch.arange(8)[None]}
    graph = dg.trace(model, kwargs=inputs)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio={inner(graph)[0]: 0.5, inner(graph)[3]: 0.25})
    small = dg.execute(plan, model)
    dg.hf.save_pretrained(plan, small, tmp_path / "model")
    again = dg.hf.from_pretrained(tmp_path / "model")
    assert again.dtype == torch.bfloat16 and alike(small, again, inputs)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    size = sum(parameter.nbytes for parameter in small.parameters())
    assert (tmp_path / "model/model.safetensors").stat().st_size < size + 8000
    wide = dg.hf.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}


def test_a_folder_is_refused_or_replaced_whole(tmp_path):
    """A folder that exists is left unless it may be replaced; nothing of it remains then."""
    small, plan, _ = uneven("bert")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(dg.errors.PlanError, match="exists"):
        dg.hf.save_pretrained(plan, small, folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "notes.txt"]
    dg.hf.save_pretrained(plan, small, folder, tokenizer=Tokenizer(), replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (folder / "notes.txt").exists() and (folder / "tokenizer.json").is_file()


def test_what_does_not_belong_together_is_refused(tmp_path):
    """The original model with its plan, another model's plan, a plain module, a folder without a plan, other weights."""
    model, _, graph, scores = scored("bert")
    plan = dg.plan(graph, scores, ratio=0.5)
    with pytest.raises(dg.errors.MismatchError, match="not what the plan leads to"):
        dg.hf.save_pretrained(plan, model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(dg.errors.PlanError, match="model of transformers"):
        dg.hf.save_pretrained(plan, nn.Linear(2, 2), tmp_path / "model")
    with pytest.raises(dg.errors.PlanError, match=r"config\.json and no depgraph_plan\.json"):
        dg.hf.from_pretrained(tmp_path)
    small = dg.execute(plan, model)
    dg.hf.save_pretrained(plan, small, tmp_path / "model")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model/model.safetensors")
    removed = weights.pop("classifier.bias")
    save_file({**weights, "other": removed}, tmp_path / "model/model.safetensors")
    with pytest.raises(dg.errors.MismatchError) as caught:
        dg.hf.from_pretrained(tmp_path / "model")
    assert set(caught.value.problems) == {"the model has no 'other'", "no weights for 'classifier.bias'"}
