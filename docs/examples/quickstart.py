"""The main job on real data: train, trace, plan half of the MACs away, save, load, execute, verify, repair, fine-tune.

Run it with ``tox run -e quickstart``, or with ``python docs/examples/quickstart.py`` where depgraph and scikit-learn are
installed.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

import depgraph as dg


class Residual(nn.Module):
    """Two convolutions around a squeeze-excitation gate, added to their input."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        return F.relu(x + y * gate[:, :, None, None])


class DigitNet(nn.Module):
    """A small residual network with squeeze-excitation and a concat of two scales, for 8 x 8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.fine = Residual(32, 8)
        self.down = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.coarse = Residual(64, 16)
        self.head = nn.Linear(32 + 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.fine(self.stem(x))
        coarse = self.coarse(self.down(fine))
        return self.head(torch.cat([fine.amax((2, 3)), coarse.amax((2, 3))], 1))


def digits() -> list[torch.Tensor]:
    """scikit-learn's 1,797 handwritten digits: training images, held-out images, and their labels."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    return train_test_split(x, torch.tensor(labels), test_size=0.25, random_state=0, stratify=labels)


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float) -> None:
    """Adam with a one-cycle schedule on batches of 64."""
    model.train()
    steps = epochs * -(-len(x) // 64)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Fraction of right answers."""
    return float((model(x).argmax(1) == y).float().mean())


@torch.no_grad()
def latencies(models: list[nn.Module], x: torch.Tensor) -> list[float]:
    """Median milliseconds of a forward of each model, taken in turns."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(11):
        for model, taken in zip(models, times, strict=True):
            start = time.perf_counter()
            model(x)
            taken.append(1000 * (time.perf_counter() - start))
    return [sorted(taken)[len(taken) // 2] for taken in times]


def main() -> None:
    """Run the whole job and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12, help="of training; a third of them are for fine-tuning")
    parser.add_argument("--samples", type=int, help="training images; all 1,347 by default")
    options = parser.parse_args()
    torch.manual_seed(0)
    x_train, x_test, y_train, y_test = digits()
    x_train, y_train = x_train[: options.samples], y_train[: options.samples]
    model = DigitNet()
    train(model, x_train, y_train, epochs=options.epochs, rate=5e-3)
    reached = accuracy(model, x_test, y_test)
    assert reached > 0.96, f"the network should reach 96 % before pruning, it reached {reached:.1%}"

    example = x_test[:1]
    graph = dg.trace(model, example)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), macs=0.5)
    plan.save("plan.json")
    loaded = dg.Plan.load("plan.json")
    small = dg.execute(loaded, model)
    assert dg.trace(small, example) == loaded.apply(graph), "the square does not close"

    repair = dg.refit(loaded, model, [x_train])  # no labels
    repaired = dg.execute(loaded, model, repair=repair)

    tuned = copy.deepcopy(repaired)
    train(tuned, x_train, y_train, epochs=max(1, options.epochs // 3), rate=2e-3)

    print(f"{'':12}{'accuracy':>10}{'parameters':>12}{'MACs':>12}{'latency':>12}")
    networks = {"before": model, "pruned": small, "repaired": repaired, "fine-tuned": tuned}
    for (name, network), taken in zip(networks.items(), latencies([*networks.values()], x_test), strict=True):
        counts = dg.trace(network, example)
        print(f"{name:12}{accuracy(network, x_test, y_test):>10.1%}{counts.params:>12,}{counts.macs:>12,}{taken:>9.1f} ms")

    fresh = DigitNet()
    fresh.load_state_dict(model.state_dict())
    again = dg.execute(dg.Plan.load("plan.json"), fresh.eval())
    with torch.no_grad():
        assert torch.equal(again(x_test), small(x_test)), "the same file should give the same model"
    print(f"\n{Path('plan.json').stat().st_size:,} bytes of plan.json, executed on a fresh network: identical outputs.")


if __name__ == "__main__":
    main()
