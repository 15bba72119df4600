"""Random programs: a few steps of many operators, each integer argument taken from wherever forward code takes its own.

`programs()` draws them, as data that print as the source of a module. `assert_program_lawful` compares one with itself pruned.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from typing import Any

import torch
from attrs import frozen
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, atoms
from depgraph.execution.execute import execute
from depgraph.execution.masking import mask
from depgraph.graph.graph import Graph
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan
from depgraph.testing.laws import assert_square, normalised_atoms
from depgraph.testing.program_steps import OPERATORS, Writer
from depgraph.tracing.trace import trace

_HEADER = "import math\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n\n"


@frozen
class Program:
    """A module as text: what its constructor makes, what its forward does, what it returns.

    Attributes:
        inputs: shapes of the inputs `x0`, `x1`, ...
        members: attributes of the module, each with the expression that makes it.
        steps: operators with the lines that forward runs for each.
        results: expressions that forward returns, at least one.
        seed: of parameters, buffers and inputs.

    >>> program = Program(((2, 3),), (("layer", "nn.Linear(3, 4)"),), (("linear", ("v0 = self.layer(x0)",)),), ("v0",), 0)
    >>> print(program.forward)
    def forward(self, x0):
        v0 = self.layer(x0)
        return (v0,)
    >>> program.module()(*program.example_inputs())[0].shape
    torch.Size([2, 4])
    """

    inputs: tuple[tuple[int, ...], ...]
    members: tuple[tuple[str, str], ...]
    steps: tuple[tuple[str, tuple[str, ...]], ...]
    results: tuple[str, ...]
    seed: int

    @property
    def forward(self) -> str:
        """The source of forward."""
        names = "".join(f", x{number}" for number in range(len(self.inputs)))
        lines = [line for _, lines in self.steps for line in lines]
        return "\n    ".join([f"def forward(self{names}):", *lines, f"return ({', '.join(self.results)},)"])

    @property
    def source(self) -> str:
        """The source of the module, which runs by itself."""
        made = "".join(f"        self.{name} = {code}\n" for name, code in self.members)
        body = self.forward.replace("\n", "\n    ")
        constructor = f"    def __init__(self):\n        super().__init__()\n{made}\n"
        return f"{_HEADER}class Drawn(nn.Module):\n{constructor}    {body}\n"

    def __str__(self) -> str:
        shapes = ", ".join(f"torch.randn{shape}" for shape in self.inputs)
        return (
            f"{self.source}\n\nmodel, inputs = Drawn().double().eval(), ({shapes},)  # in double precision; seed {self.seed}\n"
        )

    def module(self) -> nn.Module:
        """The module in evaluation mode and double precision, with random parameters and statistics."""
        name = "program.py"
        linecache.cache[name] = (len(self.source), None, self.source.splitlines(keepends=True), name)
        namespace: dict[str, Any] = {"__name__": "program"}
        exec(compile(self.source, name, "exec"), namespace)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self.seed)
            model: nn.Module = namespace["Drawn"]().double().eval()
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter))
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(torch.rand_like(buffer) + 0.5)
        return model

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of its shapes, in double precision."""
        generator = torch.Generator().manual_seed(self.seed)
        return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.inputs)


_FIRST = ("linear", "convolution", "grouped convolution", "called linear")
_SHAPES = ((3, 6), (2, 7), (2, 5, 6), (3, 4, 5), (2, 3, 6, 5), (1, 4, 5, 5))


@st.composite
def programs(draw: st.DrawFn, max_steps: int = 12) -> Program:
    """Random programs of a few steps, of `OPERATORS`.

    Args:
        draw: given by Hypothesis.
        max_steps: how many steps there are at most, beside the layer that begins and those that end.

    >>> from hypothesis import Phase, find, settings
    >>> first = settings(max_examples=1, phases=[Phase.generate])
    >>> program = find(programs(), lambda program: True, settings=first)
    >>> len(program.module()(*program.example_inputs())) >= len(program.results)
    True
    """
    seed = draw(st.integers(0, 2**16))
    writer = Writer(draw)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(draw(st.integers(1, 2))):
            writer.input(draw(st.sampled_from(_SHAPES)))
        for _ in range(draw(st.integers(1, 2))):
            writer.step(draw(st.sampled_from(_FIRST)))
        assume(writer.steps)
        for operator in draw(st.lists(st.sampled_from(list(OPERATORS)), min_size=3, max_size=max_steps)):
            writer.step(operator)
        results = tuple(writer.result() for _ in range(draw(st.integers(1, 3))))
    return Program(tuple(writer.inputs), tuple(writer.members), tuple(writer.steps), results, seed)


def assert_program_lawful(model: nn.Module, inputs: tuple[Any, ...], random: int = 0) -> int:
    """Whatever may go leaves the outputs' shapes and values, and what is traced after it is what was promised.

    Tried are each group down to its lower bound, all of them together, and some of all of them at random. What groups are
    balanced with goes with them. Values are those of `depgraph.mask`, wherever masking is the same as removing: not for what
    is averaged or normalised over, nor for what is summed where no parameter stands in the sum. What forward puts into the
    module's attributes is an output too. Of balanced groups that come down to one index the trace after it is not compared: a
    size of 1 is a literal there, so what forward adds to it is one as well. Attributes of torch's layers count what the
    smaller weights have.

    Args:
        model: any traceable module, in evaluation mode and double precision; it is left as it was.
        inputs: the positional arguments of its forward.
        random: the seed of the last plan.

    Returns:
        How many plans were tried.

    Raises:
        AssertionError: a plan leads to other shapes, other values, or another graph than it promises; the message says which.
        Exception: as forward raises it on the smaller model.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    >>> assert_program_lawful(model, (torch.randn(3, 4).double(),))
    2
    """
    graph = trace(model, inputs)
    before = _results(execute(Plan.empty(graph), model), inputs)
    masked_alike = {group.atom for group in graph.groups} - _unlike_masked(graph)
    plans = dict.fromkeys(_plans(graph, random))
    for plan in plans:
        small = execute(plan, model) if _single(graph, plan) else assert_square(graph, plan, model, inputs)
        _assert_counted(small)
        met = _results(small, inputs)
        for a, b in zip(before, met, strict=True):
            assert a.shape == b.shape, f"an output of shape {tuple(a.shape)} became {tuple(b.shape)} under {_removed(plan)}"
        partners = {
            atom: {atom, *(other for balance in graph.balances if atom in balance.atoms for other in balance.atoms)}
            for atom in graph.group_of
        }
        compared = {cut.atom: cut.removal for cut in plan.cuts if partners[cut.atom] <= masked_alike}
        if compared:
            part = plan if len(compared) == len(plan.cuts) else plan_of(graph, compared)
            met = met if part is plan else _results(execute(part, model), inputs)
            for a, b in zip(_results(mask(part, model), inputs), met, strict=True):
                assert bool(a.isfinite().all()) and bool(b.isfinite().all()), f"an output is not finite under {_removed(part)}"
                gap = float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
                limit = 1e-6 * (1 + float(a.double().abs().max())) if a.numel() else 0.0
                assert gap <= limit, f"an output changed by {gap} under {_removed(part)}"
    return len(plans)


_COUNTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("out_features", "in_features"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    nn.GroupNorm: ("num_channels",),
    nn.modules.batchnorm._BatchNorm: ("num_features",),
    nn.modules.conv._ConvNd: ("out_channels",),
}
"""The attributes of torch's layers that count the dimensions of their weight, in order."""


def _assert_counted(model: nn.Module) -> None:
    """The attributes of torch's layers say how large their weights are."""
    for path, module in model.named_modules():
        for kind, names in _COUNTS.items():
            if isinstance(module, kind):
                counted = tuple(getattr(module, name) for name in names)
                weight: Any = module.weight
                shape = tuple(weight.shape[: len(names)])
                assert counted == shape, f"{path} says {', '.join(names)} = {counted} of a weight of {shape}"


def _single(graph: Graph, plan: Plan) -> bool:
    """Whether a group that is balanced with others loses all its indices but one."""
    balanced = {atom for balance in graph.balances for atom in balance.atoms}
    return any(cut.atom in balanced and cut.atom.size - len(cut.removal) == 1 for cut in plan.cuts)


def _removed(plan: Plan) -> str:
    return ", ".join(f"{cut.group}: {cut.removal}" for cut in plan.cuts)


def _plans(graph: Graph, random: int) -> Iterator[Plan]:
    """Each group down to its lower bound with what it is balanced with, all at once, and a random part of them."""
    generator = torch.Generator().manual_seed(random)
    most: dict[Atom, IndexSet] = {}
    some: dict[Atom, IndexSet] = {}
    for group in graph.groups:
        if group.atom in most:
            continue
        beside = next((balance.atoms for balance in graph.balances if group.atom in balance.atoms), (group.atom,))
        count = min(graph.group_of[atom].size - graph.group_of[atom].lower_bound for atom in beside)
        part = int(torch.randint(0, count + 1, (), generator=generator))
        for atom in beside:
            order = torch.randperm(atom.size, generator=generator).tolist()
            most[atom], some[atom] = IndexSet.of(order[:count]), IndexSet.of(order[:part])
        alone = {atom: most[atom] for atom in beside}
        if count:
            yield plan_of(graph, alone)
    if most:
        yield plan_of(graph, most)
        yield plan_of(graph, some)


def _results(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    """What forward returns, and what it leaves in the attributes of the module."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        returned = model(*inputs)
    left = [
        value for module in model.modules() for _, value in sorted(vars(module).items()) if isinstance(value, (Tensor, list))
    ]
    return [leaf for leaf in pytree.tree_leaves((returned, left)) if isinstance(leaf, Tensor)]


def _unlike_masked(graph: Graph) -> set[Atom]:
    """Atoms of which removing is not the same as masking."""
    unlike = set(normalised_atoms(graph))
    for operation in graph.operations:
        tensors = [graph.tensor(name) for name in operation.inputs]
        values, parameters, results = (
            {atom for tensor in group for space in tensor.axes for atom in atoms(space)}
            for group in (
                [tensor for tensor in tensors if tensor.kind == "value"],
                [tensor for tensor in tensors if tensor.kind == "parameter"],
                [graph.tensor(name) for name in operation.outputs],
            )
        )
        unlike |= values - parameters - results  # zeros that have become others are summed
    return unlike
