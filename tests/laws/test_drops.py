"""Elements leave lists of modules: the laws of plans hold for them, and the identity in their places computes the same."""

import copy

import attrs
import pytest
import torch
from hypothesis import assume, given, settings
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
    """A residual block of one of three kinds, which knows its place."""

    def __init__(self, kind, place, width=4):
        super().__init__()
        self.kind, self.place = kind, place
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
        return x + self.outer(y.relu() if self.kind == "relu" else y)


class Stack(nn.Module):
    """Blocks between two layers, over which forward goes in one of several ways."""

    def __init__(self, kinds, way):
        super().__init__()
        self.way, self.depth = way, len(kinds)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        blocks = [Block(kind, place) for place, kind in enumerate(kinds)]
        if way == "dict":
            self.blocks = nn.ModuleDict({f"block_{place}": block for place, block in enumerate(blocks)})
        else:
            self.blocks = nn.Sequential(*blocks) if way == "sequential" else nn.ModuleList(blocks)

    def forward(self, x):
        x = self.first(x)
        if self.way == "sequential":
            return self.last(self.blocks(x))
        if self.way == "range":
            for place in range(self.depth):
                x = self.blocks[place](x)
            return self.last(x)
        chosen = {"list": self.blocks, "dict": self.blocks}.get(self.way)
        blocks = self.blocks[: self.depth] if chosen is None else chosen.values() if self.way == "dict" else chosen
        for block in blocks:
            x = block(x)
        return self.last(x)


WAYS = ("list", "dict", "sequential", "slice", "range")


@st.composite
def stacks(draw):
    """A network with a list of blocks."""
    torch.manual_seed(draw(st.integers(0, 99)))
    kinds = draw(st.lists(st.sampled_from(["relu", "linear", "attention"]), min_size=2, max_size=5))
    return Stack(kinds, draw(st.sampled_from(WAYS))).eval()


@st.composite
def dropped(draw):
    """A network, its graph, and a plan by which some of its blocks leave."""
    model = draw(stacks())
    graph = dg.trace(model, X)
    return model, graph, draw(drops(graph))


@st.composite
def drops(draw, graph):
    """A plan by which some elements leave."""
    (sequence,) = graph.sequences
    places = draw(st.sets(st.integers(0, len(sequence.elements) - 1), max_size=len(sequence.elements) - 1))
    return dg.drop(graph, "blocks", sorted(places))


def assert_identity(model, plan, small, x):
    """The oracle: with the identity in the place of what goes the model computes the same, bit for bit."""
    other = copy.deepcopy(model)
    for drop in plan.drops:
        container = other.get_submodule(drop.sequence.path)
        for place in drop.removed:
            container._modules[drop.sequence.elements[place]] = nn.Identity()
    with torch.no_grad():
        assert testing.tensor_bytes(small(x)) == testing.tensor_bytes(other(x)), "another result than with the identity"


@given(dropped())
def test_the_laws_of_plans_hold_for_elements(case):
    """The square, the identity in their places, the round trip of files, and all or nothing."""
    model, graph, plan = case
    small = testing.assert_square(graph, plan, model, X)
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
    assert not numbered or [block.place for block in blocks] == list(range(len(blocks)))
    assert small.depth == (len(blocks) if model.way in {"slice", "range"} else model.depth)
    assert model.depth == len(model.blocks), "the model changed"


@given(stacks(), st.data())
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


@given(stacks(), st.data())
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
        if self.way == "last":
            x = self.layers[-1](x)
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
