"""Graphs without some residual branches: which modules may be replaced by one that adds nothing, and what is left.

A branch is ``x + M(f(x))``, with whatever lies between. `M` leaves where the graph shows that what it returns is only added to
the stream from which it is made: then a module that returns zeros takes its place. What has no other use than to feed it, such
as its normalisation, or only comes behind it, such as a projection or another normalisation, goes with it: what it is given is
handed on.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property

from attrs import evolve, field, frozen

from depgraph import codec
from depgraph.algebra.spaces import UNIT, Atom, Space, atoms, substitute
from depgraph.errors import DepgraphError, PlanError, UnknownNameError
from depgraph.graph.graph import Graph
from depgraph.graph.records import ModuleCall, ModuleSequence, Operation, OperationTraits, OpType, Tensor
from depgraph.graph.rewiring import rewired
from depgraph.messages import shortened

ZEROS = "zeros"
"""What stands in `Branch.returns` for the tensor that is added."""

STAND_IN = "AddsNothing"
"""The class of what takes the place of a branch's module."""


@frozen
class Branch:
    """A residual branch that leaves: the module that runs it is replaced by one that adds nothing.

    Attributes:
        path: the module's dotted path.
        like: which of its arguments has the shape of what is added, by position or keyword.
        returns: what the module returns, in order: ``zeros`` for what is added, an empty text for None, the position or keyword
            of an argument that it hands on. Empty where it returns one tensor alone.
        beside: modules that only feed the branch or come behind it. They hand on what they are given.
        keeps: integers of the module that say its place in a list of modules, such as ``layer_idx``.

    >>> import torch, depgraph as dg
    >>> class Block(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.norm, self.mlp = torch.nn.LayerNorm(4), torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 4))
    ...     def forward(self, x):
    ...         return x + self.mlp(self.norm(x))
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(3, 4), Block()), torch.zeros(1, 3))
    >>> (branch,) = dg.drop_branches(graph, "1.mlp").branches
    >>> print(branch)
    1.mlp adds nothing; with it go 1.norm
    """

    path: str
    like: str
    returns: tuple[str, ...] = field(default=(), metadata=codec.LATE)
    beside: tuple[str, ...] = field(default=(), metadata=codec.LATE)
    keeps: tuple[str, ...] = field(default=(), metadata=codec.LATE)

    @property
    def replaced(self) -> tuple[str, ...]:
        """The paths of all modules that go."""
        return (self.path, *self.beside)

    def with_names(self, name: Callable[[str], str]) -> Branch:
        """The branch with other paths."""
        return evolve(self, path=name(self.path), beside=tuple(sorted(map(name, self.beside))))

    def __str__(self) -> str:
        return f"{self.path} adds nothing" + (f"; with it go {', '.join(self.beside)}" if self.beside else "")


@frozen
class Stream:
    """What a branch is made from and added to, and where a forward has it.

    Attributes:
        name: the value, the latest one to which the branch is added and from which it is made.
        path: a module that is given it; None where it is the other term of the sum.
        key: the position or keyword by which the module is given it.
        returned: the place of what is added among what the branch's module returns; None where it returns that alone.
        behind: the modules between the branch's module and the sum, in order.
    """

    name: str
    path: str | None
    key: str
    returned: int | None
    behind: tuple[str, ...]


class BranchFlow:
    """What flows through the modules of a graph, and which of them may leave as residual branches."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._operations = [item for item in graph.operations if item.type is not OpType.PARAMETER]
        self._order = {item.name: place for place, item in enumerate(self._operations)}
        self._makers = {name: item for item in self._operations for name in item.outputs}
        self._calls: dict[str, list[ModuleCall]] = {}
        for call in graph.calls:
            self._calls.setdefault(call.path, []).append(call)
        self._readers: dict[str, list[Operation]] = {}
        for item in self._operations:
            for name in dict.fromkeys(self._same(name, item) for name in item.inputs):
                self._readers.setdefault(name, []).append(item)

    def _same(self, name: str, reader: Operation) -> str:
        """What an operation reads, by the name that it had before other modules handed it on unchanged.

        A cast to the type that a tensor has already gives the tensor itself: from then on it goes by the name of that cast.
        """
        while (maker := self._makers.get(name)) is not None and _hands_on(maker):
            owner = next((path for path in self._modules_of[maker.name] if path in self._calls), "")
            if not owner or owner in self._modules_of[reader.name] or any(name in call.returns for call in self._calls[owner]):
                break
            (name,) = maker.inputs
        return name

    def handed_on(self, path: str) -> Iterator[tuple[str, str]]:
        """What a module is given and what has another name behind it although it is the same, with its name before."""
        for item in self.inside(path):
            if _hands_on(item):
                yield item.outputs[0], item.inputs[0]

    def inside(self, path: str) -> list[Operation]:
        """The operations of a module, in order."""
        return self._inside.get(path, [])

    @cached_property
    def _inside(self) -> dict[str, list[Operation]]:
        """The operations of each module."""
        inside: dict[str, list[Operation]] = {}
        for item in self._operations:
            for path in self._modules_of[item.name]:
                inside.setdefault(path, []).append(item)
        return inside

    @cached_property
    def _modules_of(self) -> dict[str, tuple[str, ...]]:
        """The dotted paths around each operation, the innermost first. The further ones of a module have a number behind it."""
        modules = {}
        for item in self._operations:
            matched = _NUMBERED.fullmatch(item.name)
            is_further = matched is not None and matched[1] in self._calls and item.name not in self._calls
            modules[item.name] = tuple(_upwards(matched[1] if matched is not None and is_further else item.name))
        return modules

    def found(self, paths: Iterable[str]) -> tuple[list[Branch], list[str]]:
        """The branches that modules run, by the modules' paths, and why some may not leave."""
        branches, problems, scopes = [], [], {}
        for path in sorted(set(paths)):
            try:
                branch, scopes[path] = self._branch(path)
                branches.append(branch)
            except _NotOne as error:
                problems.append(f"{path} may not leave: {error}{self._goes_with(path)}")
        if problems:
            return branches, problems
        return self._with_feeders(branches, scopes)

    @cached_property
    def outermost(self) -> tuple[Branch, ...]:
        """All branches that may leave, each by itself, in the order of forward; none that lies within another one."""
        found = [branch for path in self._calls if path for branch in self._by_itself(path)]
        outer: list[Branch] = []
        for branch in sorted(found, key=lambda branch: -self._params(branch.path)):
            if not any(path in other.replaced for other in outer for path in _upwards(branch.path)):
                outer.append(branch)
        return tuple(sorted(outer, key=lambda branch: self._order[self.inside(branch.path)[0].name]))

    def _by_itself(self, path: str) -> list[Branch]:
        """The branch that a module runs, where it may leave without another one."""
        try:
            branch, scope = self._branch(path)
        except _NotOne:
            return []
        branches, problems = self._with_feeders([branch], {path: scope})
        return [] if problems else branches

    def asked(self, paths: Iterable[str]) -> tuple[list[Branch], list[str]]:
        """As `found`, for paths that a user names: a module that only stands beside the one that runs the branch is refused."""
        branches, problems = self.found(paths)
        for branch in branches if not problems else ():
            largest = max(branch.replaced, key=self._params)
            other, why = self.found([largest]) if largest != branch.path else ([branch], [])
            if not why and other[0].path != branch.path and {*other[0].replaced} == {*branch.replaced}:
                problems.append(f"{branch.path} may not leave alone: it goes with {largest}; name that one")
        return branches, problems

    def _params(self, path: str) -> int:
        """How many parameters a module holds."""
        held = (tensor for tensor in self._graph.tensors if tensor.kind == "parameter" and tensor.name.startswith(f"{path}."))
        return sum(math.prod(tensor.shape) for tensor in held)

    def _goes_with(self, path: str) -> str:
        """The branch with which a module goes that is none itself, as a hint."""
        holder = next((branch.path for branch in self.outermost if path in branch.beside), "")
        return f"; it goes with {holder}, name that one" if holder else ""

    def stream(self, branch: Branch) -> Stream | None:
        """What a branch is made from and added to; None where no module is given that. It may leave."""
        call = self._call(branch.path)
        given = self._given(branch.path, call)
        behind, _, place, _ = self._added(branch.path, given)
        common = place & self._sources(dict(call.takes)[branch.like])
        name = max(common, key=lambda item: self._order[self._makers[item].name] if item in self._makers else -1)
        returned, root = None if call.alone else call.returns.index(given), self._root(name)
        if root in map(self._root, self._sum_behind(self._end(given, behind)).inputs):
            return Stream(name, None, "", returned, tuple(behind))
        for path in dict.fromkeys((*branch.replaced, *_upwards(branch.path))):
            for key, value in self._calls[path][0].takes if len(self._calls.get(path, ())) == 1 and path not in behind else ():
                if self._root(value) == root:
                    return Stream(name, path, key, returned, tuple(behind))
        return None

    def _sum_behind(self, name: str) -> Operation:
        """The sum in which a branch is added, by what its last module gives."""
        reader = self._readers[name][0]
        while not _is_sum(reader):
            reader = self._readers[reader.outputs[0]][0]
        return reader

    def _root(self, name: str) -> str:
        """The first name of a value that operations hand on."""
        while (maker := self._makers.get(name)) is not None and _hands_on(maker):
            (name,) = maker.inputs
        return name

    def _branch(self, path: str) -> tuple[Branch, str]:
        """The branch of a module without what feeds it, and the path of the innermost module around the branch and its sum."""
        call = self._call(path)
        given = self._given(path, call)
        behind, last, place, scope = self._added(path, given)
        like = next(
            (key for key, name in call.takes if self._axes(name) == self._axes(last) and place & self._sources(name)), None
        )
        if like is None:
            raise _NotOne(
                f"none of its arguments has the space of what it adds and comes from what that is added to "
                f"({_described(self._readers[self._end(given, behind)][0])})"
            )
        keys = {name: key for key, name in call.takes}
        made = {name for item in self.inside(path) for name in item.outputs}
        returns = tuple(ZEROS if name == given else keys.get(name, "") if name not in made else "" for name in call.returns)
        if unknown := [name for name, key in zip(call.returns, returns, strict=True) if name and not key and name not in made]:
            raise _NotOne(f"it returns {unknown[0]}, which it neither makes nor is given as an argument")
        return Branch(path, like, () if call.alone else returns, tuple(behind), self._keeps(path)), scope

    def _call(self, path: str) -> ModuleCall:
        """The one call of a module, which another module can take."""
        calls = self._calls.get(path, [])
        if len(calls) != 1:
            raise _NotOne(f"forward calls it {len(calls)} times, expected once")
        if calls[0].problem:
            raise _NotOne(calls[0].problem)
        for names in self._tied:
            if len(inside := [name for name in names if name.startswith(f"{path}.")]) not in {0, len(names)}:
                other = next(name for name in names if name not in inside)
                raise _NotOne(f"its {inside[0]} is tied to {other}")
        return calls[0]

    @cached_property
    def _tied(self) -> list[tuple[str, ...]]:
        """The names of each tensor that has several."""
        return [(tensor.name, *tensor.aliases) for tensor in self._graph.tensors if tensor.aliases]

    def _given(self, path: str, call: ModuleCall) -> str:
        """The one tensor that the module makes and that is read outside of it."""
        inside = self.inside(path)
        own = {item.name for item in inside}
        leaving = [
            name
            for item in inside
            for name in item.outputs
            if any(reader.name not in own for reader in self._readers.get(name, ()))
        ]
        if len(leaving) != 1:
            raise _NotOne(f"it gives {len(leaving)} tensors that are read outside, expected one")
        if leaving[0] not in call.returns:
            raise _NotOne(f"{leaving[0]}, which is read outside of it, is not what it returns")
        return leaving[0]

    def _added(self, path: str, given: str) -> tuple[list[str], str, frozenset[str], str]:
        """What follows a module up to the sum.

        Returns:
            The modules behind it that go; the value whose shape the zeros have; what it is added to, and to what that sum is
            added; the innermost module around the branch and the sum.
        """
        behind: list[str] = []
        last, now, direct = given, given, True
        while True:
            readers = self._readers.get(now, [])
            if (module := self._behind(path, now, readers)) is not None:
                if not direct and self._axes(module.returns[0]) != self._axes(now):
                    raise _NotOne(f"{module.path}, which comes behind it, gives another space than it takes")
                behind.append(module.path)
                now = module.returns[0]
                last = now if direct else last
                continue
            if len(readers) != 1:
                raise _NotOne(f"what it gives is read by {' and '.join(map(_described, readers[:2])) or 'nothing'}")
            (reader,) = readers
            if (others := self._others(reader, now)) is not None:
                return behind, last, frozenset(others), _around([path, reader.name.rpartition(".")[0]])
            if not _keeps_zeros(reader):
                raise _NotOne(f"what it gives is read by {_described(reader)}, and not added to what it is made from")
            (now,), direct = reader.outputs, False

    def _end(self, given: str, behind: Sequence[str]) -> str:
        return self._calls[behind[-1]][0].returns[0] if behind else given

    @cached_property
    def _takers(self) -> dict[str, list[str]]:
        """The modules to which each value is given."""
        takers: dict[str, list[str]] = {}
        for call in self._graph.calls:
            for _, name in call.takes:
                takers.setdefault(name, []).append(call.path)
        return takers

    def _behind(self, path: str, name: str, readers: Sequence[Operation]) -> ModuleCall | None:
        """The outermost module that only goes on with a value: it takes it alone, adds nothing to it, and gives one tensor."""
        for candidate in sorted(set(self._takers.get(name, ())), key=len):
            calls = self._calls[candidate]
            takes_it = len(calls) == 1 and calls[0].takes == (("0", name),) and calls[0].arguments == 1 and calls[0].alone
            if not takes_it or calls[0].problem or path.startswith(f"{candidate}."):
                continue
            adds = any(_is_sum(item) and name in item.inputs for item in self.inside(candidate))
            around = all(candidate in self._modules_of[item.name] for item in readers)
            if around and not adds and self._gives_one(calls[0]):
                return calls[0]
        return None

    def _gives_one(self, call: ModuleCall) -> bool:
        """Whether what a module returns is all of it that is read outside."""
        inside = self.inside(call.path)
        own = {item.name for item in inside}
        leaving = {
            name for item in inside for name in item.outputs if any(r.name not in own for r in self._readers.get(name, ()))
        }
        return leaving == set(call.returns)

    def _others(self, reader: Operation, name: str) -> set[str] | None:
        """What a value is added to, as one term of a sum of several: all other terms. None where it is not added."""
        if not _is_sum(reader) or name not in reader.inputs or reader.inputs[0] == reader.inputs[1]:
            return None
        (other,) = (item for item in reader.inputs if item != name)
        if other not in self._makers or self._axes(other) != self._axes(name):
            return None
        others, (total,) = {other}, reader.outputs
        following = self._readers.get(total, [])
        while len(following) == 1 and _is_sum(following[0]) and following[0].inputs[0] != following[0].inputs[1]:
            others |= {item for item in following[0].inputs if item != total}
            (total,) = following[0].outputs
            following = self._readers.get(total, [])
        pending = list(others)
        while pending:
            maker = self._makers.get(pending.pop())
            more = set(maker.inputs) - others if maker is not None and _is_sum(maker) else set()
            others |= more
            pending += more
        return others

    def _axes(self, name: str) -> object:
        tensor = self._graph.by_name.get(name)
        return tensor.axes if tensor is not None else name

    def _sources(self, name: str) -> frozenset[str]:
        """The value, and all from which it is made."""
        found, pending = {name}, [name]
        while pending:
            maker = self._makers.get(pending.pop())
            for item in maker.inputs if maker is not None else ():
                if item not in found:
                    found.add(item)
                    pending.append(item)
        return frozenset(found)

    def _keeps(self, path: str) -> tuple[str, ...]:
        """The integers of a module that say its place in a list."""
        held = []
        for sequence in self._graph.sequences:
            places = (f"{sequence.prefix}{element}.{item}" for element in sequence.elements for item in sequence.positions)
            held += [place.removeprefix(f"{path}.") for place in places if place.startswith(f"{path}.")]
        if deeper := [name for name in held if "." in name]:
            raise _NotOne(f"{path}.{deeper[0]}, which says its place in a list, lies deeper in it")
        return tuple(sorted(set(held)))

    def _with_feeders(self, branches: Sequence[Branch], scopes: Mapping[str, str]) -> tuple[list[Branch], list[str]]:
        """The branches with what only feeds them, and why that may not go."""
        gone = {path for branch in branches for path in branch.replaced}
        holders = [(path, branch.path) for branch in branches for path in branch.replaced]
        twice = [
            f"{branch.path} goes with {holder}: name one of them"
            for branch in branches
            for path, holder in holders
            if holder != branch.path and path in _upwards(branch.path)
        ]
        if twice:
            return [*branches], twice
        owners = {item.name: branch.path for branch in branches for path in branch.replaced for item in self.inside(path)}
        feeding: dict[str, str] = {}
        for item in reversed(self._operations):
            readers = [reader for name in item.outputs for reader in self._readers.get(name, ())]
            users = [owners.get(reader.name) or feeding.get(reader.name) for reader in readers]
            if item.name not in owners and users and all(users) and item.type is not OpType.INPUT:
                feeding[item.name] = max(
                    (user for user in users if user), key=lambda user: self._order[self.inside(user)[0].name]
                )
        beside: dict[str, list[str]] = {branch.path: [*branch.beside] for branch in branches}
        for path, user in self._feeders(feeding, scopes):
            if not any(path.startswith(f"{other}.") for other in gone):
                beside[user].append(path)
                gone.add(path)
        inside = {item.name for path in gone for item in self.inside(path)}
        left = [item for item in self._operations if item.name in feeding and item.name not in inside]
        parameters = {item.name for item in self._graph.tensors if item.kind == "parameter"}
        problems = [
            f"{feeding[item.name]} may not leave: {_described(item)} is computed for it alone, and its {name} would stay"
            for item in left
            for name in item.inputs
            if name in parameters
        ]
        return [evolve(branch, beside=tuple(sorted(beside[branch.path]))) for branch in branches], problems

    def _feeders(self, feeding: Mapping[str, str], scopes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """The outermost modules that take one tensor to one of the same space for one branch, each with the branch."""
        for path, calls in sorted(self._calls.items(), key=lambda item: len(item[0])):
            inside = self.inside(path)
            if not path or not inside or len(calls) != 1 or any(item.name not in feeding for item in inside):
                continue
            (call,), user = calls, feeding[inside[-1].name]
            hands_on = call.alone and call.arguments == 1 and [key for key, _ in call.takes] == ["0"] and not call.problem
            same = hands_on and self._axes(call.takes[0][1]) == self._axes(call.returns[0])
            if same and _lies_below(path, scopes[user]) and self._gives_one(call):
                yield path, user


def named_modules(graph: Graph, patterns: object) -> tuple[list[str], list[DepgraphError]]:
    """The modules that forward calls and patterns name, and what is wrong with the patterns."""
    if not isinstance(patterns, Iterable):
        return [], [PlanError(f"expected dotted paths of modules or globs, met {shortened(repr(patterns))}.")]
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    known = dict.fromkeys(call.path for call in graph.calls if call.path)
    strange = dict.fromkeys(type(item).__name__ for item in listed if not isinstance(item, str))
    problems: list[DepgraphError] = []
    if strange:
        problems.append(PlanError(f"expected dotted paths of modules or globs, met {' and '.join(strange)}."))
    paths: dict[str, None] = {}
    for pattern, count in Counter(item for item in listed if isinstance(item, str)).items():
        matched = [path for path in known if fnmatchcase(path, pattern)]
        if not matched:
            problems.append(UnknownNameError("module", pattern, known))
        elif count > 1:
            problems.append(PlanError(f"{pattern!r} is given more than once; give it once."))
        paths.update(dict.fromkeys(matched))
    return [*paths], problems


class _NotOne(Exception):
    """A module runs no residual branch that may leave, for this reason."""


_NUMBERED = re.compile(r"(.*)_\d+")


def _lies_below(path: str, scope: str) -> bool:
    return not scope or path.startswith(f"{scope}.")


def _upwards(name: str) -> Iterator[str]:
    """A dotted name, and those around it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def losing(branches: Iterable[Branch]) -> Callable[[str], bool]:
    """Whether a tensor, module or attribute of a name goes with branches; what is replaced by another module is still there."""
    branches = tuple(branches)
    replaced = {path for branch in branches for path in branch.replaced}
    kept = {f"{branch.path}.{name}" for branch in branches for name in branch.keeps}
    return lambda name: name not in kept and any(path in replaced for path in _upwards(name.rpartition(".")[0]))


def _around(paths: Sequence[str]) -> str:
    """The path of the innermost module around others."""
    steps = []
    for names in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        steps.append(names[0])
    common = ".".join(steps)
    return common if common != paths[0] else common.rpartition(".")[0]


def _hands_on(operation: Operation) -> bool:
    """Whether an operation may return the very tensor that it is given."""
    return len(operation.inputs) == len(operation.outputs) == 1 and operation.op.rpartition(".")[2] in _SAME


_SAME = frozenset({"to", "contiguous", "dropout"})


def _is_sum(operation: Operation) -> bool:
    """Whether an operation adds two tensors."""
    offsets = operation.traits.offsets
    return operation.type is OpType.ELEMENTWISE and len(operation.inputs) == 2 and set(offsets) == {0, 1}


_KEEPING = frozenset(
    {"dropout", "feature_dropout", "mul", "div", "neg", "to", "_to_copy", "clone", "contiguous", "detach", "roll"}
)


def _keeps_zeros(operation: Operation) -> bool:
    """Whether an operation of one tensor makes zeros of zeros, in another shape perhaps."""
    short = operation.op.rpartition(".")[2].removesuffix("_")
    moves = operation.type in {OpType.RESHAPE, OpType.PERMUTE, OpType.SLICE} or short in _KEEPING
    return len(operation.inputs) == len(operation.outputs) == 1 and moves


def branch_problems(graph: Graph, branches: Sequence[Branch]) -> Iterator[str]:
    """Why residual branches may not leave, one sentence each."""
    if not branches:
        return
    found, problems = BranchFlow(graph).found(branch.path for branch in branches)
    beside = {path for branch in found for path in branch.beside}
    known = {branch.path: branch for branch in found}
    for branch in branches if not problems else ():
        if evolve(branch, beside=()) != evolve(known[branch.path], beside=()):
            problems.append(f"the branch of {branch.path} is not as the graph has it: {known[branch.path]}")
        problems += [f"{path} does more than to feed {branch.path}" for path in branch.beside if path not in beside]
    yield from problems
    alone = next(_alone(graph, branches), None) if not problems else None
    if alone is not None:
        yield f"{_described(alone)} alone says how axes outside of it belong together: keep one branch of its kind"


def _alone(graph: Graph, branches: Sequence[Branch]) -> Iterator[Operation]:
    """The operations that go and alone say how axes of what stays belong together: another trace would not know of it.

    Such are those that take an axis apart, and those that join what forward makes beside the stream, such as a mask, with the
    rest. Where another branch of the same kind stays, its operations say the same.
    """
    said = _Said(graph, branches)
    for item in said.leaving:
        if item.type in _TAKE_APART and said.takes_apart(item) and said.signature(item) not in said.kept:
            yield item
    for item, name in said.joined():
        if (said.signature(item), name) not in said.kept_reading:
            yield item


class _Said:
    """What the operations say that go with branches, and what those that stay say."""

    def __init__(self, graph: Graph, branches: Sequence[Branch]) -> None:
        flow, left, calls = BranchFlow(graph), with_stand_ins(graph, branches), {call.path: call for call in graph.calls}
        gone = {item.name for branch in branches for path in branch.replaced for item in flow.inside(path)}
        self._tensors = graph.by_name
        self.leaving = [item for item in graph.operations if item.name in gone]
        self._present = {atom for tensor in left.tensors for space in tensor.axes for atom in atoms(space)}
        met = {name for item in self.leaving for name in (*item.inputs, *item.outputs)}
        self._shared = self._present & {atom for name in met for space in graph.by_name[name].axes for atom in atoms(space)}
        stay = [item for item in graph.operations if item.name not in gone]
        self.kept = {self.signature(item) for item in stay}
        self.kept_reading = {(self.signature(item), name) for item in stay for name in item.inputs}
        self._stream = {dict(calls[branch.path].takes)[branch.like] for branch in branches}
        self._stream |= {name for branch in branches for path in branch.beside for _, name in calls[path].takes}

    def _axes(self, name: str) -> set[Space]:
        """The spaces of a tensor's axes of which something stays."""
        return {space for space in self._tensors[name].axes if space.size > 1 and self._present.issuperset(atoms(space))}

    def signature(self, item: Operation) -> tuple[object, ...]:
        """What an operation says, of whichever layer: without the atoms of that layer alone."""
        spaces = (self._tensors[name].axes for name in (*item.inputs, *item.outputs))
        return item.op, *(
            tuple(substitute(space, lambda a: a if a in self._shared else UNIT) for space in each) for each in spaces
        )

    def takes_apart(self, item: Operation) -> bool:
        """Whether parts of an axis become axes, or axes the parts of one."""
        before, after = (
            {space for name in names if self._tensors[name].kind == "value" for space in self._axes(name)}
            for names in (item.inputs, item.outputs)
        )
        return any(not isinstance(space, Atom) for space in before ^ after)

    def joined(self) -> Iterator[tuple[Operation, str]]:
        """The operations that read what is made beside the stream, which is later joined with it, and what they read."""
        readers: dict[str, set[tuple[Operation, str]]] = {}
        made: set[str] = set()
        for item in self.leaving:
            values = [name for name in item.inputs if self._tensors[name].kind == "value"]
            beside = [name for name in values if name in readers or (name not in made and name not in self._stream)]
            roots = {pair for name in beside for pair in readers.get(name, {(item, name)})}
            made.update(item.outputs)
            rest = set[Space]().union(*(self._axes(name) for name in values if name not in beside))
            if len(beside) == len(values) and beside:
                readers.update(dict.fromkeys(item.outputs, roots))
            elif any(self._axes(name) & rest for name in beside):
                yield from sorted(roots, key=lambda pair: (pair[0].name, pair[1]))


_TAKE_APART = frozenset({
    OpType.CONCAT, OpType.SPLIT, OpType.SLICE, OpType.UNBIND, OpType.RESHAPE, OpType.EXPAND, OpType.PERMUTE, OpType.UNKNOWN
})  # fmt: skip


def _described(operation: Operation) -> str:
    if operation.type is OpType.OUTPUT:
        return f"the model's {operation.name}"
    return f"{operation.name} ({operation.op}{f' at {operation.where}' if operation.where else ''})"


def with_stand_ins(graph: Graph, branches: Sequence[Branch]) -> Graph:
    """The graph with modules that add nothing in the place of branches. `branch_problems` must have none."""
    if not branches:
        return graph
    flow, lost = BranchFlow(graph), losing(branches)
    inside = {item.name for branch in branches for path in branch.replaced for item in flow.inside(path)}
    stay = {item.name: item for item in graph.operations if item.name not in inside and not lost(item.name)}
    calls = {call.path: call for call in graph.calls}
    redirected: dict[str, str] = {}
    made: dict[str, Tensor] = {}
    for branch in branches:
        for path in branch.replaced:
            redirected.update(flow.handed_on(path))
        for path in branch.beside:
            redirected[calls[path].returns[0]] = calls[path].takes[0][1]
        first = flow.inside(branch.path)[0]
        like = graph.by_name[dict(calls[branch.path].takes)[branch.like]]
        zeros = Tensor(f"{branch.path}:0", "value", like.axes)
        stay[first.name] = Operation(
            branch.path,
            OpType.CREATE,
            "aten.new_zeros",
            STAND_IN,
            (like.name,),
            (zeros.name,),
            traits=OperationTraits(()),
            further=first.further,
        )
        made[first.outputs[0]] = zeros
        for key, name in zip(branch.returns or (ZEROS,), calls[branch.path].returns, strict=True):
            if key == ZEROS and name != zeros.name:
                redirected[name] = zeros.name
    left = rewired(graph, stay, redirected, lambda name: not lost(name), made)
    replaced = {path for branch in branches for path in branch.replaced}
    return evolve(left, sequences=tuple(_lists_left(graph.sequences, replaced, lost)))


def _lists_left(
    sequences: Iterable[ModuleSequence], replaced: Container[str], lost: Callable[[str], bool]
) -> Iterator[ModuleSequence]:
    """The lists of modules that are still there, with the integers that are."""
    for item in sequences:
        if item.path not in replaced and not lost(item.path):
            counts = tuple(path for path in item.counts if not lost(path))
            yield evolve(item, counts=counts, entries=tuple(entry for entry in item.entries if not lost(entry[0])))
