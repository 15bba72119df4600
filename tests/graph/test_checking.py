"""What `check` says of graphs: nothing of those that are made, its sentence of each damaged one, which no file brings in."""

import json

import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import codec
from depgraph.algebra.spaces import Atom, Product, Reversed, Sum
from depgraph.graph.checking import check
from depgraph.graph.records import Balance, Cost, LayerWeight, LowerBound, OperationTraits, OpType, PinnedAtom, SizeAttribute
from depgraph.testing import modules, plans


@pytest.fixture(scope="module")
def sound():
    """A traced graph, with a balance and a bound that its forward does not ask for."""
    graph = dg.trace(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)), torch.zeros(1, 3))
    a, b = (group.atom for group in graph.groups)
    return evolve(graph, balances=(Balance((a, b), "a reason"),), lower_bounds=(LowerBound(a, 3, "a reason"),))


def operation(graph, **changes):
    """The second layer's operation with something else in it."""
    changed = [evolve(item, **changes) if item.name == "1" else item for item in graph.operations]
    return evolve(graph, operations=tuple(changed))


def tensor(graph, which, **changes):
    """A tensor with something else in it."""
    return evolve(graph, tensors=tuple(evolve(item, **changes) if item.name == which else item for item in graph.tensors))


def traits(graph, **changes):
    return operation(graph, traits=OperationTraits(**changes))


def weight(**changes):
    return evolve(LayerWeight(1, 1, 0, ("0:0", 1), ("1:0", 1)), **changes)


def a(graph):
    return graph.groups[0].atom


def pinned(graph):
    return graph.pinned_atoms[0].atom


DAMAGED = {
    "two tensors of one name": (
        lambda g: tensor(g, "1.bias", name="1.weight"),
        "the tensor '1.weight' is there more than once",
    ),
    "an alias that is a name": (lambda g: tensor(g, "1.bias", aliases=("1.weight",)), "'1.weight' is there more than once"),
    "two operations of one name": (lambda g: operation(g, name="0"), "the operation '0' is there more than once"),
    "one result of two operations": (lambda g: operation(g, outputs=("0:0",)), "the result '0:0' is there more than once"),
    "an input from nowhere": (lambda g: operation(g, inputs=("nowhere",)), "reads 'nowhere', which is not there"),
    "an input from later": (lambda g: operation(g, inputs=("2:0",)), "reads '2:0', which is not there before it"),
    "a parameter as a result": (lambda g: operation(g, outputs=("1:0", "1.bias")), "which is no value of the graph"),
    "a value of nobody": (lambda g: operation(g, outputs=()), "the value '1:0' is returned by no operation"),
    "a size below 0": (lambda g: tensor(g, "0.bias", axes=(Atom(1, -8),)), "a number below 0"),
    "two sizes of one atom": (lambda g: tensor(g, "0.bias", axes=(Atom(0, 9),)), "atom 0 has the sizes 8 and 9"),
    "a product of one": (lambda g: tensor(g, "0.bias", axes=(Product((a(g),)),)), "is not flat"),
    "atoms in another order": (lambda g: evolve(g, tensors=g.tensors[1:] + g.tensors[:1]), ""),
    "an atom that is first read backwards": (lambda g: tensor(g, "0.weight", axes=(Reversed(a(g)), pinned(g))), "backwards"),
    "a number that is left out": (lambda g: tensor(g, "0.bias", axes=(Atom(77, 5),)), "atom 77 is read as number 2"),
    "a cost below 0": (lambda g: operation(g, costs=(Cost((a(g),), -1),)), "is below 0"),
    "a cost in another order": (lambda g: operation(g, costs=(Cost((g.groups[1].atom, a(g))),)), "factors in another order"),
    "an offset beyond": (lambda g: traits(g, offsets=(7,)), "name an operand that it does not have"),
    "a weight beyond": (lambda g: traits(g, weight=weight(operand=-1)), "name an operand that it does not have"),
    "a mixed dimension of another": (lambda g: traits(g, mixes=(("2.weight", 0),)), "name a dimension that none"),
    "a mixed dimension beyond": (lambda g: traits(g, mixes=(("0:0", 2),)), "name a dimension that none of its tensors has"),
    "a weight's dimension beyond": (lambda g: traits(g, weight=weight(inner=5)), "name a dimension that none"),
    "a type that sizes refute": (
        lambda g: operation(g, type=OpType.DEPTHWISE_CONV, inputs=g.operations[2].inputs),
        "operation '1' is of another type than its sizes say",
    ),
    "two attributes of one path": (
        lambda g: evolve(g, attributes=(*g.attributes, g.attributes[-1])),
        "is there more than once",
    ),
    "attributes in another order": (lambda g: evolve(g, attributes=g.attributes[::-1]), "not in the order of their paths"),
    "an attribute of what is pinned": (
        lambda g: evolve(g, attributes=(*g.attributes, SizeAttribute("z", pinned(g)))),
        "'z' counts nothing that can be pruned",
    ),
    "an attribute in another form": (
        lambda g: evolve(g, attributes=(*g.attributes, SizeAttribute("z", Sum((g.groups[1].atom, a(g)))))),
        "'z' is not a sum of products in order",
    ),
    "an atom that is pinned twice": (
        lambda g: evolve(g, pinned_atoms=(*g.pinned_atoms, g.pinned_atoms[-1])),
        "the pinned atoms are not in the order",
    ),
    "a pinned atom from nowhere": (
        lambda g: evolve(g, pinned_atoms=(*g.pinned_atoms, PinnedAtom(Atom(99, 5), "a reason"))),
        "is in no axis",
    ),
    "a group that is balanced twice": (lambda g: evolve(g, balances=g.balances * 2), "the balanced atom 'a0:8' is there more"),
    "a balance of one": (lambda g: evolve(g, balances=(Balance((a(g),), ""),)), "has less than two groups"),
    "a balance in another order": (
        lambda g: evolve(g, balances=(Balance(g.balances[0].atoms[::-1], ""),)),
        "in another order than that of their numbers",
    ),
    "a balance of what is pinned": (
        lambda g: evolve(g, balances=(Balance((a(g), pinned(g)), ""),)),
        "is no group",
    ),
    "two bounds of one group": (lambda g: evolve(g, lower_bounds=g.lower_bounds * 2), "the lower bounds are not in the order"),
    "a bound of 1": (lambda g: evolve(g, lower_bounds=(LowerBound(a(g), 1, ""),)), "met 1 of a0:8"),
    "a bound beyond": (lambda g: evolve(g, lower_bounds=(LowerBound(a(g), 9, ""),)), "met 9 of a0:8"),
    "a bound of what is pinned": (lambda g: evolve(g, lower_bounds=(LowerBound(pinned(g), 2, ""),)), "is no group"),
}


def test_a_sound_graph_has_no_problem(sound):
    assert check(sound) == ()


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_wrong_is_told_and_no_file_brings_it_in(sound, name):
    """Each damaged graph, with a valid digest, is refused at load with its sentence."""
    damage, sentence = DAMAGED[name]
    graph = damage(sound)
    assert any(sentence in problem for problem in check(graph)), check(graph)
    with pytest.raises(dg.errors.DocumentError, match="does not hold a valid graph"):
        codec.loads(codec.dumps("graph", graph), "graph", dg.Graph, check=check)


def test_words_of_a_file_are_those_of_the_vocabulary(sound):
    """Another kind of tensor, or another mode, is refused by the types of the fields."""
    for field, word in (("mode", "dreamt"), ("kind", "weight")):
        content = json.loads(codec.dumps("graph", sound))["content"]
        place = content if field == "mode" else content["tensors"][0]
        place[field] = word
        document = {"format": "depgraph.graph", "version": 1, "digest": codec._digest(content), "content": content}
        with pytest.raises(dg.errors.DocumentError, match="does not hold a valid graph"):
            codec.loads(json.dumps(document), "graph", dg.Graph, check=check)


def test_load_checks(sound, tmp_path):
    """`Graph.load` asks, too."""
    sound.save(tmp_path / "sound.json")
    assert dg.Graph.load(tmp_path / "sound.json") == sound
    evolve(sound, balances=sound.balances * 2).save(tmp_path / "damaged.json")
    with pytest.raises(dg.errors.DocumentError, match="the balanced atom 'a0:8' is there more than once"):
        dg.Graph.load(tmp_path / "damaged.json")


@given(st.data())
@settings(max_examples=25)
def test_every_graph_that_is_made_is_sound(data):
    """A traced one, and what a plan makes of it, down to single indices."""
    graph = dg.trace(data.draw(modules()), torch.zeros(2, 3, 4, 4))
    assert check(graph) == ()
    assert check(data.draw(plans(graph, elements=True)).apply(graph)) == ()
