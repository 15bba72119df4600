"""Elements leave lists of modules: the laws of plans hold for them, and the identity in their places computes the same."""

import copy
import re
from collections import OrderedDict
from types import SimpleNamespace

import attrs
import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.errors import DocumentError, MismatchError, PlanError
from depgraph.graph.drops import drop_problems, without
from depgraph.plans.making import plan_of
from depgraph.testing import plans
from tests.laws.refuting import refuted

X = torch.randn(2, 3, 4)


class Block(nn.Module):
    """A residual block of one of several kinds, which knows its place; some say something of the axes that all share."""

    def __init__(self, kind, place, width=4):
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.mixer = Place(place)
        else:
            self.place = place
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, 6 if kind != "attention" else 3 * width), nn.Linear(6, width)
        if kind == "attention":
            self.outer, self.heads = nn.Linear(width, width), 2

    def forward(self, x):
        y = self.inner(self.norm(x))
        if self.kind == "attention":
            batch, length, _ = x.shape
            q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in y.chunk(3, -1))
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        made = self.outer(y.relu() if self.kind == "relu" else y)
        return made + SHAPES[self.kind](x) if self.kind in SHAPES else x + made


class Place(nn.Module):
    """Holds an element's place one step further in."""

    def __init__(self, place):
        super().__init__()
        self.place = place


SHAPES = {
    "turned": lambda x: torch.cat(x.chunk(2, -1)[::-1], -1),
    "mirrored": lambda x: x + x.flip(-1),
    "shuffled": lambda x: x + x.unflatten(-1, (2, 2)).transpose(-1, -2).flatten(-2),
    "half": lambda x: torch.cat([x[..., :2] + x[..., 2:], x[..., 2:]], -1),
    "rolled": lambda x: x + x.roll(1, 1),
    "literal": lambda x: x + x.mean(-1, keepdim=True).expand(-1, -1, 4),
    "transposed": lambda x: x + (x @ x.transpose(1, 2)).softmax(-1) @ x,
}
"""What a block does to the axes of what all blocks share, beside its own layers."""


class Stack(nn.Module):
    """Blocks between two layers, over which forward goes in one of several ways."""

    def __init__(self, kinds, way, skip=False):
        super().__init__()
        self.way, self.depth, self.skip = way, len(kinds), skip
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        blocks = [Block(kind, place) for place, kind in enumerate(kinds)]
        if way == "dict":
            self.blocks = nn.ModuleDict({f"block_{place}": block for place, block in enumerate(blocks)})
        else:
            self.blocks = nn.Sequential(*blocks) if way == "sequential" else nn.ModuleList(blocks)

    def forward(self, x):
        x = self.first(x)
        y = self.through(x)
        return self.last(x + y if self.skip else y)

    def through(self, x):
        if self.way == "sequential":
            return self.blocks(x)
        if self.way == "range":
            for place in range(self.depth):
                x = self.blocks[place](x)
        elif self.way == "enumerate":
            for _, block in enumerate(self.blocks):
                x = block(x)
        elif self.way == "zip":
            for block, _ in zip(self.blocks, range(len(self.blocks)), strict=True):
                x = block(x)
        elif self.way in {"slice", "dict"}:
            for block in self.blocks.values() if self.way == "dict" else self.blocks[: self.depth]:
                x = block(x)
        else:
            for block in self.blocks:
                x = block(x)
        return x


WAYS = ("list", "dict", "sequential", "slice", "range", "enumerate", "zip")
APART = ("relu", "linear", "attention")
"""Kinds that say nothing of what all blocks share."""
KINDS = (*APART, *SHAPES)


@st.composite
def stacks(draw, kinds=KINDS):
    """A network with a list of blocks."""
    torch.manual_seed(draw(st.integers(0, 99)))
    some = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=2))
    kinds = draw(st.lists(st.sampled_from(some), min_size=2, max_size=5))
    return Stack(kinds, draw(st.sampled_from(WAYS)), draw(st.booleans())).eval()


@st.composite
def dropped(draw):
    """A network, its graph, and a plan by which some of its blocks leave."""
    model = draw(stacks())
    graph = dg.trace(model, X)
    return model, graph, draw(drops(graph))


@st.composite
def drops(draw, graph):
    """A plan by which some elements leave that may."""
    (sequence,) = graph.sequences
    places = draw(st.sets(st.integers(0, len(sequence.elements) - 1), max_size=len(sequence.elements) - 1))
    try:
        return dg.drop(graph, "blocks", sorted(places))
    except PlanError:
        return reject()


def assert_identity(model, plan, small, x):
    """The oracle: with the identity in the place of what goes the model computes the same, bit for bit."""
    other = copy.deepcopy(model)
    for drop in plan.drops:
        container = other.get_submodule(drop.sequence.path)
        for place in drop.removed:
            container._modules[drop.sequence.elements[place]] = nn.Identity()
    with torch.no_grad():
        assert testing.tensor_bytes(small(x)) == testing.tensor_bytes(other(x)), "another result than with the identity"


def assert_told(graph, plan, model, x):
    """The square closes, or the plan says that it may not: then what its result allows, the smaller model allows."""
    if not plan.stricter:
        return testing.assert_square(graph, plan, model, x)
    small, result = dg.execute(plan, model), plan.apply(graph)
    traced = dg.trace(small, x)
    assert traced.sequences == result.sequences
    assert [item.name for item in traced.operations] == [item.name for item in result.operations]
    assert {item.name: item.shape for item in traced.tensors} == {item.name: item.shape for item in result.tensors}
    for group in result.groups:
        if group.lower_bound < group.size and not any(group.atom in item.atoms for item in result.balances):
            promised = plan_of(result, {group.atom: dg.IndexSet.of([group.size - 1])})
            axis = promised.axes[0]
            gone = promised.kept[axis.tensor][axis.dim].complement(axis.space.size)
            needed = dg.cut(traced, axis.tensor, gone, dim=axis.dim)
            for needs in needed.axes:
                kept = promised.kept[needs.tensor][needs.dim]
                assert kept & needed.kept[needs.tensor][needs.dim] == kept, "it would keep what has to go"
    return small


@given(dropped())
def test_the_laws_of_plans_hold_for_elements(case):
    """The square or word of it, the identity in their places, the round trip of files, and all or nothing."""
    model, graph, plan = case
    small = assert_told(graph, plan, model, X)
    assert dg.trace(small, X).sequences == plan.apply(graph).sequences
    assert_identity(model, plan, small, X)
    testing.assert_round_trip(graph, plan)
    testing.assert_atomic(plan, model)
    testing.assert_cost(plan.apply(graph), small, X)


@given(dropped())
def test_places_and_counts_follow(case):
    """What held an element's place holds its new one, and what counted the elements counts those that stay."""
    model, _, plan = case
    small = dg.execute(plan, model)
    blocks = list(small.blocks.children())
    numbered = model.way != "dict"
    places = [block.mixer.place if block.kind == "attention" else block.place for block in blocks]
    assert not numbered or places == list(range(len(blocks)))
    assert small.depth == (len(blocks) if model.way in {"slice", "range"} else model.depth)
    assert model.depth == len(model.blocks), "the model changed"


@given(stacks(APART), st.data())
def test_drops_compose_with_cuts_and_drops(model, data):
    """In any order: first one and then the other is both, on graphs and modules, in the names of the first graph."""
    graph = dg.trace(model, X)
    p, q, r = Steps(graph, data).three()
    both = p.then(q)
    assert both.apply(graph) == q.apply(p.apply(graph))
    once, twice = (small.state_dict() for small in (dg.execute(both, model), dg.execute(q, dg.execute(p, model))))
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
    assert not both.problems
    assert p.then(q).then(r) == p.then(q.then(r))
    testing.assert_unit(graph, p)
    for name in model.state_dict():
        after = p.name_after(name)
        assert both.name_after(name) == (None if after is None else q.name_after(after))
        assert after is None or p.name_before(after) == name


class Steps:
    """Plans one after the other, each by elements or by widths."""

    def __init__(self, graph, data):
        self.graph, self.data = graph, data

    def three(self):
        return [self.next() for _ in range(3)]

    def next(self):
        by_elements = self.graph.sequences and self.data.draw(st.booleans())
        plan = self.data.draw(drops(self.graph) if by_elements else plans(self.graph))
        self.graph = plan.apply(self.graph)
        return plan


@given(stacks(APART), st.data())
def test_cut_and_drop_commute(model, data):
    """Widths that stay are cut before or after the elements go: one plan."""
    graph = dg.trace(model, X)
    drop = data.draw(drops(graph))
    names = dict(drop.renamed)
    after = drop.apply(graph)
    assume(drop.drops and after.groups)
    group = data.draw(st.sampled_from(after.groups))
    assume(group.size > 1)
    balanced = [item for item in after.balances if group.atom in item.atoms]
    assume(not balanced)
    last = dg.IndexSet.of([group.size - 1])
    second = plan_of(after, {group.atom: last})
    first = graph.groups_by_name[names[group.name]]
    cut = plan_of(graph, {first.atom: last})
    again = dg.drop(cut.apply(graph), "blocks", list(drop.drops[0].removed))
    assert drop.then(second) == cut.then(again)


# what elements alone have said


def stack(*kinds, skip=False):
    torch.manual_seed(0)
    model = Stack(kinds, "list", skip).eval()
    return model, dg.trace(model, X)


@pytest.mark.parametrize(
    ("kinds", "leave", "why"),
    [
        (["mirrored", "relu"], [0], r"aten.flip at .*test_drops.py:\d+ reads parts of an axis"),
        (["shuffled", "linear"], [0], r"aten.unflatten at .*test_drops.py:\d+ reads parts of an axis|aten.view at"),
        (["rolled", "relu"], [0], r"aten.roll at .*test_drops.py:\d+ reads parts of an axis"),
        (["half", "attention"], [0], r"aten.slice at .*test_drops.py:\d+ reads parts of an axis"),
        (["literal", "relu"], [0], r"an axis may be pinned for it alone: .*aten.expand"),
    ],
)
def test_what_an_element_alone_says_is_told(kinds, leave, why):
    """The graph after it is another one than a trace of the smaller model, and the plan says so, with operator and line."""
    model, graph = stack(*kinds)
    plan = dg.drop(graph, "blocks", leave)
    ((element, told),) = plan.stricter
    assert element == "blocks.0" and re.search(why, told), told
    small = assert_told(graph, plan, model, X)
    assert dg.trace(small, X) != plan.apply(graph)
    assert "may be stricter than another trace: blocks.0 goes" in str(plan)
    with pytest.raises(MismatchError, match=r"It is stricter than a trace of the pruned model, for blocks.0 may alone"):
        plan.then(dg.Plan.empty(dg.trace(small, X)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"turned", "half"}])
def test_a_twin_that_stays_says_the_same(kind):
    """The control: where an element of the same kind stays, nothing is told, and the square closes."""
    model, graph = stack(kind, kind, "relu")
    plan = dg.drop(graph, "blocks", [1])
    assert plan.stricter == ()
    testing.assert_square(graph, plan, model, X)


def test_a_twin_says_the_same_only_where_what_it_takes_passes_through():
    """Three halves turned are one half turned, and two are none: which of them has tied the halves cannot be told."""
    model, graph = stack("turned", "turned", "turned", skip=True)
    plan = dg.drop(graph, "blocks", [1])
    assert plan.stricter
    assert dg.trace(assert_told(graph, plan, model, X), X) != plan.apply(graph)


def test_what_is_told_composes_and_is_written(tmp_path):
    """Of two plans in turn, in the names of the first graph; a file keeps it."""
    model, graph = stack("mirrored", "relu", "mirrored", "relu")
    p = dg.drop(graph, "blocks", [0])
    q = dg.drop(p.apply(graph), "blocks", [1])
    assert not p.stricter and [element for element, _ in q.stricter] == ["blocks.1"]
    both = p.then(q)
    assert [element for element, _ in both.stricter] == ["blocks.2"]
    assert not both.problems
    assert_told(graph, both, model, X)
    both.save(tmp_path / "plan.json")
    assert dg.Plan.load(tmp_path / "plan.json").stricter == both.stricter
    for wrong in ((("blocks.1", "it stays"),), both.stricter * 2):
        assert attrs.evolve(both, stricter=wrong).problems


def test_the_square_refutes_a_plan_that_does_not_tell():
    model, graph = stack("mirrored", "relu")
    plan = dg.drop(graph, "blocks", [0])
    assert_told(graph, plan, model, X)
    refuted(assert_told, graph, attrs.evolve(plan, stricter=()), model, X)


class Shared:
    """A size that blocks read outside of them."""

    def __init__(self):
        self.heads = 2


@pytest.mark.parametrize("leave", [[0], [1], [0, 1]])
def test_a_size_outside_that_only_elements_read_goes_with_them(leave):
    """What no element reads any more counts nothing in the graph."""
    model = Stack(["attention", "attention", "relu"], "list").eval()
    model.shared = Shared()
    for block in model.blocks:
        block.heads = None
        block.shared = model.shared

    def forward(self, x):
        if self.kind == "attention":
            self.heads = self.shared.heads
        return Block.forward(self, x)

    for block in model.blocks:
        block.__class__ = type("Block", (Block,), {"forward": forward})
    graph = dg.trace(model, X)
    assert_told(graph, dg.drop(graph, "blocks", leave), model, X)


# what a law refutes


def test_the_square_refutes_a_plan_that_forgets_what_moves_up():
    """Elements behind a gap have other names: a list that is called one of names gives another graph."""
    model = Stack(["relu"] * 3, "list").eval()
    graph = dg.trace(model, X)
    plan = dg.drop(graph, "blocks", [1])
    (drop,) = plan.drops
    kept_names = attrs.evolve(
        plan, drops=(attrs.evolve(drop, sequence=attrs.evolve(drop.sequence, numbered=False, positions=())),)
    )
    refuted(testing.assert_square, graph, kept_names, model, X, by=(AssertionError, MismatchError))
    testing.assert_square(graph, plan, model, X)


def test_the_identity_refutes_another_element():
    torch.manual_seed(0)
    model = Stack(["relu"] * 3, "list").eval()
    graph = dg.trace(model, X)
    plan, other = dg.drop(graph, "blocks", [1]), dg.drop(graph, "blocks", [2])
    refuted(assert_identity, model, plan, dg.execute(other, model), X, says="identity")
    assert_identity(model, plan, dg.execute(plan, model), X)


def test_composition_refutes_names_of_the_second_graph():
    """A plan of the result names its layers as they are there: taken for those of the base it cuts other tensors."""
    model = Stack(["relu"] * 3, "list").eval()
    graph = dg.trace(model, X)
    p = dg.drop(graph, "blocks", [0])
    q = dg.cut(p.apply(graph), "blocks.1.inner.weight", [0], dim=0)
    right = p.then(q)
    assert right.kept.keys() == {f"blocks.2.{name}" for name in ("inner.weight", "inner.bias", "outer.weight")}
    wrong = attrs.evolve(right, axes=q.axes)

    def law(plan):
        assert plan.apply(graph) == q.apply(p.apply(graph))

    law(right)
    refuted(law, wrong, by=(AssertionError, MismatchError))


# what may not leave


class Residual(nn.Linear):
    """A layer that adds what it computes."""

    def forward(self, x):
        return x + super().forward(x)


class Refused(nn.Module):
    """Lists whose elements may not leave, each in a way of its own."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.layers = nn.ModuleList(Residual(4, 4) for _ in range(4))
        self.scales = nn.ParameterList(torch.ones(4) for _ in range(4))
        if way == "shared":
            self.again = self.layers[1]
        if way == "wider":
            self.layers[1], self.layers[2] = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        skip, given = None, []
        layers = self.layers[1:] if self.way == "part" else self.layers
        if self.way == "numbers":
            for place in range(4):
                x = self.layers[place](x)
            return x
        for place, layer in enumerate(layers):
            if self.way == "residual":
                x = x + layer(x)
            elif self.way == "scaled":
                x = layer(x * self.scales[place])
            elif self.way == "dense":
                x = layer(x + sum(given)) if given else layer(x)
                given.append(x)
            elif self.way == "offset":
                x = nn.functional.linear(x, layer.weight, self.scales[place])
            else:
                x = layer(x)
            if self.way == "skip" and place == 1:
                skip = x
            if self.way == "collected":
                given.append(x)
            if self.way == "by place":
                given.append(x)
        if self.way == "last":
            x = self.layers[-1](x)
        if self.way == "by place":
            x = given[3]
        return x + skip if skip is not None else given if self.way == "collected" else x


@pytest.mark.parametrize(
    ("way", "element", "why"),
    [
        ("residual", 1, "is read by add"),
        ("scaled", 1, "is read by mul"),
        ("dense", 1, "is read by"),
        ("offset", 1, "does not reach its element"),
        ("skip", 3, "what its element '1' gives is read by add"),
        ("collected", 2, "is read by the model's output"),
        ("last", 3, "forward asks for element -1 at"),
        ("part", 2, "forward takes a part of it at"),
        ("numbers", 2, "up to a number that is not its length"),
        ("by place", 2, "the model keeps what layers.0 gives, and may take it by its place"),
        ("shared", 1, "'layers.1' and 'again' are one module"),
        ("wider", 1, "it takes no tensor of the space"),
    ],
)
@pytest.mark.filterwarnings("ignore::depgraph.errors.UnreachedWarning")
def test_elements_that_something_else_depends_on_stay(way, element, why):
    model = Refused(way)
    graph = dg.trace(model, X)
    with pytest.raises(PlanError, match=why) as error:
        dg.drop(graph, "layers", [element])
    assert "Nothing was changed" in str(error.value) or "nothing was changed" in str(error.value)


def test_the_same_model_without_the_obstacle_lets_them_go():
    """The control of the refusals: nothing in the network itself keeps its elements."""
    graph = dg.trace(Refused("plain"), X)
    assert [len(dg.drop(graph, "layers", [place]).apply(graph).sequences[0].elements) for place in range(4)] == [3] * 4


class Head(nn.Module):
    """A named sequence whose elements forward reaches as attributes."""

    def __init__(self, by_name):
        super().__init__()
        self.by_name = by_name
        self.head = nn.Sequential(OrderedDict(norm=nn.LayerNorm(4), act=nn.ReLU(), last=nn.Linear(4, 4)))

    def forward(self, x):
        return self.head.last(self.head.act(self.head.norm(x))) if self.by_name else self.head(x)


def test_an_element_that_forward_reaches_as_an_attribute_stays():
    with pytest.raises(PlanError, match=r"head.act may not leave: forward asks for 'act' at .*test_drops.py:\d+"):
        dg.drop(dg.trace(Head(True), X), "head", ["act"])
    graph = dg.trace(model := Head(False), X)
    testing.assert_square(graph, dg.drop(graph, "head", ["act"]), model, X)


class Gathering(nn.Module):
    """Views of what elements give live on, the elements' results do not; or a list keeps these, and returns the last."""

    def __init__(self, keeps):
        super().__init__()
        self.keeps, self.layers = keeps, nn.ModuleList(Moving() for _ in range(3))

    def forward(self, x):
        given = []
        for layer in self.layers:
            x = layer(x)
            given += [x] if self.keeps else []
        return given[-1] if self.keeps else x


class Moving(nn.Linear):
    """Reads its operand through views."""

    def __init__(self):
        super().__init__(4, 4)

    def forward(self, x):
        return x + super().forward(x.transpose(1, 2).transpose(1, 2))


def test_what_is_only_viewed_is_not_kept():
    graph = dg.trace(model := Gathering(False), X)
    testing.assert_square(graph, dg.drop(graph, "layers", [1]), model, X)
    with pytest.raises(PlanError, match=r"the model keeps what layers.0 gives"):
        dg.drop(dg.trace(Gathering(True), X), "layers", [1])


class Hybrid(nn.Module):
    """Two kinds of blocks, told apart by a list in the configuration that no block holds."""

    def __init__(self, texts):
        super().__init__()
        self.config = SimpleNamespace(kinds=texts)
        self.blocks = nn.ModuleList(Block("attention" if text == "a" else "relu", place) for place, text in enumerate(texts))

    def forward(self, x):
        for kind, block in zip(self.config.kinds, self.blocks, strict=True):
            assert (kind == "a") == (block.kind == "attention")
            x = block(x)
        return x


def test_places_at_several_paths_and_a_list_of_kinds_follow():
    """Blocks of two kinds hold their places at two paths, and differ in their modules where the texts do."""
    model = Hybrid(["a", "b", "a", "b"]).eval()
    graph = dg.trace(model, X)
    (sequence,) = graph.sequences
    assert set(sequence.positions) == {"mixer.place", "place"} and dict(sequence.entries) == {
        "config.kinds": ("a", "b", "a", "b")
    }
    small = dg.execute(dg.drop(graph, "blocks", [0]), model)
    assert small.config.kinds == ["b", "a", "b"] and model.config.kinds == ["a", "b", "a", "b"]
    assert [small.blocks[0].place, small.blocks[1].mixer.place, small.blocks[2].place] == [0, 1, 2]
    testing.assert_square(graph, dg.drop(graph, "blocks", [0]), model, X)


def test_a_configuration_that_lists_places_keeps_them():
    """Where a list says by numbers which blocks are of a kind, a gap would make it wrong."""
    model = Hybrid(["a", "b", "a", "b"]).eval()
    model.config.attention_places = [0, 2]
    with pytest.raises(PlanError, match=r"config.attention_places lists the places of its elements of one kind"):
        dg.drop(dg.trace(model, X), "blocks", [1])
    model.config.attention_places = [0, 1]
    assert dg.drop(dg.trace(model, X), "blocks", [1]).drops


def test_all_problems_are_told_at_once():
    graph = dg.trace(Stack(["relu"] * 3, "list").eval(), X)
    with pytest.raises(PlanError, match="all 3 elements of blocks would go"):
        dg.drop(graph, "blocks", range(3))
    with pytest.raises(PlanError, match=r"met \[7\](.|\n)*more than once"):
        dg.drop(graph, "blocks", [1, 1, 7])
    with pytest.raises(PlanError, match="expected elements as a list"):
        dg.drop(graph, "blocks", "1")
    with pytest.raises(PlanError, match="expected the path of a list of modules, met NoneType"):
        dg.drop(graph, None, [1])
    with pytest.raises(dg.errors.UnknownNameError, match="blocks"):
        dg.drop(graph, "block", [1])


def test_a_plan_of_another_model_changes_nothing():
    """Other elements, another place: every mismatch is told, and the model is as it was."""
    graph = dg.trace(Stack(["relu"] * 3, "slice").eval(), X)
    plan = dg.drop(graph, "blocks", [1])
    other = Stack(["relu"] * 4, "slice").eval()
    moved = Stack(["relu"] * 3, "slice").eval()
    before = testing.snapshot(other)
    with pytest.raises(MismatchError, match="expected a list of 3 modules"):
        dg.execute_(plan, other)
    moved.blocks[2].place, moved.depth = 5, 9
    with pytest.raises(MismatchError, match=r"'depth': expected 3, met 9(.|\n)*'blocks.2.place': expected 2, met 5"):
        dg.execute_(plan, moved)
    assert testing.snapshot(other) == before


def test_damaged_files_are_refused(tmp_path):
    graph = dg.trace(Stack(["relu"] * 3, "list").eval(), X)
    plan = dg.drop(graph, "blocks", [1])
    (drop,) = plan.drops
    damages = {
        "named_after_class": attrs.evolve(drop.sequence, path="__class__"),
        "positions of a dict": attrs.evolve(drop.sequence, numbered=False),
        "other names": attrs.evolve(drop.sequence, elements=("1", "0", "2")),
        "dotted": attrs.evolve(drop.sequence, counts=("a..b",)),
        "twice": attrs.evolve(drop.sequence, elements=("0", "0", "2"), numbered=False, positions=()),
    }
    for sequence in damages.values():
        wrong = attrs.evolve(plan, drops=(attrs.evolve(drop, sequence=sequence),))
        assert wrong.problems
        wrong.save(tmp_path / "plan.json")
        with pytest.raises(DocumentError):
            dg.Plan.load(tmp_path / "plan.json")
    everything = attrs.evolve(plan, drops=(attrs.evolve(drop, removed=dg.IndexSet.range(0, 3)),))
    assert any("last element" in problem for problem in everything.problems)


def test_a_list_without_elements_is_the_graph():
    graph = dg.trace(Stack(["relu"] * 2, "list").eval(), X)
    assert without(graph, ()) is graph and not list(drop_problems(graph, ()))
    assert dg.drop(graph, "blocks", []) == dg.Plan.empty(graph)


# what else follows


@settings(max_examples=15)
@given(dropped(), st.sampled_from(["safetensors", "pt"]))
def test_checkpoints_follow(tmp_path_factory, case, form):
    """A checkpoint without the model is, name for name and bit for bit, what the pruned model has."""
    model, graph, plan = case
    cut = dg.plan(plan.apply(graph), dg.score(plan.apply(graph), dg.execute(plan, model), dg.Magnitude()), ratio=0.3)
    plan = plan.then(cut)
    folder = tmp_path_factory.mktemp("checkpoint")
    source, target = folder / f"model.{form}", folder / f"small.{form}"
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(state, source) if form == "safetensors" else torch.save(state, source)
    dg.prune_checkpoint(plan, source, target)
    written = load_file(target) if form == "safetensors" else torch.load(target)
    expected = dg.execute(plan, model).state_dict()
    assert written.keys() == {f"module.{name}" for name in expected}
    assert all(torch.equal(written[f"module.{name}"], tensor) for name, tensor in expected.items())


def test_names_that_cannot_be_told_are_refused(tmp_path):
    graph = dg.trace(model := Stack(["relu"] * 3, "list").eval(), X)
    plan = dg.drop(graph, "blocks", [0])
    torch.save({name.replace("blocks", "h"): tensor for name, tensor in model.state_dict().items()}, tmp_path / "model.pt")
    with pytest.raises(MismatchError, match=r"'h.1.norm.weight' is to be called 'blocks.0.norm.weight'"):
        dg.prune_checkpoint(
            plan, tmp_path / "model.pt", tmp_path / "small.pt", rename=lambda name: name.replace("h.", "blocks.")
        )
    assert not (tmp_path / "small.pt").exists()


@given(dropped())
def test_parameters_are_paired_by_the_plan(case):
    model, _, plan = case
    small = dg.execute(plan, model)
    pairs = dg.parameter_map(model, small, plan)
    assert set(pairs.values()) == set(small.parameters())
    assert all(torch.equal(old, new) for old, new in pairs.items())
    if plan.drops and model.way != "dict":
        with pytest.raises(MismatchError, match="there is no parameter"):
            dg.parameter_map(model, small)


def test_a_mask_takes_nothing_out():
    graph = dg.trace(model := Stack(["relu"] * 3, "list").eval(), X)
    with pytest.raises(PlanError, match="takes no elements out of lists"):
        dg.mask(dg.drop(graph, "blocks", [0]), model)
