"""Every invariant of a graph, in one place: what tests ask of each graph that is made, and `Graph.load` of each file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from depgraph.algebra.canonical_terms import sum_of_products, term_problems
from depgraph.algebra.index_maps import leaves
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.graph.paths import is_step
from depgraph.graph.records import Cost, ModuleSequence, OpType, retyped
from depgraph.messages import shortened

if TYPE_CHECKING:
    from depgraph.graph.graph import Graph


def check(graph: Graph) -> tuple[str, ...]:
    """Everything that is wrong with a graph, one sentence each; empty for every graph that this package makes."""
    problems = (*term_problems(_spaces(graph)), *_names(graph))
    if problems:  # the other checks rely on valid sizes and names
        return problems
    lists = sequence_problems(graph.sequences)
    others = (*_attributes(graph), *_limits(graph), *_interface(graph), *_calls(graph))
    return (*_reading_order(graph), *_operations(graph), *others, *lists)


def _spaces(graph: Graph) -> list[Space]:
    """All spaces, in the order in which their atoms are numbered, then the atoms that are named apart."""
    return [
        *(space for tensor in graph.tensors for space in tensor.axes),
        *(space for operation in graph.operations for cost in operation.costs for space in cost.axes),
        *(attribute.space for attribute in graph.attributes),
        *(pinned.atom for pinned in graph.pinned_atoms),
        *(atom for balance in graph.balances for atom in balance.atoms),
        *(bound.atom for bound in graph.lower_bounds),
        *(multiple.atom for multiple in graph.multiples),
        *(space for attribute in graph.unread for space in attribute.spaces),
        *(item.space for item in graph.free),
        *(item.space for item in graph.indices),
    ]


def _names(graph: Graph) -> Iterator[str]:
    """Tensors and operations have names of their own, and what an operation reads is there before it."""
    yield from _repeated("the tensor", [name for tensor in graph.tensors for name in (tensor.name, *tensor.aliases)])
    yield from _repeated("the operation", [operation.name for operation in graph.operations])
    yield from _repeated("the result", [name for operation in graph.operations for name in operation.outputs])
    values = {tensor.name for tensor in graph.tensors if tensor.kind == "value"}
    parameters = {name for tensor in graph.tensors if tensor.kind != "value" for name in (tensor.name, *tensor.aliases)}
    available = set(parameters)
    for operation in graph.operations:
        yield from (
            f"operation {operation.name!r} reads {name!r}, which is not there before it"
            for name in operation.inputs
            if name not in available
        )
        yield from (
            f"operation {operation.name!r} returns {name!r}, which is no value of the graph"
            for name in operation.outputs
            if name not in (parameters if operation.type is OpType.PARAMETER else values)
        )
        available.update(operation.outputs)
    yield from (f"the value {name!r} is returned by no operation" for name in sorted(values - available))


def _reading_order(graph: Graph) -> Iterator[str]:
    """Atoms are numbered in the order in which they are read, and first read forwards: so equal structures are equal graphs."""
    known: set[Atom] = set()
    for space in dict.fromkeys(_spaces(graph)):
        for leaf in leaves(space):
            if leaf.atom in known:
                continue
            if leaf.atom.id != len(known) or leaf.backwards:
                yield f"atom {leaf.atom.id} is read as number {len(known)}{', backwards' if leaf.backwards else ''}"
                return
            known.add(leaf.atom)


def _operations(graph: Graph) -> Iterator[str]:
    tensors = graph.by_name
    for operation in graph.operations:
        name = operation.name
        if any(cost.scale < 0 or Cost.of(cost.axes, cost.scale) != cost for cost in operation.costs):
            yield f"a cost of operation {name!r} is below 0, has a factor of 1, or factors in another order"
        if operation.further and operation.costs:
            yield f"operation {name!r} belongs to a further call, and has a cost"
        traits = operation.traits
        weight = traits.weight
        operands = (*traits.offsets, *((weight.operand,) if weight is not None else ()))
        if any(not 0 <= position < len(operation.inputs) for position in operands):
            yield f"the traits of operation {name!r} name an operand that it does not have"
            continue
        own = {*operation.inputs, *operation.outputs}
        places = [*(traits.mixes or ()), *traits.chooses, *((weight.read, weight.made) if weight is not None else ())]
        if weight is not None:
            places += [(operation.inputs[weight.operand], dim) for dim in (weight.inner, weight.outer)]
        if any(tensor not in own or not 0 <= dim < len(tensors[tensor].axes) for tensor, dim in places):
            yield f"the traits of operation {name!r} name a dimension that none of its tensors has"
        if operation.outputs and retyped(operation, tensors) != operation:
            yield f"operation {name!r} is of another type than its sizes say"


def _attributes(graph: Graph) -> Iterator[str]:
    paths = [attribute.path for attribute in graph.attributes]
    yield from _repeated("the attribute", paths)
    if paths != sorted(paths):
        yield "the attributes are not in the order of their paths"
    for attribute in graph.attributes:
        if not all(map(is_step, attribute.path.split("."))):
            yield f"an attribute's path names plain data of modules and configurations, met {shortened(repr(attribute.path))}"
        if all(atom in graph.reasons for atom in atoms(attribute.space)):
            yield f"the attribute {attribute.path!r} counts nothing that can be pruned"
        elif sum_of_products(attribute.space) != attribute.space:
            yield f"the space of the attribute {attribute.path!r} is not a sum of products in order"
    yield from _unread(graph, set(paths))


def _unread(graph: Graph, followed: set[str]) -> Iterator[str]:
    """Attributes that forward did not read are others than those that follow, and count what is in the axes."""
    paths = [attribute.path for attribute in graph.unread]
    yield from _repeated("the unread attribute", paths)
    if paths != sorted(paths):
        yield "the unread attributes are not in the order of their paths"
    known = {atom for tensor in graph.tensors for space in tensor.axes for atom in atoms(space)}
    for attribute in graph.unread:
        path = shortened(repr(attribute.path))
        if not all(map(is_step, attribute.path.split("."))):
            yield f"an attribute's path names plain data of modules and configurations, met {path}"
        if attribute.path in followed:
            yield f"the attribute {path} follows an axis, and is called unread as well"
        if len({space.size for space in attribute.spaces}) != 1:
            yield f"the unread attribute {path} may count spaces of one size, its own"
        counted = [set(atoms(space)) for space in attribute.spaces]
        if any(inside - known or graph.group_of.keys().isdisjoint(inside) for inside in counted):
            yield f"the unread attribute {path} may count what no axis holds, or what cannot be pruned"


def _limits(graph: Graph) -> Iterator[str]:
    """What is pinned, balanced or bounded is there, once, and in order."""
    lists = {
        "pinned atoms": [pinned.atom.id for pinned in graph.pinned_atoms],
        "balances": [balance.atoms[0].id for balance in graph.balances if balance.atoms],
        "lower bounds": [bound.atom.id for bound in graph.lower_bounds],
        "multiples": [item.atom.id for item in graph.multiples],
    }
    for what, numbers in lists.items():
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            yield f"the {what} are not in the order of their atoms, each once"
    axis_atoms = {atom for tensor in graph.tensors for space in tensor.axes for atom in atoms(space)}
    cost_axes = [space for operation in graph.operations for cost in operation.costs for space in cost.axes]
    known = axis_atoms | {atom for space in cost_axes for atom in atoms(space)}
    known |= {atom for attribute in graph.attributes for atom in atoms(attribute.space)}
    yield from (f"the pinned atom {pinned.atom} is in no axis" for pinned in graph.pinned_atoms if pinned.atom not in known)
    yield from _repeated("the balanced atom", [str(atom) for balance in graph.balances for atom in balance.atoms])
    for balance in graph.balances:
        if len(balance.atoms) < 2 or list(balance.atoms) != sorted(balance.atoms, key=lambda atom: atom.id):
            yield "a balance has less than two groups, or has them in another order than that of their numbers"
        yield from (f"the balanced atom {atom} is no group" for atom in balance.atoms if atom not in graph.group_of)
    for bound in graph.lower_bounds:
        if not 2 <= bound.size <= bound.atom.size:
            yield f"a lower bound is from 2 to the size of its group, met {bound.size} of {bound.atom}"
        if bound.atom not in graph.group_of:
            yield f"the bounded atom {bound.atom} is no group"
    for item in graph.multiples:
        if item.of < 2 or item.atom.size % item.of:
            yield f"a number from 2 on divides the size of its group, met {item.of} of {item.atom}"
        if item.atom not in graph.group_of:
            yield f"the atom {item.atom}, of which something is a multiple, is no group"


def _interface(graph: Graph) -> Iterator[str]:
    """Free axes are axes of the graph, and named indices lie in a free vocabulary."""
    yield from _repeated("the free axis", [(item.name, item.dim, item.space) for item in graph.free])
    known = {space for tensor in graph.tensors for space in tensor.axes}
    for item in graph.free:
        stored = item.kind == "vocabulary"
        axes = graph.by_name[item.name].axes if stored and item.name in graph.by_name else ()
        if item.space not in known or item.dim < 0 or (stored and (item.dim >= len(axes) or axes[item.dim] != item.space)):
            yield f"the free axis {item.dim} of {shortened(repr(item.name))} is none of the graph"
    vocabularies = {item.space for item in graph.free if item.kind == "vocabulary"}
    yield from _repeated("the named index", [(item.path, item.index, item.space) for item in graph.indices])
    for named in graph.indices:
        path = shortened(repr(named.path))
        if named.space not in vocabularies or not 0 <= named.index < named.space.size:
            yield f"the named index {path} lies in no free vocabulary"
        if named.path and not all(map(is_step, named.path.split("."))):
            yield f"an index's path names plain data of modules and configurations, met {path}"


def _calls(graph: Graph) -> Iterator[str]:
    """Modules are called with tensors of the graph, and give such."""
    known = {name for tensor in graph.tensors for name in (tensor.name, *tensor.aliases)}
    for call in graph.calls:
        path = shortened(repr(call.path))
        if call.path and not all(map(is_step, call.path.split("."))):
            yield f"a call names something else than a module, met {path}"
        names = {name for _, name in call.takes} | {name for name in call.returns if name}
        yield from (f"the call of {path} names {shortened(repr(name))}, which is no tensor" for name in sorted(names - known))
        if any(not (key.isidentifier() or key.isdigit()) for key, _ in call.takes) or call.arguments < len(call.takes):
            yield f"the call of {path} names arguments by positions and keywords, and not more than it has"


def sequence_problems(sequences: Iterable[ModuleSequence]) -> Iterator[str]:
    """Lists of modules whose names lead to something else than modules and plain data, or do not fit each other."""
    sequences = tuple(sequences)
    yield from _repeated("the list of modules", [item.path for item in sequences])
    for item in sequences:
        path, numbers = shortened(repr(item.path)), tuple(map(str, range(len(item.elements))))
        yield from _repeated(f"in the list {path} the element", item.elements)
        dotted = [item.path] if item.path else []
        dotted += [*item.counts, *item.positions, *(name for name, _ in item.entries)]
        if not all(is_step(step) for name in dotted for step in name.split(".")) or not all(map(is_step, item.elements)):
            yield f"the list {path} names something else than modules and plain attributes"
        if item.numbered and item.elements != numbers:
            yield f"the list {path} is called numbered, but its elements have other names"
        if not item.numbered and (item.positions or item.entries):
            yield f"the elements of the list {path} have names, and no places to follow"
        if any(len(texts) != len(numbers) for _, texts in item.entries):
            yield f"the list {path} has {len(numbers)} elements, and other lists that are to have as many entries"
        if any(not 0 <= place < len(numbers) for place, _ in item.fixed):
            yield f"the list {path} has the elements 0 to {len(numbers) - 1}, and fixes another one"


def _repeated(what: str, items: Iterable[Hashable]) -> Iterator[str]:
    yield from (f"{what} {item!r} is there more than once" for item, count in Counter(items).items() if count > 1)
