"""What `dg.refit` brings back, without labels and without training, and what fine-tuning adds to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

import depgraph as dg
from quality_subjects import Digits, MiniLM, copied

Subject = Digits | MiniLM
Row = dict[str, Any]
Say = Callable[[str], None]
Peer = Callable[[Subject, str, str, float, int], nn.Module]

SHARES = (0.43, 0.25, 0.14)
"""Of the digits network's MACs."""
RATIO = 0.5
"""Of what Torch-Pruning removes from MiniLM; the MACs that it leaves are the budget."""


def measure_repair(digits: Digits, minilm: MiniLM, peer: Peer, quick: bool, say: Say) -> dict[str, Any]:
    """The rows of both networks, and what the networks are before.

    Args:
        digits: the first.
        minilm: the second.
        peer: from (subject, criterion, setting, ratio, seed) to the network as Torch-Pruning leaves it.
        quick: one cell of each.
        say: is told how far it is.
    """
    networks = {subject.name: subject for subject in (digits, minilm)}
    return {
        "macs": {name: dg.trace(subject.model(0), kwargs=subject.example).macs for name, subject in networks.items()},
        "before": {name: _judged(subject) for name, subject in networks.items()},
        "rows": [*_digits(digits, quick, say), *_minilm(minilm, peer, quick, say)],
    }


def _judged(subject: Subject) -> list[float]:
    return [subject.judge(subject.model(seed), (seed,))[0] for seed in subject.seeds]


def _digits(subject: Digits, quick: bool, say: Say) -> Iterator[Row]:
    images = 128 if quick else 512
    for seed in subject.seeds:
        model = subject.model(seed)
        graph = dg.trace(model, kwargs=subject.example)
        batches = subject.unlabelled(seed, images)
        for name, criterion in _digits_criteria(batches).items():
            scores = dg.score(graph, model, criterion)
            for share in SHARES[:1] if quick else SHARES:
                plan = dg.plan(graph, scores, macs=share)
                cell = {"network": "digits", "setting": "global", "criterion": name, "share": share, "seed": seed}
                yield cell | _repaired(subject, seed, plan, batches, images, "sequential", True)
        say(f"repair of digits, seed {seed}")


def _digits_criteria(batches: list[Any]) -> dict[str, Any]:
    return {"Magnitude L2": dg.Magnitude(p=2), "Wanda": dg.criteria.Wanda(batches)}


def _minilm(subject: MiniLM, peer: Peer, quick: bool, say: Say) -> Iterator[Row]:
    most = 48 if quick else 1000
    model = subject.teacher
    graph = dg.trace(model, kwargs=subject.example)
    limits = _limits(subject, peer, quick)
    for seed in subject.seeds:
        batches = subject.unlabelled(seed, most)
        for name, criterion in _minilm_criteria(batches, quick).items():
            scores = dg.score(graph, model, criterion)
            for setting in subject.settings[:1] if quick else subject.settings:
                plan = dg.plan(graph, scores, macs=limits[setting]["macs"], **subject.ours(setting))
                cell = {"network": "minilm", "setting": setting, "criterion": name, "share": RATIO, "seed": seed}
                beside = {"theirs": limits[setting]["values"][seed]} if name == "Magnitude L2" else {}
                for count, mode in _variants(name, most, quick):
                    some = batches[: count // 50] if count < most else batches
                    tuned = name == "Magnitude L2" and mode == "sequential" and count == most
                    yield cell | _repaired(subject, seed, plan, some, count, mode, tuned) | beside
        say(f"repair of minilm, seed {seed}")


def _minilm_criteria(batches: list[Any], quick: bool) -> dict[str, Any]:
    return {"Magnitude L2": dg.Magnitude(p=2)} | ({} if quick else {"Activation": dg.criteria.Activation(batches)})


def _variants(criterion: str, most: int, quick: bool) -> list[tuple[int, str]]:
    """Numbers of sentences and modes: one criterion is shown with fewer, and in the other mode."""
    variants = [(most, "sequential")]
    if criterion == "Activation" and not quick:
        variants += [(250, "sequential"), (most, "independent")]
    return variants


def _limits(subject: MiniLM, peer: Peer, quick: bool) -> dict[str, dict[str, Any]]:
    """What Torch-Pruning leaves by magnitude in each setting: MACs, and the judgement of each seed."""
    found = {}
    for setting in subject.settings[:1] if quick else subject.settings:
        pruned = peer(subject, "Magnitude L2", setting, RATIO, subject.seeds[0])
        values = dict(zip(subject.seeds, subject.judge(pruned, subject.seeds), strict=True))
        found[setting] = {"macs": dg.trace(pruned, kwargs=subject.example).macs, "values": values}
    return found


def _repaired(subject: Subject, seed: int, plan: dg.Plan, batches: list[Any], samples: int, mode: str, tuned: bool) -> Row:
    """One plan: pruned, repaired, and both of them fine-tuned in the same way."""
    model = subject.model(seed)
    valid = (lambda batch: batch["attention_mask"]) if isinstance(subject, MiniLM) else None
    started = time.process_time()
    repair = dg.refit(plan, model, batches, mode=mode, valid=valid)
    seconds = time.process_time() - started
    networks = {
        "pruned": dg.execute(plan, copied(model).eval()),
        "repaired": dg.execute(plan, copied(model).eval(), repair=repair),
    }
    row: Row = {name: subject.judge(network, (seed,))[0] for name, network in networks.items()}
    for name, network in networks.items() if tuned else ():
        subject.tune(network, seed)
        row[f"{name}, tuned"] = subject.judge(network, (seed,))[0]
    macs = dg.trace(networks["pruned"], kwargs=subject.example).macs
    return row | {"mode": mode, "samples": samples, "macs": macs, "seconds": round(seconds, 1), "outputs": [*repair.outputs]}
