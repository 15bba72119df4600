"""A graph depends neither on the device of the model nor on autocast, though torch calls other operators there."""

import pytest
import torch
from torch import nn

import depgraph as dg
from tests import zoo

pytestmark = pytest.mark.needs("transformers")


class Making(nn.Module):
    """Makes a tensor of a list, casts by itself, and calls what autocast casts: to half precision, to single, to the widest."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        y = self.first(x).to(torch.float32)
        made = torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device)
        return torch.cat([self.second(torch.softmax(y, 0)), made[None].detach()]).float()


def llama(device, cached=True):
    """A trace of a small Llama, with the cache that transformers makes by default or without one."""
    transformers = zoo.transformers()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=64, num_hidden_layers=2, max_position_embeddings=64, **sizes)
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config).eval()
        ids = torch.zeros(2, 6, dtype=torch.long)
        return dg.trace(model, kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": cached})


def making(device):
    """A trace of `Making`."""
    return dg.trace(Making().to(device), torch.zeros(3, 4, device=device))


@pytest.mark.parametrize("traced", [making, llama, lambda device: llama(device, cached=False)])
def test_meta_and_autocast_give_the_same_graph(traced):
    """The graph on the `meta` device, and that of a trace under autocast, are the one on the CPU."""
    graph = traced("cpu")
    assert traced("meta") == graph
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert traced("cpu") == graph
    assert graph.groups and traced("meta").fingerprint == graph.fingerprint


def test_casts_of_forward_stay():
    """What forward casts by itself is an operation, under autocast too; what autocast casts is none."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        casts = [operation.op for operation in making("cpu").operations if operation.op == "aten.to"]
    assert casts == ["aten.to", "aten.to"]


def test_autocast_of_a_further_call_adds_no_operation():
    """A further call under autocast has the operators of the same call without."""
    model, x = Making(), torch.zeros(3, 4)
    assert dg.trace(model, x, also=[dg.Call(x, autocast=torch.bfloat16)]) == dg.trace(model, x, also=[dg.Call(x)])
