"""What would free a pinned axis: each sentence that pins one, wherever it is made, is of a kind that says so."""

import ast
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.reporting.freeing import INSIDE, KINDS, OWN_RULE, kind_of, way_out
from depgraph.testing import modules
from tests.laws.refuting import refuted

ROOT = Path(dg.__file__).parent
SOLVING = ("assembly", "balances", "choices", "interface", "sizes", "unification")
MADE_IN = [
    *(ROOT / "rules").glob("*.py"),
    *(ROOT / f"solving/{name}.py" for name in SOLVING),
    ROOT / "tracing/session.py",
    ROOT / "graph/groups.py",
]

OTHER = {
    # how a reason and its place, or another one, are put together
    "{} ({})", "{}: {}", "{} in {} at {}", "{} at {}", "at {}", "a comparison at {}", "an attribute", "a repetition",
    "an unknown line", "a layer of torch",
    # bounds, multiples and balances: they limit how many go, and pin nothing
    "{} takes the first {} of it", "{} takes rows of a multiple of {} bytes", "{} needs equal parts", "{} counts all of them",
    "{} needs queries and values of the same width", "{} ends behind it", "{} takes the sizes of another tensor",
    "{} drops axes of size 1", "{} sums over it before the product", "{} projects to fewer units than the hidden ones",
    "{} multiplies element by element where nothing is left to sum over", "the same ids look up both tables",
    # numbers that stand for ids
    "it is the padding of {}", "its name says that it is an id", "forward compares ids with {} ({})",
    "forward computes with {} in another way, too ({})",
    # what solving comes to
    "it holds, or an attribute was solved for", "something was pinned or balanced", "more must be known first",
    # what is wrong with `free=`
    "'vocabulary': forward looks up no numbers of an input in a parameter", "{}: there are several, {}; name one", "\n  - {}",
    "{}: no input, output or vocabulary has this name; did you mean {}?",
    "{}: write a name and a dimension, such as 'output:-1', 'input:1', or 'vocabulary'",
    "{}: {} has {} dimensions, {} is not one of them",
    "{}: {} is looked up along dimension 0; its others are no part of the interface",
    # why no other module can take a module's place
    "it returns a {}", "it returns a tensor that no operator of forward made",
    # in which module forward keeps what elements of a list give
    "the model",
    # how groups and coverage are shown
    "\n  {} pinned: {}", ", at least {} stay", ", in multiples of {}", "{} ({} indices{}, {} axes)", "{} dim {}: {}",
    "{} of {} parameters ({}) lie in groups{}",
}  # fmt: skip
"""Sentences that pin nothing."""


def template(node):
    """A text of the source, with ``{}`` for what is filled in; None for another node."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def sentences(source):
    """The sentences of a source: texts of several words but docstrings, messages of errors and lists of operators."""
    tree, left_out = ast.parse(source), set()
    for node in ast.walk(tree):
        parts = ()
        if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr)):
            parts = (part for child in ast.iter_child_nodes(node) for part in ast.walk(child))
        elif isinstance(node, ast.Expr) and template(node.value) is not None:
            parts = (node.value,)
        left_out.update(id(part) for part in parts)
    found = {template(node) for node in ast.walk(tree) if id(node) not in left_out} - {None}
    return {text for text in found if len(text.split()) > 1 and not all(is_operator(word) for word in text.split())}


def is_operator(word):
    return word == "{}" or any(f"aten.{prefix}{word}" in dg.RULES for prefix in ("", "_foreach_"))


def are_explained(found):
    """Every sentence that pins is of a kind, and every sentence of a kind is one that pins."""
    assert not [text for text in sorted(found) if kind_of(text.replace("{}", "[any]")) is None]
    of_kinds = {text for kind in KINDS for text in kind.sentences} - {*INSIDE}
    assert not [text for text in sorted(of_kinds) if not any(is_said_by(text, other) for other in found)]


def is_said_by(sentence, text):
    """A sentence of a kind is the source's text, without the place behind it; or says what is filled in."""
    return sentence in (text, text.partition(" (")[0], text.replace("({}: {})", "({})"), text.replace("{}", "input{}"))


def found_sentences():
    return set().union(*(sentences(path.read_text(encoding="utf-8")) for path in MADE_IN)) - OTHER


def test_every_sentence_that_pins_is_of_a_kind():
    """Read off the source: a new sentence, and one that is no longer said, are seen here."""
    found = found_sentences()
    assert len(found) > 100
    are_explained(found)
    refuted(are_explained, found | {"{} likes it as it is"})
    refuted(are_explained, found - {"it is a kernel axis of {}"})
    stale = OTHER - set().union(*(sentences(path.read_text(encoding="utf-8")) for path in MADE_IN))
    assert not stale


def test_sentences_are_read_off_the_source():
    """Docstrings, messages of errors and lists of operators are no sentences; parts that are filled in are."""
    source = '''
"""A docstring of a module."""
RULES = family("add mul", one) | table("relu gelu", "{} says this")
def rule(call):
    """A docstring."""
    if not call:
        raise ValueError(f"no {call} here")
    yield Pin(call.out[0], f"it is {call.op} that says so")
'''
    assert sentences(source) == {"{} says this", "it is {} that says so"}


def is_of_a_kind(graph):
    assert all(way_out(pinned.reason) != OWN_RULE for pinned in graph.pinned)


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_every_pinned_axis_says_what_would_free_it(data):
    is_of_a_kind(dg.trace(data.draw(modules()), torch.zeros(2, 3, 4, 4)))


def test_a_rule_of_ones_own_says_why_in_its_own_words():
    """Its sentence is no sentence of the package: what would free the axis is another rule."""

    def equations(call):
        yield from dg.RULES["aten.linear"].equations(call)
        yield dg.rules.Pin(call.out[1], "the next stage reads these by number")

    rule = dg.Rule(equations)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    graph = dg.trace(model, torch.zeros(1, 3), rules=dg.RULES | {"aten.linear": rule})
    assert way_out(graph.why_pinned(graph.axis("0.weight", 0))) == OWN_RULE
    refuted(is_of_a_kind, graph)


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("it is a dimension of the model's input[0]", "whoever calls the model"),
        ("it is a dimension of the model's output['logits']", "ends earlier"),
        (
            "it must keep the size of a pinned axis: it is a kernel axis of aten.conv2d (aten.conv2d in stem at a.py:3)",
            "kernel size",
        ),
        ("it is a vocabulary, and aten.add computes with its ids (in the model at a.py:3)", "nothing but lookups"),
        ("aten.select takes a fixed position of it (aten.select in the model at a.py:3)", "Compute the position"),
        ("aten.slice takes one of every 3 positions of a part that 3 does not divide evenly", "Compute the position"),
        ("it is named by the literal 5 (aten.view in the model at a.py:3)", "from x.shape"),
    ],
)
def test_what_would_free_an_axis(reason, part):
    assert part in way_out(reason)
