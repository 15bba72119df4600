"""Sparse training on real data: train with a penalty on whole channels, prune without fine-tuning, compare with plain training.

Run it with ``tox run -e sparse``, or with ``python docs/examples/sparse_training.py`` where depgraph and scikit-learn are
installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional as F

import depgraph as dg
from quickstart import DigitNet, accuracy, digits

BATCH, REMAIN = 64, 0.5

Strengths = Mapping[str, tuple[float, ...]]
"""How strongly each index of each group is pulled to zero."""


def importance(graph: dg.Graph, model: nn.Module) -> Strengths:
    """What decides on strengths, and in the end on what goes."""
    return dg.score(graph, model, dg.Magnitude(p=2))


def plain(graph: dg.Graph, model: nn.Module, strengths: Strengths) -> Strengths:
    """No penalty: the strengths stay zero."""
    return strengths


def growing(graph: dg.Graph, model: nn.Module, strengths: Strengths) -> Strengths:
    """Growing regularisation: the less important, the faster."""
    return dg.penalties.grow(strengths, importance(graph, model), delta=0.1, ceiling=1.0)


def graded(graph: dg.Graph, model: nn.Module, strengths: Strengths) -> Strengths:
    """DepGraph's sparse training: set anew from the scores, 16 times as strong for the least important as for the most."""
    return dg.penalties.graded_strengths(importance(graph, model), 0.02)


def train(
    graph: dg.Graph, step: Callable[[dg.Graph, nn.Module, Strengths], Strengths], x: torch.Tensor, y: torch.Tensor, epochs: int
) -> nn.Module:
    """The same network from the same seed; the strengths move after each epoch."""
    torch.manual_seed(0)
    model, strengths = DigitNet().train(), dg.penalties.strengths_of(graph)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=epochs * -(-len(x) // BATCH))
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(model(x[batch]), y[batch]) + dg.penalties.group_l2(graph, model, strengths)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        strengths = step(graph, model, strengths)
    return model.eval()


def main() -> None:
    """Train in three ways, prune each to the same cost, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8, help="of training, in each of the three ways")
    parser.add_argument("--samples", type=int, help="training images; all 1,347 by default")
    options = parser.parse_args()
    x_train, x_test, y_train, y_test = digits()
    x_train, y_train = x_train[: options.samples], y_train[: options.samples]
    graph = dg.trace(DigitNet(), x_test[:1])
    print(f"{'training':12}{'before':>10}{'pruned':>10}{'parameters':>12}{'MACs':>12}")
    for step in (plain, growing, graded):
        model = train(graph, step, x_train, y_train, options.epochs)
        plan = dg.plan(graph, importance(graph, model), macs=REMAIN)
        small, after = dg.execute(plan, model), plan.apply(graph)
        before, reached = (accuracy(network, x_test, y_test) for network in (model, small))
        print(f"{step.__name__:12}{before:>10.1%}{reached:>10.1%}{after.params:>12,}{after.macs:>12,}", flush=True)
    print(f"\nAt most {REMAIN:.0%} of {graph.macs:,} MACs remain, and nothing was fine-tuned.")


if __name__ == "__main__":
    main()
