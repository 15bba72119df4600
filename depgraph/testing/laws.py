"""The laws of depgraph as checks for your own model: purity, the square, round trips, atomicity, cost and zero channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from depgraph import codec
from depgraph.algebra.spaces import Atom, Space, atoms, substitute
from depgraph.choosing.choose import plan as choose
from depgraph.criteria import Random
from depgraph.criteria.scoring import score
from depgraph.execution.execute import execute, execute_
from depgraph.graph.arguments import of_graph
from depgraph.graph.canonical import renumber, shrunk_and_numbered
from depgraph.graph.checking import check as check_graph
from depgraph.graph.graph import Graph
from depgraph.graph.records import OpType
from depgraph.plans import plan_files
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan
from depgraph.running import run
from depgraph.tracing.session import named_leaves
from depgraph.tracing.trace import trace

Inputs = Any


def assert_lawful(
    model: nn.Module, example_inputs: Inputs = (), kwargs: Mapping[str, Any] | None = None, ratio: float = 0.5
) -> None:
    """Check laws 1 to 6, 8 and 10 of the design on one model, with a random plan.

    Args:
        model: any traceable module; it is left as it was.
        example_inputs: as for `depgraph.trace`.
        kwargs: as for `depgraph.trace`.
        ratio: how much of each group the plan removes.

    Raises:
        AssertionError: a law is broken; the message names it.

    >>> assert_lawful(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4))
    """
    kwargs = kwargs or {}
    graph = assert_pure(model, example_inputs, kwargs)
    plan = choose(graph, score(graph, model, Random(0)), ratio=ratio) if graph.groups else Plan.empty(graph)
    small = assert_square(graph, plan, model, example_inputs, kwargs)
    assert_round_trip(graph, plan)
    assert_unit(graph, plan)
    assert_atomic(plan, model)
    assert_cost(plan.apply(graph), small, example_inputs, kwargs)
    if not any(parameter.is_meta for parameter in model.parameters()):
        assert_zero_channels(graph, plan, model, example_inputs, kwargs)


def snapshot(model: nn.Module) -> Any:
    """Everything about a model that tracing or a failed execution might disturb, as comparable data.

    Parameters and buffers by identity, version and bytes, gradients, training flags, plain attributes, the number of hooks,
    and torch's own switches and random state.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Dropout())
    >>> before = snapshot(model)
    >>> snapshot(model) == before, snapshot(model.eval()) == before
    (True, False)
    """
    named_tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return (
        [
            (name, id(tensor), tensor._version, tensor.requires_grad, tuple(tensor.shape), tensor_bytes(tensor))
            for name, tensor in named_tensors
        ],
        [(name, id(tensor), None if tensor.grad is None else tensor_bytes(tensor.grad)) for name, tensor in named_tensors],
        [(name, module.training, sorted(module.__dict__), _scalars(module)) for name, module in model.named_modules()],
        [(name, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()],
        (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled(), torch.random.get_rng_state().tolist()),
    )


def tensor_bytes(tensor: torch.Tensor) -> bytes | None:
    """The elements of a tensor as bytes, so that NaN equals itself; None on the meta device.

    >>> tensor_bytes(torch.tensor([1, 2], dtype=torch.uint8))
    b'\\x01\\x02'
    >>> nan = torch.tensor(float("nan"))
    >>> nan.equal(nan.clone()), tensor_bytes(nan) == tensor_bytes(nan.clone())
    (False, True)
    """
    return None if tensor.is_meta else tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _scalars(module: nn.Module) -> list[tuple[str, str]]:
    """Public attributes of plain types, as text."""
    plain = (int, float, str, bool, tuple, list, dict, type(None))
    return [(key, repr(value)) for key, value in sorted(module.__dict__.items()) if type(value) in plain and key[0] != "_"]


def assert_pure(model: nn.Module, example_inputs: Inputs = (), kwargs: Mapping[str, Any] | None = None) -> Graph:
    """Laws 1 and 2: tracing leaves the model as it was, and tracing again gives the same bytes. Returns the graph.

    Raises:
        AssertionError: a law is broken; the message names it.

    >>> assert_pure(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(3, 4)).params
    58
    """
    before = snapshot(model)
    graph = trace(model, example_inputs, kwargs)
    assert not check_graph(graph), f"an invariant of graphs: {check_graph(graph)[0]}"
    assert snapshot(model) == before, "law 1 (purity): trace changed the model"
    again = trace(model, example_inputs, kwargs)
    assert codec.dumps("graph", graph) == codec.dumps("graph", again), "law 2 (determinism): two traces differ"
    return graph


@of_graph
def assert_square(
    graph: Graph, plan: Plan, model: nn.Module, example_inputs: Inputs = (), kwargs: Mapping[str, Any] | None = None
) -> nn.Module:
    """Law 3: tracing the executed model gives the graph that the plan promises. Returns the executed model.

    Raises:
        AssertionError: the two graphs differ; the message says where.

    >>> import depgraph as dg
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(3, 4)
    >>> graph = dg.trace(model, x)
    >>> assert_square(graph, dg.cut(graph, "0.weight", [2, 6], dim=0), model, x)[0]
    Linear(in_features=4, out_features=6, bias=True)
    """
    small = execute(plan, model)
    promised = shrunk_and_numbered(graph, {cut.atom: cut.removal for cut in plan.cuts}, drops=plan.drops)[0]
    traced = trace(small, example_inputs, kwargs, free=[f"{item.name}:{item.dim}" for item in graph.free])
    assert not check_graph(promised), f"an invariant of graphs: {check_graph(promised)[0]}"
    assert same(promised, traced), f"law 3 (the square): {difference(promised, traced)}"
    assert promised != traced or promised.fingerprint == traced.fingerprint, (
        "law 3 (the square): equal graphs, two fingerprints"
    )
    assert plan.apply(graph) == promised, "law 3 (the square): the plan leads to another graph than its cuts"
    return small


@of_graph
def same(promised: Graph, met: Graph) -> bool:
    """Whether two graphs are equal. Where forward reads data, axes that no parameter or buffer has may differ in size.

    Pruned weights give other numbers, so that other rows pass a mask, or go to an expert; nothing that is pruned depends on it.

    >>> class Positive(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return self.layer(x[x.sum(1) > 0])
    >>> two, three = (trace(Positive(), torch.ones(count, 4)) for count in (2, 3))
    >>> two.mode, two == three, same(two, three)
    ('real', False, True)
    """
    return promised == met or (promised.mode == met.mode == "real" and _without_counts(promised) == _without_counts(met))


def _without_counts(graph: Graph) -> Graph:
    """The graph with size 2 for each atom that is in no parameter or buffer, so that counts of data do not matter."""
    stored_atoms = {
        atom for tensor in graph.tensors if tensor.kind != "value" for space in tensor.axes for atom in atoms(space)
    }

    def uncounted(space: Space) -> Space:
        return substitute(space, lambda atom: atom if atom in stored_atoms else Atom(atom.id, 2))

    return renumber(
        attrs.evolve(
            graph,
            tensors=tuple(attrs.evolve(tensor, axes=tuple(map(uncounted, tensor.axes))) for tensor in graph.tensors),
            operations=tuple(
                operation.costing(attrs.evolve(cost, axes=tuple(map(uncounted, cost.axes))) for cost in operation.costs)
                for operation in graph.operations
            ),
            pinned_atoms=tuple(pinned for pinned in graph.pinned_atoms if pinned.atom in stored_atoms),
        )
    )[0]


@of_graph
def difference(left: Graph, right: Graph) -> str:
    """The first three places in which two graphs differ, as text.

    >>> long, short = (trace(nn.Linear(4, size), torch.zeros(1, 4)) for size in (3, 2))
    >>> difference(long, long), len(difference(long, short).split("; "))
    ('nothing', 3)
    """
    differences = []
    for name in ("operations", "tensors", "attributes", "pinned_atoms", "balances"):
        ours, theirs = getattr(left, name), getattr(right, name)
        if len(ours) != len(theirs):
            differences.append(f"{len(ours)} and {len(theirs)} {name}")
        differences.extend(f"{a} and {b}" for a, b in zip(ours, theirs, strict=False) if a != b)
    return "; ".join(differences[:3]) or "nothing"


@of_graph
def assert_round_trip(graph: Graph, plan: Plan) -> None:
    """Law 5: what was saved loads as the same value.

    Raises:
        AssertionError: the graph or the plan came back as another value.

    >>> import depgraph as dg
    >>> graph = dg.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(3, 4))
    >>> assert_round_trip(graph, dg.cut(graph, "0.weight", [2, 6], dim=0))
    """
    loaded = codec.loads(codec.dumps("graph", graph), "graph", Graph, check=check_graph)
    assert loaded == graph, "law 5 (round trip): the graph changed"
    text = plan_files.dumps(plan)
    again = plan_files.loads(text)
    assert again == plan, "law 5 (round trip): the plan changed"
    assert plan_files.dumps(again) == text, "law 5 (round trip): the plan's text changed"


@of_graph
def assert_unit(graph: Graph, plan: Plan) -> None:
    """Law 4, the unit: the empty plan before or after changes nothing.

    Raises:
        AssertionError: a composition with the empty plan is another plan.

    >>> import depgraph as dg
    >>> graph = dg.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(3, 4))
    >>> assert_unit(graph, dg.cut(graph, "0.weight", [2, 6], dim=0))
    """
    after = plan.apply(graph)
    assert Plan.empty(graph).then(plan) == plan, "law 4 (composition): empty then plan is not the plan"
    assert plan.then(Plan.empty(after)) == plan, "law 4 (composition): plan then empty is not the plan"


def assert_atomic(plan: Plan, model: nn.Module) -> None:
    """Law 8: a plan that does not fit is refused before anything is written. It is tried on the model that it leads to.

    Raises:
        AssertionError: the module was changed, or the plan executed.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> assert_atomic(dg.cut(dg.trace(model, torch.zeros(3, 4)), "0.weight", [2, 6], dim=0), model)
    """
    if not plan.cuts:
        return
    small = execute(plan, model)
    before = snapshot(small)
    try:
        execute_(plan, small)
    except Exception as error:  # noqa: BLE001 - whatever is raised, the module must be as it was
        assert snapshot(small) == before, f"law 8 (atomicity): {error!r} left a changed module"
    else:
        raise AssertionError("law 8 (atomicity): a plan for another graph was executed")


@of_graph
def assert_cost(graph: Graph, model: nn.Module, example_inputs: Inputs = (), kwargs: Mapping[str, Any] | None = None) -> None:
    """Law 10: the graph's parameters and MACs are those that PyTorch counts on the model.

    Where forward reads data, how many rows a layer gets depends on them: there the MACs are those of the model's own graph.
    Kernels that PyTorch's counter does not see into are avoided: oneDNN's recurrent ones and the attention fast path.

    Raises:
        AssertionError: the numbers differ; the message has both.

    >>> import depgraph as dg
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(3, 4)
    >>> graph = dg.trace(model, x)
    >>> assert_cost(graph, model, x)
    >>> assert_cost(graph, dg.execute(dg.cut(graph, "0.weight", [2, 6], dim=0), model), x)
    Traceback (most recent call last):
        ...
    AssertionError: law 10 (cost): 58 parameters promised, 44 met
    """
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert graph.params == counted, f"law 10 (cost): {graph.params} parameters promised, {counted} met"
    counter = FlopCounterMode(display=False)
    macs = graph.macs if graph.mode == "fake" else trace(model, example_inputs, kwargs, mode="real").macs
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)  # the counter follows modules through gradient functions, which no_grad leaves out
        with _plain_kernels(), torch.no_grad(), counter:
            run(model, example_inputs, kwargs)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    flops = counter.get_total_flops()
    assert 2 * macs == flops, f"law 10 (cost): {macs} MACs promised, {flops / 2} counted"


class _plain_kernels:
    """Within it, torch runs kernels whose operations PyTorch's counter sees."""

    def __enter__(self) -> None:
        self.fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        self.contexts = [torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH)]
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error: object) -> None:
        for context in reversed(self.contexts):
            context.__exit__(None, None, None)
        torch.backends.mha.set_fastpath_enabled(self.fast)


@of_graph
def normalised_atoms(graph: Graph) -> frozenset[Atom]:
    """Atoms over which something is averaged, normalised or drawn: masking them is not the same as removing them.

    The head dims of queries and keys are among them, and whatever else two computed values are multiplied along: such
    products are divided by the root of their number.

    >>> graph = trace(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(6, 2)), torch.zeros(3, 4))
    >>> [(group.name, group.atom in normalised_atoms(graph)) for group in graph.groups]
    [('0.weight:0', True), ('2.weight:0', False)]
    """
    normalised: set[Atom] = set()
    scaled = _scaled_dims(graph)
    widths = {group.atom for group in graph.groups if group.role == "head_dim"}
    for operation in graph.operations:
        tensors = [graph.tensor(name) for name in operation.inputs]
        results = {atom for name in operation.outputs for space in graph.tensor(name).axes for atom in atoms(space)}
        mixes = () if operation.name in scaled else operation.traits.mixes or ()
        normalised.update(atom for name, dim in mixes for atom in atoms(graph.tensor(name).axes[dim]))
        if operation.traits.draws:
            normalised |= results
        if operation.type is OpType.MATMUL and tensors:
            contracted = {atom for space in tensors[0].axes for atom in atoms(space)} - results
            computed = all(tensor.kind == "value" for tensor in tensors)  # such as the channels of a correlation volume
            normalised |= contracted if computed else contracted & widths
    return frozenset(normalised)


def _scaled_dims(graph: Graph) -> dict[str, frozenset[tuple[str, int]]]:
    """Dimensions of weight-normalised directions that a gain scales, by operation.

    Without the gain nothing is left, as without the rows; a direction itself may not be zero. What is zero in other
    dimensions adds nothing to its norm.
    """
    scaled = {}
    for operation in graph.operations:
        operands = [graph.tensor(name) for name in operation.inputs]
        if len(operands) < 2 or any(tensor.kind != "parameter" for tensor in operands) or not operation.traits.mixes:
            continue
        direction, gain = operands[:2]
        other_dims = [dim for dim in range(len(direction.axes)) if (direction.name, dim) not in operation.traits.mixes]
        gain_atoms = {atom for space in gain.axes for atom in atoms(space)}
        scaled[operation.name] = frozenset(
            (direction.name, dim) for dim in other_dims if gain_atoms.intersection(atoms(direction.axes[dim]))
        )
    return scaled


@of_graph
def assert_zero_channels(
    graph: Graph,
    plan: Plan,
    model: nn.Module,
    example_inputs: Inputs = (),
    kwargs: Mapping[str, Any] | None = None,
) -> int:
    """Law 6: removing indices whose every parameter is zero does not change the output.

    Groups over which something is normalised or drawn are left out; the number of groups compared is returned. The model is
    run in evaluation mode and double precision; what it computes in single precision by itself differs by less than 1e-6. A
    model whose code demands single precision is run as it is, to 1e-4.

    Raises:
        AssertionError: the output changed; the message says by how much.

    >>> import depgraph as dg
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(6, 2)), torch.randn(3, 4)
    >>> graph = dg.trace(model, x)
    >>> plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    >>> len(plan.cuts), assert_zero_channels(graph, plan, model, x)          # the layer norm mixes the first group
    (2, 1)
    """
    normalised = normalised_atoms(graph)
    balanced = {atom for balance in graph.balances if normalised.intersection(balance.atoms) for atom in balance.atoms}
    left_out = normalised | balanced
    removed = {cut.atom: cut.removal for cut in plan.cuts if cut.atom not in left_out}
    if not removed:
        return 0
    compared = plan_of(graph, removed)
    masked = execute(Plan.empty(graph), model).eval().double()
    scaled = frozenset[tuple[str, int]]().union(*_scaled_dims(graph).values())
    inputs, named_inputs = pytree.tree_map(_doubled, (example_inputs, dict(kwargs or {})))
    tolerance = 1e-6
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        # a copy runs, for some models keep what their first forward computed
        if not _runs(execute(Plan.empty(graph), masked), inputs, named_inputs):
            masked, tolerance = execute(Plan.empty(graph), model).eval(), 1e-4
            inputs, named_inputs = example_inputs, dict(kwargs or {})
        for name, parameter in masked.named_parameters():
            for dim, indices in compared.kept.get(name, {}).items():
                if (graph.tensor(name).name, dim) not in scaled:
                    parameter.index_fill_(dim, torch.tensor(list(indices.complement(parameter.shape[dim]))), 0.0)
        small = execute(compared, masked)
        torch.manual_seed(0)
        expected = run(masked, inputs, named_inputs)
        torch.manual_seed(0)
        outputs = run(small, inputs, named_inputs)
    for a, b in zip(_tensors(expected), _tensors(outputs), strict=True):
        assert a.shape == b.shape, f"law 6 (zero channels): output shape {tuple(a.shape)} became {tuple(b.shape)}"
        assert torch.equal(a.isnan(), b.isnan()), "law 6 (zero channels): the output is not a number in other places"
        scale = float(a.nan_to_num().abs().max()) + 1.0 if a.numel() else 1.0
        gap = float((a - b).nan_to_num().abs().max()) if a.numel() else 0.0
        assert gap <= tolerance * scale, f"law 6 (zero channels): the output changed by {gap}"
    return len(removed)


def _runs(model: nn.Module, example_inputs: Inputs, kwargs: Mapping[str, Any]) -> bool:
    """Whether a model in double precision runs and returns numbers: some kernels and constants are made for one type."""
    try:
        result = run(model, example_inputs, kwargs)
    except RuntimeError as error:
        if any(word in str(error) for word in ("dtype", "Double", "overflow")):
            return False
        raise
    return not any(bool(tensor.isnan().any()) for tensor in _tensors(result))


def _tensors(result: Any) -> list[torch.Tensor]:
    """The tensors in what a forward returned, those in dataclasses too."""
    return [tensor for _, tensor in named_leaves("output", result)]


def _doubled(leaf: Any) -> Any:
    """A leaf of the inputs in double precision."""
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf
