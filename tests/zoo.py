"""The one place that makes torchvision importable beside a CPU build of torch, and the models that tests take from zoos."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import torch

_LIBRARIES: list[Any] = []


@cache
def torchvision() -> ModuleType:
    """Import torchvision: its compiled operators do not load beside every build of torch, their schemas must exist."""
    library = torch.library.Library("torchvision", "DEF")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor d, Tensor s, float t) -> Tensor",
    ):
        try:
            library.define(schema)
        except RuntimeError:  # the compiled operators did load, and have defined it
            break
    _LIBRARIES.append(library)
    import torchvision as module

    return module


def vision(name: str) -> torch.nn.Module:
    """A torchvision classifier with random weights, in evaluation mode."""
    options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    torch.manual_seed(0)
    return getattr(torchvision().models, name)(weights=None, **options).eval()


def language(name: str) -> torch.nn.Module:
    """A small language model of transformers with random weights, in evaluation mode."""
    torchvision()
    import transformers

    transformers.logging.set_verbosity_error()
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    if name == "gpt2":
        config = transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=100, n_positions=32, **special)
        return transformers.GPT2LMHeadModel(config).eval()
    if name == "bert":
        return transformers.BertForSequenceClassification(transformers.BertConfig(num_attention_heads=4, **sizes)).eval()
    heads = {"llama": (4, 4), "llama_gqa": (8, 2)}[name]
    config = transformers.LlamaConfig(num_attention_heads=heads[0], num_key_value_heads=heads[1], **sizes, **special)
    return transformers.LlamaForCausalLM(config).eval()
