"""Reports: the page's data say what graph and plans say, and the page holds them as text and asks nothing of anywhere.

What a browser makes of it is under test by `tox run -e browser`.
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import atoms
from depgraph.reporting.bars import LEVELS, LONGEST, heat_strip, share_strip
from depgraph.reporting.folding import folded_names
from depgraph.testing import index_sets, modules, plans
from tests.laws.refuting import refuted

HOSTILE = "<script>alert(1)</script>"
GROUP = f"named.{HOSTILE}.weight:0"


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Named(nn.Module):
    """Residual blocks in a list, and a layer with the name of an element of HTML."""

    def __init__(self, blocks=4):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)) for _ in range(blocks))
        self.named = nn.ModuleDict({HOSTILE: nn.Linear(8, 5)})
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.named[HOSTILE](x))


@pytest.fixture(scope="module")
def graph():
    return dg.trace(Named(), torch.zeros(2, 8))


@pytest.fixture(scope="module")
def both(graph):
    return dg.cut(graph, "blocks.1.0.weight", [0, 3], dim=0), dg.cut(graph, "head.weight", [1], dim=1)


def unfolded(tree, path=""):
    """The tensors of the page's tree in its order, as (name, shape): what the page's script does."""
    for name, _, shape in tree.get("tensors", ()):
        yield path + name, tuple(shape)
    for child in tree.get("children", ()):
        for name in child.get("members", [child["name"]]):
            yield from unfolded(child, f"{path}{name}.")


def node_names(nodes):
    names, last = [], ""
    for shared, rest in nodes["names"]:
        last = last[:shared] + rest
        names.append(last)
    return names


def edges(nodes):
    """(source, target, groups) of each edge, by names and places."""
    names, target = node_names(nodes), 0
    for k in range(0, len(nodes["edges"]), 4):
        ahead, back, _, groups = nodes["edges"][k : k + 4]
        target += ahead
        yield names[target - back], names[target], tuple(nodes["sets"][groups])


def agrees(data, graph, plan):
    """The data hold every axis of every parameter and buffer with its sizes, groups and reasons, and every node and edge."""
    axes = iter(data["axes"])
    shown = {name: [data["spaces"][next(axes)] for _ in shape] for name, shape in unfolded(data["tree"])}
    assert next(axes, None) is None
    tensors = [tensor for tensor in graph.tensors if tensor.kind != "value"]
    assert set(shown) == {tensor.name for tensor in tensors}
    for tensor in tensors:
        kept = plan.kept.get(tensor.name, {})
        for dim, (space, row) in enumerate(zip(tensor.axes, shown[tensor.name], strict=True)):
            after = len(kept[dim]) if dim in kept else space.size
            groups = {data["groups"][place]["name"] for place in row[4]}
            leaves = plan.name_after(tensor.name) is None
            assert leaves or row[:3] == [str(space), space.size, [after]], (tensor.name, dim)
            assert groups == {graph.group_of[atom].name for atom in atoms(space) if atom in graph.group_of}
            assert leaves or bool(row[3][0]) == (dim in kept)
    assert node_names(data["nodes"]) == [node.name for node in graph.nodes]
    found = list(edges(data["nodes"]))
    assert {edge[:2] for edge in found} == {(node.name, target) for node in graph.nodes for target in node.outputs}
    forced = {(item.source, item.target) for node in graph.nodes for item in node.dependencies if item.target in node.outputs}
    assert {edge[:2] for edge in found if edge[2]} == forced
    result = plan.apply(graph)
    assert [card["after"] for card in data["cards"][:2]] == [[result.params], [result.macs]]
    assert [sum(row[k] for row in data["nodes"]["macs"]) for k in (1, 2)] == [graph.macs, result.macs]


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_the_data_are_those_of_graph_and_plan(data):
    """Whatever the network and the plan, unfolding the data gives the graph's axes, nodes and edges, and the plan's sizes."""
    graph = dg.trace(data.draw(modules()), torch.zeros(2, 3, 4, 4))
    plan = data.draw(plans(graph, elements=True))
    report = dg.report(graph, plan)
    agrees(report.data, graph, plan)
    assert json.loads(json.dumps(report.data)) == report.data


def test_wrong_data_do_not_agree(graph, both):
    """The law sees a swapped axis, a plan that was left out, and a lost edge."""
    data = dg.report(graph, both[0]).data
    agrees(data, graph, both[0])
    refuted(agrees, data | {"axes": data["axes"][::-1]}, graph, both[0])
    refuted(agrees, data, graph, both[1])
    refuted(agrees, data | {"nodes": data["nodes"] | {"edges": data["nodes"]["edges"][:-4]}}, graph, both[0])


def is_the_share_of_each_cell(strip, removed, size):
    """Each cell is the share of its indices that go, in 64 levels."""
    cells = min(size, LONGEST)
    members = [[index for index in range(size) if index * cells // size == cell] for cell in range(cells)]
    assert strip == "".join(LEVELS[round(63 * len([i for i in part if i in removed]) / len(part))] for part in members)


@given(st.integers(1, 400).flatmap(lambda size: st.tuples(index_sets(size), st.just(size))))
def test_a_strip_is_the_share_of_each_cell(drawn):
    is_the_share_of_each_cell(share_strip(*drawn), *drawn)


def test_a_mirrored_strip_is_another():
    removed = IndexSet.parse("0-9,130")
    refuted(is_the_share_of_each_cell, share_strip(removed, 300)[::-1], removed, 300)


def test_heat_is_between_the_lowest_and_the_highest():
    assert heat_strip([3.0, 3.0]) == ("gg", 3.0, 3.0)
    assert heat_strip([float("inf"), 1.0]) == (".g", 1.0, 1.0)
    assert heat_strip([float(index) for index in range(240)])[0][::119] == "A_"


def test_equal_layers_are_folded(graph):
    """Equal blocks stand once; one that is different ends the run, and stays by itself."""
    (blocks,) = (child for child in dg.report(graph).data["tree"]["children"] if child["name"] == "blocks")
    assert [child["members"] for child in blocks["children"]] == [["0", "1", "2", "3"]]
    model = Named()
    model.blocks[2][0], model.blocks[2][2] = nn.Linear(8, 7), nn.Linear(7, 8)
    (blocks,) = (
        child for child in dg.report(dg.trace(model, torch.zeros(2, 8))).data["tree"]["children"] if child["name"] == "blocks"
    )
    assert [child.get("members", child["name"]) for child in blocks["children"]] == [["0", "1"], "2", "3"]


def test_names_are_folded_by_the_numbers_of_layers():
    assert folded_names(["a.0.b", "a.2.b", "a.3.b", "a.*.b", "a.0.b"]) == ["a.{0,2-3}.b", "a.*.b"]
    assert folded_names(["0.weight dim 0", "10.weight dim 0", "0.weight dim 1"]) == ["{0,10}.weight dim 0", "0.weight dim 1"]


def test_bytes_hardly_grow_with_equal_layers():
    """A layer more costs its nodes and edges, no further part of the tree."""
    sizes = [len(json.dumps(dg.report(dg.trace(Named(count), torch.zeros(2, 8))).data)) for count in (10, 30)]
    assert (sizes[1] - sizes[0]) / 20 < 450


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts = [], {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.elements:
            self.texts.setdefault(self.elements[-1][0], []).append(data)


def test_names_of_the_model_are_text_alone(graph, both):
    """A module and a title that look like elements make none, and the data are in the page as they are."""
    report = dg.report(graph, *both, title=HOSTILE)
    page = Elements(report.html)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3 and HOSTILE not in report.html
    assert json.loads(re.search(r'id="data">(.*?)</script>', report.html, re.DOTALL)[1]) == report.data
    assert HOSTILE in page.texts["title"] and any(HOSTILE in name for name in node_names(report.data["nodes"]))


def asks_nothing(html):
    """No address of another place is in the page, and its policy allows its own style and scripts only."""
    assert not re.search(r"https?:|\bimport\(|@import|url\((?!#)|fetch\(|XMLHttpRequest|WebSocket|innerHTML|\beval\(", html)
    page = Elements(html)
    for _, attributes in page.elements:
        assert not attributes.keys() & {"src", "srcset", "href", "action", "onload", "onerror", "style"}, attributes
    (policy,) = (attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for part in re.findall(r"<style>(.*?)</style>|<script>(.*?)</script>", html, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256("".join(part).encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_the_page_asks_nothing_of_anywhere(graph, both):
    html = dg.report(graph, *both).html
    asks_nothing(html)
    refuted(asks_nothing, html.replace("<body>", '<body><img src="x">'))
    refuted(asks_nothing, html.replace("<style>", "<style>@import x;"))
    refuted(asks_nothing, html.replace('"use strict";', '"use strict"; console.log(1);'), by=AssertionError)


def test_the_same_in_another_process_and_without_torch(graph, both, tmp_path):
    """From files alone, with another order of hashes, the page has the same characters; torch isn't loaded."""
    graph.save(tmp_path / "graph.json")
    both[0].save(tmp_path / "plan.json")
    report = dg.report(graph, both[0], scores={GROUP: range(5)})
    report.save(tmp_path / "here.html")
    code = (
        "import sys, depgraph as dg\n"
        "graph, plan = dg.Graph.load('graph.json'), dg.Plan.load('plan.json')\n"
        f"dg.report(graph, plan, scores={{{GROUP!r}: range(5)}}).save('there.html')\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"}, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "there.html").read_bytes() == (tmp_path / "here.html").read_bytes() == report.html.encode()


def test_dropped_elements_cost_nothing_afterwards(graph):
    """An element that leaves a list is told of, with the names that follow, and its MACs are gone."""
    plan = dg.drop(graph, "blocks", [1])
    data = dg.report(graph, plan).data
    (drop,) = data["drops"][0]
    assert (drop["removed"], drop["count"], drop["left"]) == (["1"], 4, [["2", "1"], ["3", "2"]])
    names = node_names(data["nodes"])
    after = {names[place]: new for place, _, new in data["nodes"]["macs"]}
    assert after["blocks.1.0"] == 0 and after["blocks.2.0"] == 2 * 8 * 6


def test_scores_budgets_engines_and_pins(graph):
    scores = {group.name: range(group.size) for group in graph.groups}
    plan = dg.plan(graph, scores, params=0.8)
    data = dg.report(graph, plan, scores=scores, engine="gguf").data
    assert data["cards"][0]["asked"] == [plan.targets[0].requested]
    assert all(group["heat"][1:] == [0.0, graph.groups_by_name[group["name"]].size - 1] for group in data["groups"])
    assert data["engine"]["count"] == len(dg.engines.check(graph, "gguf", plan=plan).findings)
    assert {item["reason"] for item in data["pinned"]} == {pinned.reason for pinned in graph.pinned}
    assert all(item["free"] for item in data["pinned"])
    assert sorted(row[1:3] for row in data["edits"][0])[0] == sorted([edit.old, edit.new] for edit in plan.edits)[0]


def test_two_plans_side_by_side(graph, both):
    data = dg.report(graph, *both).data
    assert data["difference"]["rows"] == [["blocks.1.0.weight:0", 2, 0], [GROUP, 0, 1]]
    results = [plan.apply(graph) for plan in both]
    assert [card["after"] for card in data["cards"]] == [
        [item.params for item in results],
        [item.macs for item in results],
        [2 * item.params for item in results],
    ]


def test_plans_in_turn(graph, both):
    """Plans, steps and allocations are shown one at a time, in the order that they are given."""
    data = dg.report(graph, plans=both).data
    beside = dg.report(graph, *both).data
    assert data["in_turn"] and not beside["in_turn"] and data["difference"] is None
    assert {key: data[key] for key in ("cards", "spaces", "nodes", "edits")} == {
        key: beside[key] for key in ("cards", "spaces", "nodes", "edits")
    }
    assert not dg.report(graph, plans=both[:1]).data["in_turn"]
    assert dg.report(graph, plans=iter(both[:1])).data == dg.report(graph, both[0]).data
    scores = {group.name: range(group.size) for group in graph.groups}
    table = dg.choosing.tabulate(graph, scores, [0.2, 0.4, 0.6], lambda plan: sum(map(len, plan.removed.values())))
    allocations = dg.pareto(graph, table, [{"params": share} for share in (0.98, 0.95, 0.9)])
    (params, *_) = dg.report(graph, plans=allocations).data["cards"]
    assert params["after"] == [item.plan.apply(graph).params for item in allocations]
    assert params["asked"] == [item.targets[0].requested for item in allocations]


def test_many_plans_take_little_more_room(graph):
    """Strips and texts of many plans are shorter: ten times the plans take less than three times the bytes."""
    model = nn.Sequential(nn.Linear(3, 600), nn.Linear(600, 600), nn.Linear(600, 2))
    graph = dg.trace(model, torch.zeros(1, 3))
    generator = torch.Generator().manual_seed(0)
    scores = {group.name: torch.rand(group.size, generator=generator).tolist() for group in graph.groups}
    plans = [dg.plan(graph, scores, params=0.9 - 0.04 * step) for step in range(20)]
    sizes = [len(json.dumps(dg.report(graph, plans=plans[:count]).data)) for count in (2, 20)]
    assert sizes[1] < 3 * sizes[0]


class Attending(nn.Module):
    """An attention of two heads."""

    def __init__(self):
        super().__init__()
        self.heads = 2
        self.qkv, self.out = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).flatten(2))


def test_memory_before_after_and_asked():
    """By a model of memory: weights and cache apart; without one, weights of two bytes, as `dg.plan` counts them."""
    graph = dg.trace(Attending(), torch.zeros(1, 5, 8))
    scores = {group.name: range(group.size) for group in graph.groups}
    model = dg.Memory(cache_tokens=100, batch=3)
    plan = dg.plan(graph, scores, memory=0.5, memory_model=model)
    card = dg.report(graph, plan, memory_model=model).data["cards"][2]
    assert (card["name"], card["before"], card["after"], card["asked"]) == ("memory", 10112, [5056], [5056.0])
    assert card["parts"] == [
        {"name": "weights", "before": 512, "after": [256]},
        {"name": "cache of 100 tokens, 3 sequences", "before": 9600, "after": [4800]},
        {"name": "weights of 32 bits", "before": 1024, "after": [512]},
        {"name": "weights of 16 bits", "before": 512, "after": [256]},
        {"name": "weights of 8 bits", "before": 256, "after": [128]},
        {"name": "weights of 4 bits", "before": 128, "after": [64]},
    ]
    untold = dg.report(graph, plan).data["cards"][2]
    assert (untold["before"], untold["after"], untold["asked"]) == (None, [5056], [5056.0])
    plain = dg.report(graph, dg.plan(graph, scores, memory=0.5)).data["cards"][2]
    assert (plain["before"], plain["after"], plain["asked"]) == (512, [256], [256.0])


def test_groups_that_lose_other_indices_in_each_head_have_their_sizes():
    """A ragged cut: the group's size after it is that of each head, and its bar has each head's indices."""
    graph = dg.trace(Attending(), torch.zeros(1, 5, 8))
    plan = dg.cut_each(graph, {"qkv.weight:0[1]": [[0], [2]], "qkv.weight:0[2]": [[1], [1]]})
    data = dg.report(graph, plan).data
    (group,) = (item for item in data["groups"] if item["name"] == "qkv.weight:0[1]")
    _, size, after, (strip,), _, _ = data["spaces"][group["space"]]
    assert (size, after) == (4, [3])
    assert data["texts"][strip] == "_AAAAA_A"
    assert data["texts"][group["removed"][0]] == "each index of qkv.weight:0[0] its own, as row * size + index: 0,6"


def test_latency_and_active_parameters(graph):
    """A latency is told where a plan was made for it, and before it where its model is given; so are other budgets."""
    scores = {group.name: range(group.size) for group in graph.groups}

    def latency(item):
        return item.macs / 4

    plan = dg.plan(graph, scores, latency=0.8, latency_model=latency, active_params=0.9)
    cards = {card["name"]: card for card in dg.report(graph, plan).data["cards"]}
    result = plan.apply(graph)
    assert [*cards] == ["params", "macs", "memory", *(target.name for target in plan.targets)]
    assert (cards["latency"]["before"], cards["latency"]["after"]) == (None, [result.macs / 4])
    assert cards["active_params"]["before"] == graph.params and cards["active_params"]["after"] == [result.params]
    known = dg.report(graph, plan, dg.cut(graph, "head.weight", [1], dim=1), latency_model=latency).data["cards"]
    (card,) = (each for each in known if each["name"] == "latency")
    assert (card["before"], card["asked"][1]) == (graph.macs / 4, None)
    assert card["after"][0] == result.macs / 4 and card["after"][1] < graph.macs / 4


def test_bad_arguments_are_told(graph, both):
    with pytest.raises(dg.errors.PlanError, match=r"expected a Graph, met int(.|\n)*expected a Plan, met str"):
        dg.report(3, "plan")
    with pytest.raises(dg.errors.PlanError, match="expected a plan beside the other one"):
        dg.report(graph, None, both[0])
    with pytest.raises(dg.errors.PlanError, match=r"expected plans= or a plan and another one(.|\n)*"):
        dg.report(graph, both[0], plans=both)
    with pytest.raises(dg.errors.PlanError, match=r"expected a Plan, met int(.|\n)*expected a Plan, met str"):
        dg.report(graph, plans=[both[0], 3, "plan"])
    with pytest.raises(dg.errors.PlanError, match="expected a Plan, met int"):
        dg.report(graph, plans=3)
    with pytest.raises(dg.errors.PlanError, match="expected 5, met 4"):
        dg.report(graph, scores={GROUP: range(4)})
    with pytest.raises(dg.errors.UnknownNameError, match="group"):
        dg.report(graph, scores={"nowhere": range(4)})
    with pytest.raises(dg.errors.MismatchError, match="another graph"):
        dg.report(graph, evolve(both[0], base="0" * 64))


def test_dot_and_networkx_have_the_nodes_and_edges(graph):
    """Both hold every node once and every edge; names with quotes and backslashes stay names."""
    pairs = {(node.name, target) for node in graph.nodes for target in node.outputs}
    other = graph.to_networkx()
    assert list(other) == [node.name for node in graph.nodes] and set(other.edges) == pairs
    assert graph.to_dot().count(" -> ") >= len(pairs)
    assert len(re.findall(r"^  \".*\" -> \".*\" \[.*\];$", graph.to_dot(), re.MULTILINE)) == len(pairs)
    model = nn.Sequential()
    model.add_module('a"\\', nn.Linear(2, 3))
    assert '  "a\\"\\\\" [label="a\\"\\\\\\nlinear aten.linear"];' in dg.trace(model, torch.zeros(1, 2)).to_dot().splitlines()
