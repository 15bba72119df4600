"""Drawings of whole modules: few boxes, and the tensors that pass between them. The page finds where the boxes stand."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TypeAlias

from attrs import field, frozen

from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.graph.graph import Graph
from depgraph.graph.records import Operation, OpType
from depgraph.reporting.folding import Encoded

MOST_BOXES = 40
"""A drawing shows what is inside of modules as long as it has so many boxes at most."""

MOST_LABELS = 3
"""So many tensors of different sizes are told of at an arrow."""

IN, OUT = "<in>", "<out>"
"""What stands for all that a module reads, and for all that reads it. Names of modules have no such characters alone."""

_SHOWN = frozenset({OpType.INPUT, OpType.OUTPUT, OpType.PARAMETER, OpType.POOL})
"""Operations that have a box though they have no parameters and read one tensor."""

Label: TypeAlias = tuple[Space, ...]
"""The axes of a tensor that hold something that can be removed; all of them where none does."""


@frozen
class Frame:
    """The inside of a module, as a graph of boxes.

    Attributes:
        path: the module; the first one of equal ones.
        boxes: modules, the first one of equal ones, and nodes, by their names; `IN` and `OUT`.
        arrows: from which box to which box which tensors pass.
    """

    path: str
    boxes: tuple[str, ...]
    arrows: Mapping[tuple[str, str], tuple[Label, ...]]


@frozen
class _Region:
    """A module that is drawn: its operations, what is folded in it, and what of it is opened."""

    path: str
    tree: Encoded
    operations: Sequence[Operation]
    opened: frozenset[str] = field(default=frozenset())

    def box(self, name: str) -> tuple[str, Encoded | None]:
        """The box in which an operation lies, with its part of the tree."""
        at, tree, steps = self.path, self.tree, name[len(self.path) + 1 if self.path else 0 :].split(".")
        for step in steps:
            child = next((each for each in tree.get("children", ()) if step in each.get("members", (each["name"],))), None)
            at = f"{at}.{child['name'] if child else step}".lstrip(".")
            if child is None or at not in self.opened:
                return at, child
            tree = child
        return at, None


def frames(graph: Graph, tree: Encoded) -> list[Frame]:
    """The drawing of the whole, and of each module that is a box of one, where there is something to see in it.

    Args:
        graph: the graph.
        tree: its modules as `folded_tree` gives them.
    """
    free = frozenset(group.atom for group in graph.groups)
    found, waiting = list[Frame](), [("", tree)]
    while waiting:
        path, part = waiting.pop(0)
        region = _Region(path, part, [item for item in graph.operations if _within(item.name, path) and not item.further])
        opened, frame = _opened(graph, region, free)
        if path and len(set(frame.boxes) - {IN, OUT}) < 2:
            continue
        found.append(frame)
        inner = (opened.box(box) for box in frame.boxes if box not in (IN, OUT))
        waiting += [(box, child) for box, child in inner if child is not None and "children" in child]
    return found


def _within(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}.")


def _opened(graph: Graph, region: _Region, free: Container[Atom]) -> tuple[_Region, Frame]:
    """A region in which modules are opened, outer ones first, elements of lists never, as long as few boxes come of it."""
    frame = _frame(graph, region, free)
    tried = set[str]()
    while True:
        closed = (box for box in frame.boxes if box not in tried and _has_inside(region, box))
        box = min(closed, key=lambda each: each.count("."), default=None)
        if box is None:
            return region, frame
        tried.add(box)
        wider = _Region(region.path, region.tree, region.operations, region.opened | {box})
        drawn = _frame(graph, wider, free)
        if len(drawn.boxes) <= MOST_BOXES:
            region, frame = wider, drawn


def _has_inside(region: _Region, box: str) -> bool:
    if box in (IN, OUT) or box.rpartition(".")[2].isdigit():
        return False
    at, child = region.box(box)
    return at == box and child is not None and "children" in child


def _frame(graph: Graph, region: _Region, free: Container[Atom]) -> Frame:
    """The boxes of a region and its arrows, in the order of forward."""
    inside = {item.name for item in region.operations}
    producer = {name: item.name for item in graph.operations for name in item.outputs}
    box_of: dict[str, str | None] = {}
    arrows: dict[tuple[str, str], dict[Label, None]] = {}
    boxes: dict[str, None] = {}

    def read_by(item: Operation) -> dict[str, str]:
        made_by = {name: producer[name] for name in item.inputs if name in producer}
        read = {name: box_of.get(made) if made in inside else IN for name, made in made_by.items()}
        return {name: box for name, box in read.items() if box is not None}

    def draw(read: Mapping[str, str], box: str) -> None:
        for name, source in read.items():
            if source != box:
                boxes[source] = None
                arrows.setdefault((source, box), {})[_label(graph.tensor(name).axes, free)] = None
        boxes[box] = None

    for item in region.operations:
        read = read_by(item)
        box, child = region.box(item.name)
        own = box if child is not None or not _is_function(item, graph) else _merged(item, read, graph, free)
        box_of[item.name] = own
        if own is not None:
            draw(read, own)
    leaving = (read_by(item) for item in graph.operations if region.path and item.name not in inside)
    for read in leaving:
        if given := {name: box for name, box in read.items() if box != IN}:
            draw(given, OUT)
    ordered = sorted(boxes, key=lambda box: (box != IN) + (box == OUT))
    return Frame(region.path, tuple(ordered), {pair: tuple(labels) for pair, labels in arrows.items()})


def _is_function(item: Operation, graph: Graph) -> bool:
    """Whether this only computes with what it reads: it has no parameters and is no border of the model."""
    return item.type not in _SHOWN and all(graph.tensor(name).kind == "value" for name in item.inputs)


def _merged(item: Operation, read: Mapping[str, str], graph: Graph, free: Container[Atom]) -> str | None:
    """The box of a function: that of what it reads, its own if it joins several, none if it reads nothing.

    Where something of what it reads can be removed, nothing else counts: a mask that is added is no join.
    """
    weighty = {box for name, box in read.items() if _removable(graph.tensor(name).axes, free)} or {*read.values()}
    return None if not weighty else weighty.pop() if len(weighty) == 1 else item.name


def _removable(axes: Iterable[Space], free: Container[Atom]) -> list[Space]:
    return [space for space in axes if any(atom in free for atom in atoms(space))]


def _label(axes: Sequence[Space], free: Container[Atom]) -> Label:
    return tuple(_removable(axes, free) or axes)


def encoded(frame: Frame, place: Callable[[Space], int]) -> Encoded:
    """A drawing as the page's data: arrows are from where, to where, the axes of some tensors, and how many pass."""
    at = {box: number for number, box in enumerate(frame.boxes)}
    arrows = [
        [at[one], at[other], [[place(space) for space in label] for label in labels[:MOST_LABELS]], len(labels)]
        for (one, other), labels in frame.arrows.items()
    ]
    return {"boxes": list(frame.boxes), "arrows": arrows}
