"""Models with LoRA adapters of the package peft: pruned with their adapters, or before them; `tox run -e peft` has it."""

import copy

import pytest
import torch

import depgraph as dg
from tests.zoo import transformers
from tests.zoo.language import small_transformers

pytestmark = [pytest.mark.needs("peft", "transformers", "safetensors"), pytest.mark.models]
ADAPTED = {"llama_gqa": ["q_proj", "v_proj", "down_proj"], "bert": ["query", "value", "dense"], "gpt2": ["c_attn", "c_fc"]}
KEPT = {"*.lora_A.*": 0}
"""The ranks of adapters stay: PEFT computes its scale from the rank that its configuration says."""

RATIOS = [{"*": 0.5, **KEPT}, {"*": 0.5, "role:head": 0.5, "role:head_dim": 0, **KEPT}]


def plain(name):
    torch.manual_seed(0)
    transformers().logging.set_verbosity_error()
    model, _, inputs = small_transformers(name)()
    return model, inputs


def adapted(name, model):
    """A model with adapters that do something, in evaluation mode."""
    from peft import LoraConfig, get_peft_model

    options = {"fan_in_fan_out": True} if name == "gpt2" else {}
    config = LoraConfig(r=4, lora_alpha=12, target_modules=ADAPTED[name], init_lora_weights=False, **options)
    return get_peft_model(model, config).eval()


def loaded(base, folder):
    """A model with the adapters of a folder."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder).eval()


def output(model, inputs):
    with torch.no_grad():
        return next(iter(model(**inputs).values()))


def pruned(name, ratio):
    """A model with adapters, and what is left of both."""
    model, inputs = plain(name)
    before = {group.name for group in dg.trace(model, inputs).groups}
    whole = adapted(name, model)
    graph = dg.trace(whole, inputs)
    assert len([group for group in graph.groups if ".lora_A." not in group.name]) == len(before)
    plan = dg.plan(graph, dg.score(graph, whole, dg.Magnitude(p=2)), ratio=ratio)
    small = dg.execute(plan, whole)
    assert dg.trace(small, inputs) == plan.apply(graph)
    return whole, small, plan, inputs


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_are_pruned_with_their_model(name, ratio, tmp_path):
    """Traced through the wrapper, each adapter is cut as its layer is; merged, unmerged, saved and loaded it is the same."""
    whole, small, _, inputs = pruned(name, ratio)
    wanted = output(small, inputs)
    shapes = {name: (one.shape, two.shape) for (name, one), (_, two) in zip(*map(_parameters, (whole, small)), strict=True)}
    cut = [name for name, (before, after) in shapes.items() if "lora" in name and before != after]
    assert cut and all(min(after) == 4 for name, (_, after) in shapes.items() if "lora" in name)
    merged = copy.deepcopy(small).merge_and_unload()
    assert torch.allclose(output(merged, inputs), wanted, atol=1e-5)
    small.merge_adapter()
    assert torch.allclose(output(small, inputs), wanted, atol=1e-5)
    small.unmerge_adapter()
    assert torch.allclose(output(small, inputs), wanted, atol=1e-5)
    wanted = output(small, inputs)
    small.save_pretrained(tmp_path)
    base = copy.deepcopy(small).unload()
    assert not torch.allclose(output(base, inputs), wanted, atol=1e-3)
    again = loaded(base, tmp_path)
    assert torch.equal(output(again, inputs), wanted)


def _parameters(model):
    return list(model.named_parameters())


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_are_trained_after_pruning(name):
    """Only they change, in a model that was pruned with them."""
    _, small, _, inputs = pruned(name, RATIOS[0])
    frozen = {name: parameter.clone() for name, parameter in small.named_parameters() if not parameter.requires_grad}
    trained = {name: parameter.clone() for name, parameter in small.named_parameters() if parameter.requires_grad}
    assert frozen and trained and all("lora" in name for name in trained)
    optimizer = torch.optim.SGD([parameter for parameter in small.parameters() if parameter.requires_grad], lr=0.1)
    next(iter(small(**inputs).values())).square().mean().backward()
    optimizer.step()
    now = dict(small.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())
    assert any(not torch.equal(value, now[name]) for name, value in trained.items())


@pytest.mark.parametrize("name", ADAPTED)
def test_a_pruned_model_gets_adapters(name, tmp_path):
    """Pruned before: saved, loaded, adapted; the adapters are saved and loaded on what the folder gives."""
    model, inputs = plain(name)
    graph = dg.trace(model, inputs)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    dg.hf.save_pretrained(plan, dg.execute(plan, model), tmp_path / "base")
    whole = adapted(name, dg.hf.from_pretrained(tmp_path / "base"))
    wanted = output(whole, inputs)
    whole.save_pretrained(tmp_path / "adapters")
    again = loaded(dg.hf.from_pretrained(tmp_path / "base"), tmp_path / "adapters")
    assert torch.equal(output(again, inputs), wanted)
    assert torch.allclose(output(again.merge_and_unload(), inputs), wanted, atol=1e-5)


def test_merged_adapters_are_told_of():
    """Their weights are in the layers', and forward does not reach them: unload them first, and the plain model is pruned."""
    model, inputs = plain("llama_gqa")
    whole = adapted("llama_gqa", model)
    wanted, merged = output(whole, inputs), copy.deepcopy(whole).merge_and_unload()
    whole.merge_adapter()
    with pytest.warns(dg.errors.UnreachedWarning, match="lora_A"):
        dg.trace(whole, inputs)
    assert torch.allclose(output(merged, inputs), wanted, atol=1e-5)
    graph = dg.trace(merged, inputs)
    assert graph == dg.trace(plain("llama_gqa")[0], inputs)
    small = dg.execute(dg.plan(graph, dg.score(graph, merged, dg.Magnitude(p=2)), ratio=0.5), merged)
    assert output(small, inputs).shape == wanted.shape


def test_ranks_are_groups_of_their_own():
    """A plain number cuts them, too; then PEFT's configuration says another rank, and its folder does not load."""
    whole, small, plan, inputs = pruned("llama_gqa", 0.5)
    ranks = [name for name in plan.removed if ".lora_A." in name]
    assert len(ranks) == 6 and all(min(p.shape) == 2 for name, p in small.named_parameters() if "lora" in name)
    assert torch.allclose(output(copy.deepcopy(small).merge_and_unload(), inputs), output(small, inputs), atol=1e-5)
    assert small.peft_config["default"].r == whole.peft_config["default"].r == 4
