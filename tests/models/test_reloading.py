"""The safe way to load what was pruned: the plan on a model without weights, then the pruned checkpoint, on twenty models."""

import pytest
import torch
from safetensors.torch import load_file

import depgraph as dg
from tests import checkpoints
from tests.zoo import catalogue, conformance

pytestmark = pytest.mark.models

MODELS = (
    "plain/lstm_bidirectional_2", "plain/unet", "plain/shufflenet", "plain/squeeze_excite", "plain/densenet",
    "plain/tied_autoencoder", "plain/gqa_complex_rope", "plain/gcn", "plain/lora", "plain/weight_norm", "plain/moe_dense",
    "torchvision/shufflenet_v2_x0_5",
    "timm/test_coatnet", "transformers/bert", "transformers/gpt2", "transformers/llama_gqa", "transformers/t5",
    "transformers/clip", "transformers/mamba", "transformers/mixtral",
)  # fmt: skip


def places(model):
    """Each parameter and buffer with the registry and the name under which it stands, and whether a state dict has it."""
    for path, module in model.named_modules(remove_duplicate=False):
        for registry in (module._parameters, module._buffers):
            for name, tensor in registry.items():
                if tensor is not None:
                    saved = registry is module._parameters or name not in module._non_persistent_buffers_set
                    yield f"{path}.{name}" if path else name, registry, name, tensor, saved


def without_weights(model):
    """What a state dict has is on the meta device, tied where it was; the rest is computed when a model is built."""
    empty = {id(tensor): tensor.detach().to("meta") for _, _, _, tensor, saved in places(model) if saved}
    for _, registry, name, tensor, saved in list(places(model)):
        if isinstance(tensor, torch.nn.Parameter) and not isinstance(empty[id(tensor)], torch.nn.Parameter):
            empty[id(tensor)] = torch.nn.Parameter(empty[id(tensor)], tensor.requires_grad)
        if saved:
            registry[name] = empty[id(tensor)]
    return model


def tie(model, names):
    """Make each of these names the parameter that stands under the first one, as a model's own `tie_weights` does."""
    at = {path: (registry, name) for path, registry, name, _, _ in places(model)}
    for first, *others in names:
        for other in others:
            registry, name = at[other]
            registry[name] = at[first][0][at[first][1]]


@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_checkpoint_loads_into_the_plan_on_meta(name, tmp_path):
    """The same outputs, to the bit, as the executed model; no tensor is left without values."""
    zoo, _, kind = name.partition("/")
    make = catalogue.ZOOS[zoo].models()[kind]
    torch.manual_seed(0)
    model, args, kwargs = make()
    graph = dg.trace(model, args, kwargs)
    plan = conformance.half(graph, model)
    state = checkpoints.untied(checkpoints.state_of(model))
    source = checkpoints.save("safetensors", state, tmp_path)
    dg.prune_checkpoint(plan, source, tmp_path / "small.safetensors", strict=False)
    plan.save(tmp_path / "plan.json")

    small = dg.execute(dg.Plan.load(tmp_path / "plan.json"), without_weights(make()[0]))
    groups = {}
    for path, _, _, tensor, _ in places(small):
        groups.setdefault(id(tensor), []).append(path)
    tied = [sorted(names, key=lambda path: path not in state) for names in groups.values() if len(names) > 1]
    missing, unexpected = small.load_state_dict(load_file(tmp_path / "small.safetensors"), strict=False, assign=True)
    assert not unexpected and set(missing) <= {path for names in tied for path in names[1:]}
    tie(small, tied)
    assert not [path for path, _, _, tensor, _ in places(small) if tensor.is_meta]
    wanted = dg.execute(plan, model)
    checkpoints.assert_same(checkpoints.state_of(small), checkpoints.state_of(wanted))
    for one, two in zip(conformance.run(small, args, kwargs), conformance.run(wanted, args, kwargs), strict=True):
        assert torch.equal(one, two)
