"""The zoos by name: how to get their models, and how the script that writes the tables takes them."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from tests.zoo import Maker, language, plain, vision


@frozen
class Zoo:
    """A zoo.

    Attributes:
        models: gives name to maker.
        title: heads its table.
        timed: whether its traces are timed.
        batched: whether its models share a process.
        peer: whether Torch-Pruning is run over it.
    """

    models: Callable[[], dict[str, Maker]]
    title: str
    timed: bool = True
    batched: bool = False
    peer: bool = True


ZOOS = {
    "plain": Zoo(plain.models, "Networks of our own"),
    "torchvision": Zoo(vision.torchvision_models, "torchvision"),
    "timm": Zoo(vision.timm_models, "timm: a small model of each family"),
    "transformers": Zoo(language.models, "transformers"),
    "timm-meta": Zoo(vision.timm_meta_models, "timm: every model, on the meta device", timed=False, batched=True, peer=False),
}


def family(zoo: str, name: str) -> str | None:
    """The family of a model, in the zoo that is shown by family."""
    return vision.timm_family(name) if zoo == "timm-meta" else None
