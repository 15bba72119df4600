"""Residual branches leave: the laws of plans hold for them, and a branch whose last layer is zero computes the same."""

import copy
import io

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
from depgraph.execution.branches import AddsNothing
from depgraph.plans.making import plan_of
from depgraph.testing import plans
from tests.laws.refuting import refuted

X = torch.randn(2, 3, 4)


class Attention(nn.Module):
    """An attention that returns what it adds beside its weights or None."""

    def __init__(self, weights):
        super().__init__()
        self.inner, self.outer, self.heads, self.weights = nn.Linear(4, 12), nn.Linear(4, 4), 2, weights

    def forward(self, x, mask=None):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.inner(x).chunk(3, -1))
        scores = (q @ k.mT).softmax(-1)
        return self.outer((scores @ v).transpose(1, 2).flatten(2)), scores if self.weights else None


class Mlp(nn.Module):
    """A branch that returns one tensor."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.outer(self.inner(x).relu())


class Block(nn.Module):
    """Attention and MLP, each with what its way puts before and behind it."""

    def __init__(self, way, place):
        super().__init__()
        self.way, self.place = way, place
        self.norm_1, self.norm_2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.attention, self.mlp = Attention(way == "weights"), Mlp()
        self.last = {"behind": nn.LayerNorm(4), "projection": nn.Linear(4, 4)}.get(way, nn.Identity())

    def forward(self, x):
        if self.way == "parallel":
            y = self.norm_1(x)
            return x + self.attention(y, mask=None)[0] + self.mlp(self.norm_2(x))
        x = x + nn.functional.dropout(self.attention(self.norm_1(x), mask=None)[0], 0.1, self.training)
        if self.way == "windows":
            return x + self.mlp(self.norm_2(x).flatten(0, 1)).unflatten(0, x.shape[:2])
        y = self.mlp(self.norm_2(x))
        return x + self.last(y)


WAYS = ("weights", "behind", "projection", "windows", "parallel")


class Stack(nn.Module):
    """Blocks between two layers."""

    def __init__(self, ways):
        super().__init__()
        self.first, self.final = nn.Linear(4, 4), nn.Linear(4, 2)
        self.blocks = nn.ModuleList(Block(way, place) for place, way in enumerate(ways))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.final(x)


def last_of(model, path):
    """The layer that ends the branch of a module."""
    block = model.get_submodule(path.rpartition(".")[0])
    is_mlp = path.endswith("mlp")
    return block.last if is_mlp and block.way in {"behind", "projection"} else model.get_submodule(f"{path}.outer")


@st.composite
def stacks(draw):
    """A network of some blocks."""
    torch.manual_seed(draw(st.integers(0, 99)))
    return Stack(draw(st.lists(st.sampled_from(WAYS), min_size=2, max_size=4))).eval()


@st.composite
def branches(draw, graph):
    """A plan by which some branches leave; the attention of one block stays, which alone tells heads apart."""
    paths = sorted({call.path for call in graph.calls if call.path.rpartition(".")[2] in {"attention", "mlp"}})
    chosen = draw(st.sets(st.sampled_from(paths))) if paths else set()
    try:
        return dg.drop_branches(graph, sorted(chosen))
    except PlanError as error:
        assume("keep one" not in str(error))  # the last of its kind stays
        raise


@st.composite
def without_branches(draw):
    """A network, its graph, and a plan by which some of its branches leave."""
    model = draw(stacks())
    graph = dg.trace(model, X)
    return model, graph, draw(branches(graph))


def assert_zeros(model, plan, small, x):
    """The oracle: with zeros in the last layers of the branches the model computes the same."""
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for branch in plan.branches:
            for parameter in last_of(zeroed, branch.path).parameters():
                parameter.zero_()
        assert torch.equal(zeroed(x), small(x)), "another result than with zeros"


@settings(max_examples=12)
@given(without_branches())
def test_the_laws_of_plans_hold_for_branches(case):
    """The square, zeros in their places, the round trip of files, and all or nothing."""
    model, graph, plan = case
    small = testing.assert_square(graph, plan, model, X)
    result = plan.apply(graph)
    assert (dg.trace(small, X).calls, dg.trace(small, X).sequences) == (result.calls, result.sequences)
    assert_zeros(model, plan, small, X)
    testing.assert_round_trip(graph, plan)
    testing.assert_atomic(plan, model)
    testing.assert_cost(result, small, X)


@settings(max_examples=12)
@given(stacks(), st.data())
def test_branches_compose_with_cuts_elements_and_branches(model, data):
    """In any order: first one and then the other is both, on graphs and modules, in the names of the first graph."""
    graph = dg.trace(model, X)
    steps, now = [], graph
    for _ in range(3):
        kind = data.draw(st.sampled_from(["branches", "elements", "widths"]))
        if kind == "elements" and now.sequences:
            places = data.draw(st.sets(st.integers(0, len(now.sequences[0].elements) - 1), max_size=1))
            steps.append(dg.drop(now, "blocks", sorted(places)))
        else:
            steps.append(data.draw(branches(now) if kind == "branches" else plans(now)))
        now = steps[-1].apply(now)
    p, q, r = steps
    both = p.then(q)
    assert both.apply(graph) == q.apply(p.apply(graph)) and not both.problems
    once, twice = (small.state_dict() for small in (dg.execute(both, model), dg.execute(q, dg.execute(p, model))))
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
    assert p.then(q).then(r) == p.then(q.then(r))
    testing.assert_unit(graph, p)
    for name in model.state_dict():
        after = p.name_after(name)
        assert both.name_after(name) == (None if after is None else q.name_after(after))


@settings(max_examples=12)
@given(stacks(), st.data())
def test_a_plan_is_taken_apart_and_put_together(model, data):
    """Merged, restricted and rebased, branches are a part of a plan as elements are."""
    graph = dg.trace(model, X)
    one, other = data.draw(branches(graph)), data.draw(plans(graph))
    both = dg.merge(graph, [one, other])
    assert both.branches == one.branches and both.restrict(graph, "*").branches == one.branches
    left = both.rebase(graph, one)
    assert one.then(left) == both
    assert not one.diff(one) and {item.path for item in both.diff(other).branches} == {item.path for item in one.branches}


def test_the_tensors_of_a_branch_leave_a_checkpoint(tmp_path):
    """A file is pruned without the model, and is what the pruned model saves."""
    model = Stack(["weights", "projection"]).eval()
    plan = dg.drop_branches(dg.trace(model, X), ["blocks.1.attention", "blocks.0.mlp"])
    save_file({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "whole.safetensors")
    dg.prune_checkpoint(plan, tmp_path / "whole.safetensors", tmp_path / "small.safetensors")
    small = {name.removeprefix("module."): tensor for name, tensor in load_file(tmp_path / "small.safetensors").items()}
    expected = dg.execute(plan, model).state_dict()
    assert small.keys() == expected.keys() and all(torch.equal(small[name], expected[name]) for name in small)


def test_what_stands_in_their_places():
    """It is pickled, trains, says what it is, and `execute_` writes it as `execute` does."""
    model = Stack(["projection", "behind"])
    graph = dg.trace(model.eval(), X)
    plan = dg.drop_branches(graph, "blocks.*.mlp")
    assert str(plan).splitlines()[1:] == [
        "  blocks.0.mlp adds nothing; with it go blocks.0.last, blocks.0.norm_2",
        "  blocks.1.mlp adds nothing; with it go blocks.1.last, blocks.1.norm_2",
    ]
    model.train()
    torch.save(dg.execute(plan, model), saved := io.BytesIO())
    small = torch.load(io.BytesIO(saved.getvalue()), weights_only=False)
    assert small.blocks[0].mlp.training and repr(small.blocks[0].mlp) == "AddsNothing(like='0')"
    small(X).sum().backward()
    dg.execute_(plan, model)
    assert model.state_dict().keys() == small.state_dict().keys() and isinstance(model.blocks[1].last, nn.Identity)
    assert graph.params - plan.apply(graph).params == 2 * (4 * 6 + 6 + 6 * 4 + 4) + (8 + 20) + (8 + 8)


# what a law refutes


def test_the_square_refutes_a_plan_that_forgets_a_norm():
    """A normalisation that only feeds the branch goes with it."""
    model = Stack(["weights", "weights"]).eval()
    graph = dg.trace(model, X)
    plan = dg.drop_branches(graph, "blocks.0.attention")
    forgetful = attrs.evolve(plan, branches=(attrs.evolve(plan.branches[0], beside=()),))
    refuted(testing.assert_square, graph, forgetful, model, X, by=(AssertionError, MismatchError))
    testing.assert_square(graph, plan, model, X)


def test_zeros_refute_another_branch():
    torch.manual_seed(0)
    model = Stack(["weights", "weights"]).eval()
    graph = dg.trace(model, X)
    plan, other = dg.drop_branches(graph, "blocks.0.attention"), dg.drop_branches(graph, "blocks.1.attention")
    refuted(assert_zeros, model, plan, dg.execute(other, model), X, says="zeros")
    assert_zeros(model, plan, dg.execute(plan, model), X)


def test_a_plan_that_takes_more_than_the_branch_is_refused():
    model = Stack(["weights", "weights"]).eval()
    graph = dg.trace(model, X)
    plan = dg.drop_branches(graph, "blocks.0.attention")
    (branch,) = plan.branches
    more = attrs.evolve(plan, branches=(attrs.evolve(branch, beside=("blocks.0.norm_1", "blocks.0.norm_2")),))
    with pytest.raises(MismatchError, match=r"norm_2 does more than to feed blocks.0.attention"):
        more.apply(graph)
    other = attrs.evolve(plan, branches=(attrs.evolve(branch, returns=("zeros",)),))
    with pytest.raises(MismatchError, match=r"is not as the graph has it"):
        other.apply(graph)


# what may not leave


class Refused(nn.Module):
    """A module that is no residual branch that may leave, each in a way of its own."""

    def __init__(self, way):
        super().__init__()
        self.way, self.first, self.branch, self.wide = way, nn.Linear(4, 4), Mlp(), nn.Linear(8, 4)
        self.gate, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))
        self.other = self.branch if way == "shared" else nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        if self.way == "alone":
            return self.other(self.branch(x))
        if self.way == "cat":
            return self.wide(torch.cat([x, self.branch(x)], -1))
        if self.way == "gate":
            return x + self.gate(x).sigmoid() * self.branch(x)
        if self.way == "product":
            return x * self.branch(x)
        if self.way == "twice":
            return self.branch(x + self.branch(x))
        if self.way == "shared":
            return x + self.other(x)
        if self.way == "two readers":
            y = self.branch(x)
            return x + y + y.relu()
        if self.way == "offset":
            return self.branch(x) + self.scale
        if self.way == "own weights":
            return x + self.branch(x * self.scale)
        if self.way == "unrelated":
            return self.other(x.detach() * 0 + 1) + self.branch(x)
        return self.other(x + self.branch(x))


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("alone", "is read by the model's output, and not added"),
        ("cat", r"is read by cat \(aten.cat at"),
        ("gate", r"is read by mul \(aten.mul at"),
        ("product", r"is read by mul \(aten.mul at"),
        ("twice", "forward calls it 2 times, expected once"),
        ("shared", "'branch' and 'other' are one module"),
        ("two readers", "is read by"),
        ("offset", "and not added to what it is made from"),
        ("own weights", "is computed for it alone, and its scale would stay"),
    ],
)
@pytest.mark.filterwarnings("ignore::depgraph.errors.UnreachedWarning")
def test_what_is_no_branch_stays(way, why):
    graph = dg.trace(Refused(way), X)
    with pytest.raises(PlanError, match=why) as error:
        dg.drop_branches(graph, "branch")
    assert "Nothing was changed" in str(error.value)


@pytest.mark.filterwarnings("ignore::depgraph.errors.UnreachedWarning")
def test_the_same_model_without_the_obstacle_lets_it_go():
    """The control of the refusals: nothing in the network itself keeps the branch."""
    model = Refused("plain")
    graph = dg.trace(model, X)
    testing.assert_square(graph, dg.drop_branches(graph, "branch"), model, X)


def test_names_and_kinds_of_arguments():
    graph = dg.trace(Stack(["weights"] * 2).eval(), X)
    with pytest.raises(dg.errors.UnknownNameError, match=r"blocks.0.mlp"):
        dg.drop_branches(graph, "blocks.0.mpl")
    with pytest.raises(PlanError, match="expected a Graph"):
        dg.drop_branches(Stack(["weights"]), "blocks.0.mlp")
    assert dg.drop_branches(graph, []) == dg.Plan.empty(graph)
    with pytest.raises(PlanError, match="expected dotted paths of modules or globs, met 3"):
        dg.drop_branches(graph, 3)
    with pytest.raises(PlanError, match="expected dotted paths of modules or globs, met Linear and int"):
        dg.drop_branches(graph, [nn.Linear(4, 4), 3])
    both = dg.drop_branches(graph, ["blocks.*.mlp", "blocks.1.mlp"])
    assert both == dg.drop_branches(graph, ["blocks.0.mlp", "blocks.1.mlp"])  # a glob may name what a path names


def test_all_that_is_asked_wrongly_is_told_at_once():
    """Names of nothing, one given twice, a normalisation and a layer within the branch, each with its fix."""
    model = Stack(["weights"] * 2).eval()
    graph, before = dg.trace(model, X), testing.snapshot(model)
    wrong = ["blocks.0.mpl", "blocks.7.*", "blocks.0.mlp", "blocks.0.mlp", "blocks.1.norm_1", "blocks.1.attention.outer"]
    with pytest.raises(PlanError, match="5 problems; nothing was changed") as error:
        dg.drop_branches(graph, wrong)
    told = error.value.problems
    assert told[0].startswith("no module is called 'blocks.0.mpl'; did you mean 'blocks.0.mlp'")
    assert told[1].startswith("no module is called 'blocks.7.*'")
    assert told[2] == "'blocks.0.mlp' is given more than once; give it once."
    assert "may not leave" in told[3] and "may not leave" in told[4]
    with pytest.raises(PlanError, match=r"norm_1 may not leave.*; it goes with blocks.1.attention, name that one"):
        dg.drop_branches(graph, "blocks.1.norm_1")
    assert testing.snapshot(model) == before


def test_all_branches_of_a_list_leave():
    """Nothing keeps the last one here: no other layer shares what it says of axes."""
    model = Stack(["weights", "behind"]).eval()
    graph = dg.trace(model, X)
    plan = dg.drop_branches(graph, ["blocks.*.attention", "blocks.*.mlp"])
    small = testing.assert_square(graph, plan, model, X)
    assert torch.equal(small(X), model.final(model.first(X)))


@pytest.mark.parametrize("name", ["norm_2", "last"])
def test_what_stands_beside_a_branch_is_not_its_name(name):
    """A normalisation before or behind an MLP runs the branch as well, but who names it means less than the MLP."""
    graph = dg.trace(Stack(["behind"] * 2).eval(), X)
    assert f"blocks.0.{name}" in dg.drop_branches(graph, "blocks.0.mlp").branches[0].beside
    with pytest.raises(PlanError, match=rf"blocks.0.{name} may not leave alone: it goes with blocks.0.mlp; name that one"):
        dg.drop_branches(graph, f"blocks.0.{name}")


def test_a_plan_of_another_model_changes_nothing():
    graph = dg.trace(Stack(["weights"] * 2).eval(), X)
    plan = dg.drop_branches(graph, "blocks.1.mlp")
    other = Stack(["weights"]).eval()
    before = testing.snapshot(other)
    with pytest.raises(MismatchError, match=r"'blocks.1.mlp': expected a module, met none"):
        dg.execute_(plan, other)
    assert testing.snapshot(other) == before
    with pytest.raises(PlanError, match=r"a mask .* lets no branches leave, met a plan that drops some of 'blocks.1.mlp'"):
        dg.mask(plan, Stack(["weights"] * 2))


def test_damaged_files_are_refused(tmp_path):
    graph = dg.trace(Stack(["weights"] * 2).eval(), X)
    plan = dg.drop_branches(graph, "blocks.1.attention")
    (branch,) = plan.branches
    damages = [
        attrs.evolve(branch, path="__class__"),
        attrs.evolve(branch, like="a b"),
        attrs.evolve(branch, returns=("", "")),
        attrs.evolve(branch, beside=("blocks.1.attention",)),
        attrs.evolve(branch, beside=("blocks.1.attention.inner",)),
        attrs.evolve(branch, keeps=("a..b",)),
    ]
    for damaged in damages:
        wrong = attrs.evolve(plan, branches=(damaged,))
        assert wrong.problems
        wrong.save(tmp_path / "plan.json")
        with pytest.raises(DocumentError):
            dg.Plan.load(tmp_path / "plan.json")


@settings(max_examples=12)
@given(stacks(), st.data())
def test_widths_of_what_stays_are_cut_before_or_after(model, data):
    """One plan in either order."""
    graph = dg.trace(model, X)
    gone = data.draw(branches(graph))
    names, after = dict(gone.renamed), gone.apply(graph)
    free = [group for group in after.groups if group.size > 1 and not any(group.atom in item.atoms for item in after.balances)]
    assume(gone.branches and free)
    group = data.draw(st.sampled_from(free))
    last = dg.IndexSet.of([group.size - 1])
    second = plan_of(after, {group.atom: last})
    cut = plan_of(graph, {graph.groups_by_name[names[group.name]].atom: last})
    again = dg.drop_branches(cut.apply(graph), [branch.path for branch in gone.branches])
    assert gone.then(second) == cut.then(again)


def test_a_stand_in_hands_on_and_gives_none():
    """What it returns is described by the positions and keywords of what it is given."""
    x, bias = torch.ones(1, 2), torch.zeros(3)
    zeros, nothing, same = AddsNothing("x", ("zeros", "", "bias"))(bias, x=x, bias=bias)
    assert zeros.equal(torch.zeros(1, 2)) and nothing is None and same is bias
