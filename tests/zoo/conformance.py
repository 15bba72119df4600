"""What every model of the zoos is put through; the script that writes the tables and the default tests share it.

Half of every group goes, balanced, by L2 magnitude: all roles, and no more than leaves the least size of each. A failure is a
result: the record holds its first line.
"""

from __future__ import annotations

import copy
import gc
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import depgraph as dg
from depgraph import testing
from depgraph.execution.copying import copied
from depgraph.tracing.session import named_leaves
from tests.zoo import Maker

CHECKS = ("trace", "pure", "plan", "execute", "square", "round_trip", "forward", "shapes", "cost", "zero_channels", "sound")
"""In the order in which they run; what could not run, because an earlier one failed or by its nature, says so."""

META_CHECKS = ("trace", "plan", "execute", "square")
"""What is checked for a large model of a family, without weights in memory."""

LEAST, SECONDS = 4, 30.0
"""Of a model whose forward takes long, groups are pruned alone until that many seconds have passed, but at least so many."""

OK = "ok"
SAMPLE, EVERY = 12, 4e8
"""Groups of one model that are pruned alone; all of them where groups times parameters is at most `EVERY`."""

Record = dict[str, Any]
Report = Callable[[Record], None]


class Skipped(Exception):
    """A check that does not apply to a model."""


def message(error: BaseException) -> str:
    """Type and first line of an exception, without directories of this machine."""
    lines = str(error).strip().splitlines() or [""]
    text = re.sub(r"(/[\w.+-]+)+/(?=[\w.-]+/[\w.-]+\.py)", "", lines[0])
    return f"{type(error).__name__}: {text}"[:240]


class Examination:
    """One model's record while it is filled in; `report` gets it before each check, so that it outlives the process."""

    def __init__(self, checks: Iterable[str], report: Report) -> None:
        self.report = report
        self.record: Record = {"checks": dict.fromkeys(checks, "not reached")}

    def check(self, name: str, run: Callable[[], Any]) -> Any:
        """Run a check and note what came of it; None where it failed."""
        checks = self.record["checks"]
        if name not in checks:
            return None
        self.report({**self.record, "stage": name})
        try:
            result = run()
        except Skipped as reason:
            checks[name] = f"- {reason}"
            return None
        except Exception as error:  # noqa: BLE001 - a failure is a result, and is shown
            checks[name] = message(error)
            return None
        checks[name] = OK
        return result


def examine(
    make: Maker,
    *,
    checks: Iterable[str] = CHECKS,
    timed: bool = True,
    sample: int | None = None,
    report: Report = lambda record: None,
) -> Record:
    """Put one model through the checks.

    Args:
        make: makes the model with its inputs; a model on the `meta` device takes the checks that need no data.
        checks: which of `CHECKS`.
        timed: whether a trace is timed beside a plain fake forward.
        sample: how many groups are pruned alone; twelve, or all in a small model, unless given.
        report: is given the record before each check, with the check's name under ``stage``.

    Returns:
        The record: plain data. `failures` lists what is wrong in it.
    """
    examination = Examination(checks, report)
    record = examination.record
    report({**record, "stage": "make"})
    torch.manual_seed(0)
    try:
        model, args, kwargs = make()
    except Exception as error:  # noqa: BLE001 - a model that cannot be built is a result
        record["checks"] = dict.fromkeys(record["checks"], "not reached") | {"trace": f"not made: {message(error)}"}
        return record
    if on_meta(model):
        record["device"] = "meta"
        record["checks"] = {name: done for name, done in record["checks"].items() if name in META_CHECKS}
    start = time.perf_counter()
    graph = examination.check("trace", lambda: dg.trace(model, args, kwargs))
    if graph is None:
        return record
    record["seconds"] = {"first trace": _rounded(time.perf_counter() - start)}
    record |= described(graph)
    examination.check("pure", lambda: testing.assert_pure(model, args, kwargs))
    _prune(examination, graph, model, args, kwargs)
    examination.check("sound", lambda: _sound(record, graph, model, args, kwargs, sample))
    if timed:
        report({**record, "stage": "timing"})
        record["seconds"] |= timing(graph, unused(model), args, kwargs)
    return record


def _prune(examination: Examination, graph: dg.Graph, model: nn.Module, args: Any, kwargs: Any) -> None:
    check, record = examination.check, examination.record
    if not graph.groups:
        for name in set(record["checks"]) - {"trace", "pure"}:
            check(name, lambda: _skip("no group"))
        return
    start = time.perf_counter()
    plan = check("plan", lambda: half(graph, model))
    if plan is None:
        return
    record["seconds"]["plan"] = _rounded(time.perf_counter() - start)
    start = time.perf_counter()
    small = check("execute", lambda: dg.execute(plan, model))
    if small is None:
        return
    record["seconds"]["execute"] = _rounded(time.perf_counter() - start)
    promised = plan.apply(graph)
    record["remaining"] = round(promised.params / max(graph.params, 1), 4)
    check("square", lambda: _square(graph, plan, small, args, kwargs))
    check("round_trip", lambda: testing.assert_round_trip(graph, plan))
    after = check("forward", lambda: run(small, args, kwargs))
    if after is not None:
        check("shapes", lambda: _same_shapes(graph, run(unused(model), args, kwargs), after))
    check("cost", lambda: testing.assert_cost(promised, small, args, kwargs))
    check("zero_channels", lambda: _zero_channels(record, graph, plan, model, args, kwargs))


def _skip(reason: str) -> None:
    raise Skipped(reason)


def on_meta(model: nn.Module) -> bool:
    """Whether the model has no weights in memory."""
    return any(parameter.is_meta for parameter in model.parameters())


def run(model: nn.Module, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The tensors that a forward returns."""
    with torch.no_grad():
        return tensors(model(*args, **kwargs))


def unused(model: nn.Module) -> nn.Module:
    """A copy to run: some models keep what their first forward computed, and what they keep is no part of a graph."""
    return copied(model, {})


def tensors(result: Any) -> list[torch.Tensor]:
    """The tensors in what a forward returned."""
    return [tensor for _, tensor in named_leaves("output", result)]


def half(graph: dg.Graph, model: nn.Module) -> dg.Plan:
    """The plan: half of every group by L2 magnitude; at random where there are no weights."""
    ratio = {f"role:{role}": 0.5 for role in sorted({group.role for group in graph.groups})}
    return dg.plan(graph, dg.score(graph, model, criterion(model)), ratio=ratio)


def criterion(model: nn.Module) -> Any:
    """How the groups of a model are scored."""
    return dg.criteria.Random(0) if on_meta(model) else dg.Magnitude(p=2)


def _square(graph: dg.Graph, plan: dg.Plan, small: nn.Module, args: Any, kwargs: Any) -> None:
    promised, met = plan.apply(graph), dg.trace(small, args, kwargs)
    assert testing.same(promised, met), f"the square does not close: {testing.difference(promised, met)}"


def _same_shapes(graph: dg.Graph, before: list[torch.Tensor], after: list[torch.Tensor]) -> None:
    """In real mode the data may choose how many rows a result has: then all but the first dimension are compared."""
    first = 1 if graph.mode == "real" else 0
    shapes = [[tuple(tensor.shape[first:]) for tensor in side] for side in (before, after)]
    assert shapes[0], "forward returns no tensor"
    assert shapes[0] == shapes[1], f"output shapes {shapes[0]} became {shapes[1]}"
    finite = [all(bool(tensor.isfinite().all()) for tensor in side) for side in (before, after)]
    assert finite[1] or not finite[0], "outputs that were finite are not any more"


def _zero_channels(record: Record, graph: dg.Graph, plan: dg.Plan, model: nn.Module, args: Any, kwargs: Any) -> None:
    try:
        compared = testing.assert_zero_channels(graph, plan, model, args, kwargs)
    except AssertionError:
        raise
    except Exception:
        if in_double(model, args, kwargs) is None:
            raise Skipped("the model itself does not run in double precision") from None
        raise
    record["compared"] = compared
    if not compared:
        raise Skipped("something normalises across every group")


def _sound(record: Record, graph: dg.Graph, model: nn.Module, args: Any, kwargs: Any, sample: int | None) -> None:
    """Each group alone prunes to a model that runs; with the groups that balances tie to it, where there are such."""
    groups = [group for group in graph.groups if group.lower_bound < group.size]
    if not groups:
        raise Skipped("no group")
    most = sample or (SAMPLE if len(groups) * graph.params > EVERY else len(groups))
    if len(groups) > most:
        groups = [groups[position * len(groups) // most] for position in range(most)]
    if len(groups) == SAMPLE:  # in an order in which any beginning is spread over the model
        groups = [groups[position * 5 % SAMPLE] for position in range(SAMPLE)]
    scores = dg.score(graph, model, criterion(model))
    bound = bound_atoms(graph)
    checked, sound, failures, start = 0, 0, [], time.perf_counter()
    for group in groups:
        if checked >= LEAST and time.perf_counter() - start > SECONDS:
            break
        checked += 1
        together = bound.get(group.atom, {group.atom})
        names = {other.name: 0.5 for other in graph.groups if other.atom in together}
        try:
            plan = dg.plan(graph, scores, ratio=names)
            run(dg.execute(plan, model), args, kwargs)
        except Exception as error:  # noqa: BLE001 - a failure is a result, and is shown
            failures.append(f"{group.name}: {message(error)}")
        else:
            sound += 1
    record["soundness"] = {"checked": checked, "sound": sound}
    assert not failures, f"{len(failures)} of {checked}: {failures[0]}"


def bound_atoms(graph: dg.Graph) -> Mapping[Any, set[Any]]:
    """Atom to the atoms that balances make lose as many indices as it does."""
    found: dict[Any, set[Any]] = {}
    for balance in graph.balances:
        together = set().union(*(found.get(atom, {atom}) for atom in balance.atoms))
        found.update(dict.fromkeys(together, together))
    return found


def described(graph: dg.Graph) -> Record:
    """What a graph says about its model."""
    coverage = graph.coverage
    reasons: Counter[str] = Counter()
    for reason, count in coverage.pinned:
        reasons[reason] += count
    return {
        "mode": graph.mode,
        "params": graph.params,
        "macs": graph.macs,
        "operations": len(graph.operations),
        "roles": dict(sorted(Counter(group.role for group in graph.groups).items())),
        "prunable": round(coverage.prunable / max(coverage.total, 1), 4),
        "pinned": [[reason, count] for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]],
        "unknown": sorted({operation.op for operation in graph.operations if _without_rule(operation)}),
    }


def _without_rule(operation: Any) -> bool:
    """Whether nothing is stated about an operator; rules that pin everything, with a reason of their own, are rules."""
    return operation.type is dg.OpType.UNKNOWN and operation.op not in dg.RULES


def timing(graph: dg.Graph, model: nn.Module, args: Any, kwargs: Any, budget: float = 6.0, most: int = 5) -> Record:
    """Median seconds of a trace and of a plain forward, in turns, after one of each that does not count.

    The forward is that on fake inputs, under `no_grad`. Where it needs data, it is that as far as it comes, and then the
    forward on the example inputs: the trace does both, too. Inputs are made fake because forwards look at that: on fake ones
    some go further before they read data.
    """

    def forward() -> None:
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        given = pytree.tree_map(lambda leaf: fake.from_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs))
        try:
            with fake, torch.no_grad():
                model(*given[0], **given[1])
        except Exception:
            if graph.mode == "fake":
                raise
            run(model, args, kwargs)

    seconds: tuple[list[float], list[float]] = ([], [])
    start = time.perf_counter()
    for turn in range(most + 1):
        for job, into in zip((lambda: dg.trace(model, args, kwargs), forward), seconds, strict=True):
            gc.collect()
            begun = time.perf_counter()
            try:
                job()
            except Exception as error:  # noqa: BLE001 - the trace ran: what fails is the plain forward, and that is noted
                return {"forward failed": message(error)}
            if turn:
                into.append(time.perf_counter() - begun)
        if turn >= 3 and time.perf_counter() - start > budget:
            break
    trace, plain = map(statistics.median, seconds)
    return {"trace": _rounded(trace), "forward": _rounded(plain), "ratio": round(trace / plain, 2)}


def _rounded(seconds: float) -> float:
    return round(seconds, 4)


def failures(record: Record) -> list[str]:
    """What is wrong in a record: checks that failed or that were not reached."""
    return [f"{name}: {done}" for name, done in record["checks"].items() if done != OK and not done.startswith("- ")]


def in_double(model: nn.Module, args: Any, kwargs: Any) -> list[torch.Tensor] | None:
    """What a copy of the model returns in double precision; None if it cannot run so."""
    try:
        return run(unused(model).double(), doubled(args), doubled(kwargs))
    except Exception:  # noqa: BLE001 - forwards that make tensors of a type of their own
        return None


def doubled(tree: Any) -> Any:
    """Example inputs in double precision, copied."""

    def double(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else copy.copy(leaf)

    return pytree.tree_map(double, tree)
