"""Graphs and plans as tables: the numbers add up, folding loses nothing, and names are text whatever they hold."""

import io
import re
from collections import OrderedDict
from html.parser import HTMLParser

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

import depgraph as dg
from depgraph.graph.folding import folded
from depgraph.graph.modules import modules_of, owners_of
from depgraph.graph.summary import summary_of
from depgraph.graph.tables import MOST_LINES, printable
from depgraph.testing import modules, plans
from tests import zoo
from tests.laws.refuting import refuted

X = torch.zeros(2, 3, 4, 4)
HOSTILE = "<script>|`*\x1b[2J\nx"


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)

    def forward(self, x):
        return x + self.down(self.act(self.up(x)))


def stack(count=4, width=8):
    """Blocks that are alike, between two layers."""
    blocks = nn.Sequential(*(Block(width) for _ in range(count)))
    return nn.Sequential(OrderedDict(stem=nn.Linear(width, width), blocks=blocks, head=nn.Linear(width, 2)))


def assert_adds_up(summary, whole):
    """The outermost rows add up to the whole, and no module has less than its submodules."""
    for name, total in whole.items():
        assert sum(getattr(row, name) for row in summary.modules if row.level == 0) == total, name
        for row in summary.modules:
            inside = [item for item in summary.modules if row.path and item.path.rpartition(".")[0] == row.path]
            assert getattr(row, name) >= sum(getattr(item, name) for item in inside), name


def expanded(name):
    """The names for which a folded one stands."""
    names = [""]
    for part in re.split(r"(\d+-\d+)", name):
        low, dash, high = part.partition("-")
        options = [str(k).zfill(len(low)) for k in range(int(low), int(high) + 1)] if dash else [part]
        names = [f"{name}{option}" for name in names for option in options]
    return names


def assert_nothing_lost(items, names):
    """Each name is in one of the folded ones, once, and these stand for as many as they say."""
    assert sorted(name for item in items for name in expanded(item.name)) == sorted(names)
    assert all(len(expanded(item.name)) == item.count for item in items)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_the_numbers_add_up(data):
    """Over all modules, before and after any plan; and every operation but inputs and outputs has a module that is there."""
    model = data.draw(modules())
    graph = dg.trace(model, X)
    plan = data.draw(plans(graph))
    assert_adds_up(graph.summary(), {"params": graph.params, "macs": graph.macs})
    result = plan.apply(graph)
    summary = plan.summary(graph)
    assert_adds_up(summary, {"params": graph.params, "params_after": result.params, "macs_after": result.macs})
    assert set(owners_of(graph).values()) <= {"", *(name for name, _ in model.named_modules())}
    assert_nothing_lost(
        [attrs.evolve(item, name=item.path) for item in map(Row.of, graph.summary().modules) if item.path],
        [path for path in modules_of(graph) if path],
    )


@attrs.frozen
class Row:
    """What of a row is folded."""

    path: str
    count: int
    name: str = ""

    @classmethod
    def of(cls, row):
        return cls(row.path, row.count)


NUMBERED = st.one_of(st.integers(0, 12).map(str), st.integers(0, 12).map("{:02}".format))
NAMES = st.lists(
    st.tuples(st.sampled_from(["a.", "a_", ""]), NUMBERED, st.sampled_from(["", ".x.", "x_"]), NUMBERED, st.integers(0, 1)),
    unique_by=lambda parts: parts[:4],
)


@given(NAMES)
def test_folding_loses_no_name(names):
    """Whatever is folded, each name is there once; only names with the same key share one, and dimensions are not folded."""
    keys = {f"{before}{one}{between or 'w.'}{other}.weight:{key}": key for before, one, between, other, key in names}
    items = folded(keys.items())
    assert_nothing_lost(items, keys)
    assert all(len({keys[name] for name in expanded(item.name)}) == 1 for item in items)


class Inner(nn.Module):
    """A block that returns as much as it takes, with a width of its own inside."""

    def __init__(self, width, inside):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, inside), nn.ReLU(), nn.Linear(inside, width)

    def forward(self, x):
        return x + self.down(self.act(self.up(x)))


def uneven(inside, names="layer{}"):
    """Blocks of different widths inside, called by numbers."""
    blocks = OrderedDict((names.format(k + 1), Inner(4, width)) for k, width in enumerate(inside))
    return nn.Sequential(OrderedDict(stem=nn.Linear(4, 4), blocks=nn.Sequential(blocks), head=nn.Linear(4, 2)))


def assert_ranges_are_those_of(rows, graph):
    """Every module is in one row, and the sizes of a row are the smallest and largest of its modules."""
    modules = modules_of(graph)
    assert sorted(path for row in rows for path in expanded(row.path)) == sorted(path for path in modules if path)
    for row in rows:
        found = [modules[path] for path in expanded(row.path)]
        for low, high in zip(row.tensors, row.largest_tensors, strict=True):
            shapes = [module.tensors[low.name].shape for module in found]
            assert low.shape == tuple(map(min, zip(*shapes, strict=True))), row.path
            assert high.shape == tuple(map(max, zip(*shapes, strict=True))), row.path
        assert row.params >= sum(module.params for module in found) and row.count == len(found)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from([2, 3, 5]), min_size=1, max_size=6), st.sampled_from(["{}", "layer{}", "b_{:02}_x", "block{}a"])
)
def test_blocks_of_different_widths_are_unfolded_to_all_modules(inside, names):
    """However wide they are and whatever they are called: each module once, the graph's sums, and ranges that are attained."""
    graph = dg.trace(uneven(inside, names), torch.zeros(1, 4))
    summary = graph.summary()
    assert_adds_up(summary, {"params": graph.params, "macs": graph.macs})
    assert_ranges_are_those_of(summary.modules, graph)
    assert summary == dg.trace(uneven(inside, names), torch.zeros(1, 4)).summary()


def test_wrong_ranges_are_refuted():
    """The negative control: sizes of the first module for all, and a module twice."""
    graph = dg.trace(uneven([2, 3, 5]), torch.zeros(1, 4))
    rows = graph.summary().modules
    assert_ranges_are_those_of(rows, graph)
    refuted(assert_ranges_are_those_of, [attrs.evolve(row, largest_tensors=row.tensors) for row in rows], graph)
    refuted(assert_ranges_are_those_of, (*rows, rows[-1]), graph)


def test_blocks_that_differ_in_widths_alone_are_one_row():
    """From three on, if they return the same; two say more by themselves, and so do layers without layers in them."""
    rows = {row.path: row for row in dg.trace(uneven([2, 3, 5, 3]), torch.zeros(1, 4)).summary().modules}
    assert list(rows) == ["stem", "blocks", *(f"blocks.layer1-4{end}" for end in ("", ".up", ".act", ".down")), "head"]
    up = rows["blocks.layer1-4.up"]
    assert (up.main_tensor.shape, up.main_tensors[1].shape, up.largest_output) == ((2, 4), (5, 4), (1, 5))
    assert up.params == 13 * 5 and "2…5x4" in str(dg.trace(uneven([2, 3, 5, 3]), torch.zeros(1, 4)))
    for inside, blocks in {(2, 3): ["layer1", "layer2"], (2, 2, 3): ["layer1-3"], (2, 2): ["layer1-2"]}.items():
        summary = dg.trace(uneven(inside), torch.zeros(1, 4)).summary(depth=2)
        assert [row.name for row in summary.modules if row.level == 1] == blocks
    layers = nn.Sequential(*(nn.Linear(k, k + 1) for k in range(2, 6)))
    assert [row.path for row in dg.trace(layers, torch.zeros(1, 2)).summary().modules] == ["0", "1", "2", "3"]


def test_what_a_plan_makes_different_is_not_hidden():
    """Blocks of one width that lose different numbers have rows of their own; those whose widths differed before share one."""
    graph = dg.trace(uneven([4, 4, 4]), torch.zeros(1, 4))
    plan = dg.cut(graph, "blocks.layer2.up.weight", [0], dim=0)
    assert [row.name for row in plan.summary(graph, depth=2).modules if row.level == 1] == ["layer1", "layer2", "layer3"]
    graph = dg.trace(uneven([2, 3, 4]), torch.zeros(1, 4))
    plan = dg.combine(graph, [{f"blocks.layer{k}.up.weight:0": [0]} for k in (1, 2, 3)])
    rows = {row.path: row for row in plan.summary(graph).modules}
    small, large = rows["blocks.layer1-3.up"].main_tensors
    assert (small.after, large.after) == ((1, 4), (3, 4))
    assert re.search(r"up +Linear +2…4x4 +1…3x4", str(plan.summary(graph)))


def test_networks_of_torchvision_are_short():
    """The layers of a DenseNet and of a vision transformer are one row, whatever stands before their numbers."""
    library = zoo.torchvision().models
    dense = library.DenseNet(growth_rate=4, block_config=(3, 4), num_init_features=8, bn_size=2, num_classes=5)
    rows = {row.path: row for row in dg.trace(dense, torch.zeros(1, 3, 32, 32)).summary().modules}
    assert [path for path in rows if path.count(".") == 2 and "dense" in path] == [
        "features.denseblock1.denselayer1-3", "features.denseblock2.denselayer1-4"
    ]  # fmt: skip
    assert rows["features.denseblock1.denselayer1-3.conv1"].main_tensors[1].shape == (8, 16, 1, 1)
    vision = library.VisionTransformer(32, 16, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5)
    paths = [row.path for row in dg.trace(vision, torch.zeros(1, 3, 32, 32)).summary().modules]
    assert [path for path in paths if path.count(".") == 2] == ["encoder.layers.encoder_layer_0-2"]


def test_lost_names_and_numbers_are_refuted():
    """The negative control: a summary without a row, and folding without a name."""
    graph = dg.trace(stack(), torch.zeros(1, 8))
    summary = graph.summary()
    refuted(assert_adds_up, attrs.evolve(summary, modules=summary.modules[:-1]), {"params": graph.params}, says="params")
    items = folded([("a.0", 1), ("a.1", 1)])
    refuted(assert_nothing_lost, items, ["a.0", "a.1", "a.2"])
    refuted(assert_nothing_lost, [attrs.evolve(items[0], count=3)], ["a.0", "a.1"])


def test_repeated_layers_are_one_row():
    """Blocks that are alike are folded, those that a plan makes different are not."""
    graph = dg.trace(stack(), torch.zeros(1, 8))
    paths = ["stem", "blocks", "blocks.0-3", "blocks.0-3.up", "blocks.0-3.act", "blocks.0-3.down", "head"]
    assert [row.path for row in graph.summary().modules] == paths
    assert [row.count for row in graph.summary().modules] == [1, 1, 4, 4, 4, 4, 1]
    assert [row.path for row in graph.summary(depth=1).modules] == ["stem", "blocks", "head"]
    plan = dg.cut(graph, "blocks.1.up.weight", [0, 3], dim=0)
    rows = {row.path: row for row in plan.summary(graph).modules}
    assert [path for path in rows if path.count(".") == 1] == ["blocks.0", "blocks.1", "blocks.2-3"]
    assert rows["blocks.1.up"].main_tensor.shape == (8, 8) and rows["blocks.1.up"].main_tensor.after == (6, 8)
    assert "  0-3" in str(graph) and len(repr(graph)) < 120 and "\n" not in repr(graph)


def test_a_tied_parameter_counts_once():
    """It stands in both modules, and its elements are those of the first."""
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False))
    model[2].weight = model[0].weight
    rows = dg.trace(model, torch.zeros(1, 3, dtype=torch.long)).summary().modules
    assert [row.params for row in rows] == [80, 72, 0]
    assert [row.main_tensor.tied for row in rows] == [False, False, True]


def test_a_parameter_of_the_model_itself_has_a_row():
    """So that the rows add up."""

    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x) @ torch.ones(2, 2)

    graph = dg.trace(Scaled(4, 2), torch.zeros(1, 4))
    assert [(row.path, row.params) for row in graph.summary().modules] == [("", 10)]
    assert "(the model)" in str(graph)


def test_a_layer_called_several_times_is_one_row():
    """The calls of an activation, and operators of a block beside its layers, belong to the module in which they ran."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.relu(self.two(self.relu(self.one(x))) + x)

    graph = dg.trace(nn.Sequential(Block()), torch.zeros(1, 4))
    assert [(row.path, row.module_class) for row in graph.summary().modules] == [
        ("0", "Block"), ("0.one", "Linear"), ("0.relu", "ReLU"), ("0.two", "Linear")
    ]  # fmt: skip
    assert {name: owner for name, owner in owners_of(graph).items() if owner == "0"} == {"0.add": "0"}


def test_elements_that_go_are_marked():
    """An element that leaves a list has no numbers afterwards, and those behind it keep theirs."""
    graph = dg.trace(stack(), torch.zeros(1, 8))
    plan = dg.drop(graph, "blocks", [1])
    rows = {row.path: row for row in plan.summary(graph).modules}
    assert [(path, row.dropped, row.params_after) for path, row in rows.items() if path.count(".") == 1] == [
        ("blocks.0", False, 144), ("blocks.1", True, 0), ("blocks.2-3", False, 288)
    ]  # fmt: skip
    assert "1 (dropped)" in str(plan.summary(graph)) and "gone" in str(plan.summary(graph))
    assert repr(plan).endswith("1 shorter lists>")


def test_a_depth_that_is_none_and_another_graph_are_refused():
    """By their own errors."""
    graph = dg.trace(stack(), torch.zeros(1, 8))
    for depth in (0, -1, 1.5, "1", True):
        with pytest.raises(dg.errors.PlanError, match="at least 1"):
            graph.summary(depth)
    plan = dg.cut(graph, "blocks.1.up.weight", [0], dim=0)
    with pytest.raises(dg.errors.MismatchError, match="another graph"):
        plan.summary(plan.apply(graph))


def test_long_lists_end_with_where_the_rest_is():
    """A plan of many different groups prints so many lines at most."""
    graph = dg.trace(nn.Sequential(*(nn.Linear(60, 60) for _ in range(60))), torch.zeros(1, 60))
    plan = dg.combine(graph, [{f"{k}.weight:0": range(1 + k % 7 * 2 + k % 2)} for k in range(59)])
    lines = str(plan).splitlines()
    assert len(lines) == MOST_LINES + 1 and lines[-1].endswith("more, in plan.cuts")


def test_a_path_without_end_makes_no_tree_without_end():
    """A name of a million levels, as a file may have it, is shown as a tree of some, and quickly."""
    graph = dg.trace(nn.Linear(4, 2), torch.zeros(1, 4))
    deep = "a." * 10**6 + "weight"
    tensors = [attrs.evolve(tensor, name=deep) if tensor.name == "weight" else tensor for tensor in graph.tensors]
    operations = [
        attrs.evolve(item, inputs=tuple(deep if name == "weight" else name for name in item.inputs))
        for item in graph.operations
    ]
    summary = attrs.evolve(graph, tensors=tuple(tensors), operations=tuple(operations)).summary()
    assert_adds_up(summary, {"params": graph.params, "macs": graph.macs})
    assert len(summary.modules) < 70


class Tags(HTMLParser):
    """All tags of a document."""

    def __init__(self, text):
        super().__init__()
        self.tags = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


def test_names_are_text_whatever_they_hold():
    """A module called like a tag, a cell border or a control sequence is shown, and does nothing."""
    model = nn.Sequential(OrderedDict([(HOSTILE, nn.Linear(4, 8)), ("last", nn.Linear(8, 2))]))
    graph = dg.trace(model, torch.zeros(1, 4))
    plan = dg.cut(graph, f"{HOSTILE}.weight", [0], dim=0)
    known = {"p", "b", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    for shown in (graph, plan, graph.summary(), plan.summary(graph)):
        assert Tags(shown._repr_html_()).tags <= known
        assert "\x1b" not in shown._repr_html_() + str(shown)
    markdown = plan.summary(graph).to_markdown()
    assert "\x1b" not in markdown and "<script" not in markdown
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.split("\n\n")[1].splitlines()}
    assert counts == {9}
    refuted(lambda text: (_ for _ in ()).throw(AssertionError(text)) if Tags(text).tags - known else None, f"<p>{HOSTILE}</p>")
    assert printable(HOSTILE) == r"<script>|`*\x1b[2J\nx"


def test_rich_shows_the_same_cells():
    """In a terminal of its own the table has the same texts; markup in names is not read."""
    model = nn.Sequential(OrderedDict([("[red]", nn.Linear(4, 8)), ("last", nn.Linear(8, 2))]))
    graph = dg.trace(model, torch.zeros(1, 4))
    output = io.StringIO()
    Console(file=output, width=200).print(graph)
    assert output.getvalue().split() == str(graph).split() and "[red]" in output.getvalue()


def test_a_summary_is_plain_data():
    """JSON takes it, and a graph that comes back from a file has the same one."""
    graph = dg.trace(stack(), torch.zeros(1, 8))
    assert summary_of(graph) == graph.summary()
    data = graph.summary().to_dict()
    assert data["modules"][3]["path"] == "blocks.0-3.up" and data["modules"][3]["tensors"][0]["axes"][0]["size"] == 8


WAYS = {
    "blocks.0.up.weight": "blocks.0.up.weight: parameter of shape (8, 8)",
    "blocks.0.up.weight:0": "group blocks.0.up.weight:0: 8 indices, role channel",
    "blocks.0.up.bias:0": "blocks.0.up.bias dim 0 (size 8) ranges over",
    "blocks.0.up.out_features": "attribute blocks.0.up.out_features (8) counts blocks.0.up.weight dim 0",
    "blocks": "blocks: a list of 4 modules",
    "blocks.0.act": "<Node: blocks.0.act (elementwise, aten.relu)>",
    "head.weight": "pinned: it is a dimension of the model's output",
    "role:channel": "group stem.weight:0",
    "role:head": "role:head names no group",
}


@pytest.mark.parametrize("path", WAYS)
def test_why_answers_for(path):
    """Tensors, axes, groups, attributes, lists, operations, modules and patterns."""
    assert WAYS[path] in dg.why(dg.trace(stack(), torch.zeros(1, 8)), path)


def test_why_tells_balances_and_bounds():
    """What couples groups, or keeps some of their indices, is told with its reason."""

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.both, self.out = nn.Linear(4, 16), nn.Linear(8, 2)

        def forward(self, x):
            one, other = self.both(x).chunk(2, -1)
            return self.out(torch.cat([one[:, :4], other[:, :4]], 1))

    graph = dg.trace(Halves(), torch.zeros(1, 4))
    texts = [dg.why(graph, group.name) for group in graph.groups]
    assert len(graph.summary().limits) >= len(graph.balances)
    for balance in graph.balances:
        assert any(balance.reason in text for text in texts) and any(balance.reason in line for line in graph.summary().limits)


class Heads(nn.Module):
    """Attention whose queries, keys and values have heads of one width."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.width = 4

    def forward(self, x):
        q, k, v = (layer(x).view(1, 3, -1, self.width).transpose(1, 2) for layer in (self.q, self.k, self.v))
        heads = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(heads.transpose(1, 2).reshape(1, 3, -1))


def test_what_limits_layers_that_are_alike_is_told_once():
    """With the numbers of the layers, also where the layers stand in turn; and a tensor without use is `it`."""
    graph = dg.trace(nn.Sequential(*(Heads() for _ in range(3))), torch.zeros(1, 3, 8))
    assert len(graph.balances) == 3
    assert [line.partition(":0[1], ")[0] for line in graph.summary().limits] == ["0-2.q.weight"]
    model = stack()
    model.spare1, model.spare2 = nn.Linear(3, 3), nn.Linear(4, 4)
    model.forward = lambda x: model.head(model.blocks(model.stem(x)))
    with pytest.warns(dg.errors.UnreachedWarning):
        pinned = {item.reason: item for item in dg.trace(model, torch.zeros(1, 8)).summary().pinned}
    unused = pinned["it is not used in forward"]
    assert unused.params == 32 and unused.axes == ("spare1-2.weight:0", "spare1-2.weight:1", "spare1-2.bias:0")


def test_why_refuses_unknown_names():
    """With near ones, of whatever kind."""
    graph = dg.trace(stack(), torch.zeros(1, 8))
    with pytest.raises(dg.errors.UnknownNameError, match=r"did you mean 'head\.weight'"):
        dg.why(graph, "head.wieght")


def test_why_tells_a_refusal():
    """A plan for another graph, and one that was written by hand."""
    graph = dg.trace(stack(), torch.zeros(1, 8))
    plan = dg.cut(graph, "blocks.1.up.weight", [0], dim=0)
    assert dg.why(graph, plan) == "the plan fits this graph"
    assert "the plan was made for another graph" in dg.why(plan.apply(graph), plan)
    assert "the plan is damaged" in dg.why(graph, attrs.evolve(plan, edits=()))
