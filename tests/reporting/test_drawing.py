"""Drawings of whole modules: boxes are modules and joins, and arrows are what passes between them."""

import networkx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.reporting.drawing import IN, MOST_BOXES, OUT
from depgraph.testing import modules
from tests.laws.refuting import refuted


def drawings(graph, *plans):
    """By path: the boxes, and the sizes of the axes that each arrow names, before and after the first plan."""
    data = dg.report(graph, *plans).data
    found = {}
    for path, frame in data["frames"].items():
        arrows = {}
        for one, other, tensors, count in frame["arrows"]:
            sizes = [[[data["widths"][axis][0], *data["widths"][axis][1]] for axis in axes] for axes in tensors]
            arrows[frame["boxes"][one], frame["boxes"][other]] = (sizes, count)
        found[path] = (frame["boxes"], arrows)
    return data["tree"], found


def first_of_equal(tree, name):
    """A name with each equal module's in place of it by the first one's."""
    steps = []
    for step in name.split("."):
        child = next((each for each in tree.get("children", ()) if step in each.get("members", [each["name"]])), {})
        steps.append(child.get("name", step))
        tree = child
    return ".".join(steps)


def within(name, path):
    return not path or name == path or name.startswith(f"{path}.")


def shows_what_passes(tree, path, boxes, arrows, graph):
    """Nodes of two boxes of which one reads the other have an arrow; an arrow is a way over nodes that have no box.

    Such a node is computed from what a box gives, and lies in it: an arrow may end there.
    """

    def box_of(name):
        if not within(name, path):
            return OUT
        name = first_of_equal(tree, name)
        return next((box for box in boxes if box not in (IN, OUT) and within(name, box)), None)

    pairs = [(node.name, target) for node in graph.nodes for target in node.outputs]
    over = networkx.DiGraph()
    for source, target in pairs:
        one, other = box_of(source), box_of(target)
        one = IN if one == OUT else one
        if one is not None and other is not None and one != other and (one, other) != (IN, OUT):
            assert (one, other) in arrows, (source, target)
        over.add_edge(one or ("no box", source), other or ("no box", target))
    for one, other in arrows:
        part = over.subgraph({one, other} | {node for node in over if isinstance(node, tuple)})
        reached = networkx.descendants(part, one) if one in part else set()
        assert other in reached or reached & networkx.descendants(part, other) - {OUT}, (one, other)


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_boxes_and_arrows_are_those_of_the_graph(data):
    graph = dg.trace(data.draw(modules()), torch.zeros(2, 3, 4, 4))
    tree, found = drawings(graph)
    for path, (boxes, arrows) in found.items():
        shows_what_passes(tree, path, boxes, arrows, graph)


class Block(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(width, inner), nn.LayerNorm(inner), nn.Linear(inner, width)

    def forward(self, x, mask):
        return x + self.down(self.norm(self.up(x).relu())) * mask


class Blocks(nn.Module):
    """A stem, equal blocks, one that is different, a head; a mask that forward makes itself."""

    def __init__(self, count=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        self.blocks = nn.ModuleList([*(Block(8, 12) for _ in range(count)), Block(8, 4)])
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        mask = torch.ones(x.shape[0], 1) * 0.5
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x.relu())


def test_the_whole_and_what_is_in_its_boxes():
    """Equal blocks are one box; what only computes lies on an arrow; masks that forward makes are no boxes."""
    graph = dg.trace(Blocks(), torch.zeros(1, 3))
    plan = dg.cut(graph, "blocks.0.up.weight", [0, 1, 2], dim=0)
    tree, found = drawings(graph, plan)
    assert [*found] == ["", "blocks.0", "blocks.3"]
    boxes, arrows = found[""]
    assert boxes == ["input[0]", "stem.0", "blocks.0", "blocks.3", "head", "output"]
    assert arrows == {
        ("input[0]", "stem.0"): ([[[1, 1], [3, 3]]], 1),
        ("stem.0", "blocks.0"): ([[[8, 8]]], 1),
        ("blocks.0", "blocks.3"): ([[[8, 8]]], 1),
        ("blocks.3", "head"): ([[[8, 8]]], 1),
        ("head", "output"): ([[[1, 1], [2, 2]]], 1),
    }
    boxes, arrows = found["blocks.0"]
    assert boxes == [IN, *(f"blocks.0.{name}" for name in ("up", "norm", "down", "add")), OUT]
    assert arrows["blocks.0.up", "blocks.0.norm"] == arrows["blocks.0.norm", "blocks.0.down"] == ([[[12, 9]]], 1)
    assert {(IN, "blocks.0.add"), ("blocks.0.down", "blocks.0.add"), ("blocks.0.add", OUT)} <= arrows.keys()
    for path, (boxes, arrows) in found.items():
        shows_what_passes(tree, path, boxes, arrows, graph)
    boxes, arrows = found[""]
    lost = {pair: sizes for pair, sizes in arrows.items() if pair != ("blocks.0", "blocks.3")}
    refuted(shows_what_passes, tree, "", boxes, lost, graph)
    refuted(shows_what_passes, tree, "", boxes, arrows | {("head", "stem.0"): ([], 1)}, graph)


def test_modules_open_as_long_as_few_boxes_come_of_it():
    """A module is opened where its inside has room; elements of lists stay closed; a module that is alone opens as well."""
    layers = [nn.Sequential(*(nn.Linear(width + k, width + k + 1) for k in range(12))) for width in (3, 15, 27, 39)]
    model = nn.Sequential()
    for name, layer in zip("abcd", layers, strict=True):
        model.add_module(name, layer)
    _, found = drawings(dg.trace(nn.ModuleDict({"all": model})["all"], torch.zeros(1, 3)))
    boxes, _ = found[""]
    assert [box for box in boxes if "." not in box] == ["input[0]", "d", "output"] and len(boxes) <= MOST_BOXES
    assert [*found] == ["", "d"]
    listed = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)), nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 7)))
    _, found = drawings(dg.trace(listed, torch.zeros(1, 3)))
    assert [*found] == ["", "0", "1"] and found[""][0] == ["input[0]", "0", "1", "output"]


def test_equal_layers_add_nothing_to_drawings():
    """A layer more that is equal to the others is in their box."""
    few, many = (drawings(dg.trace(Blocks(count), torch.zeros(1, 3)))[1] for count in (3, 9))
    assert {path.replace("3", "9") for path in few} == {*many}
    assert [box.replace("3", "9") for box in few[""][0]] == many[""][0]
