"""What is to be the same in every process, computed in this one and in another."""

import hashlib
import os
import subprocess
import sys

import torch

import depgraph as dg
from depgraph import codec
from depgraph.testing import network


def graph_and_plan():
    """A digest of a graph and a plan, as they are written."""
    model, graph = _traced(["attention", "split", "grouped"], 4, 3)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    return _digest(codec.dumps("graph", graph), codec.dumps("plan", plan))


def plans_of_every_scope():
    """A digest of plans to whose choice every index is the same."""
    _, graph = _traced(["attention", "split", "gate"], 6, 4)
    scores = {group.name: (1.0,) * group.size for group in graph.groups}
    scopes = "group", "global", "isomorphic", [("0",)]
    plans = [dg.plan(graph, scores, macs=0.6, scope=scope, ignore=["1.last:in"]) for scope in scopes]
    return _digest(*(codec.dumps("plan", plan) for plan in plans))


def _traced(kinds, channels, width):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network(kinds, channels, width, 2, True)
    return model, dg.trace(model, torch.zeros(2, 3, 4, 4))


def _digest(*texts):
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def elsewhere(function):
    """What one of these functions gives in another process, where sets have another order."""
    code = f"from tests.processes import {function.__name__} as f; print(f())"
    environment = {**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()
