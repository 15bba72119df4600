"""Hand-written attacks with a valid digest: each is refused in few words, in no time, and nothing in the process changes."""

import copy
import json
import time
import tracemalloc

import attrs
import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import codec
from depgraph.execution import attributes
from depgraph.plans.plan import Edit
from tests import hostile

JOBS = {
    "execute": dg.execute,
    "execute_": dg.execute_,
    "mask": dg.mask,
    "mask_": dg.mask_,
    "carry_state": lambda plan, model: dg.optimizers.carry_state(plan, model, torch.optim.SGD(model.parameters())),
}


def content(edits=(), axes=(), cuts=()):
    """The content of a plan file for the victim."""
    base = hostile.graph().fingerprint
    return {
        "base": base,
        "result": "b" * 64 if cuts else base,
        "cuts": list(cuts),
        "axes": list(axes),
        "edits": [{"path": path, "old": old, "new": new} for path, old, new in edits],
        "renumbered": [],
        "renamed": [],
        "targets": [],
    }


def axis(tensor, dim, space):
    return {"tensor": tensor, "dim": dim, "space": space}


def cut(atom, removed, **more):
    return {"group": "first.weight:0", "atom": atom, "removed": removed, **more}


def of_first(*axes, removed="0", atom=(0, 8), **more):
    """Cuts of the first group, with axes of the first weight."""
    return content(axes=axes or [axis("first.weight", 0, [0, 8])], cuts=[cut(list(atom), removed, **more)])


WRITES = {
    "a global of the user's file": ("forward.__globals__.SECRET", 7, 6),
    "a dict in the user's file": ("forward.__globals__.LIMITS.max", 7, 6),
    "a global that grows": ("forward.__globals__.SECRET", 7, 666),
    "a default of a method": ("helper.__func__.__defaults__.0", 3, 1),
    "a keyword's default": ("helper.__func__.__kwdefaults__.flag", 5, 1),
    "a dict of the class": ("__class__.FLAGS.safe", 4, 1),
    "a dict of the class by its name": ("FLAGS.safe", 4, 1),
    "a constant of another module": ("forward.__globals__.subprocess.PIPE", 3, 1),
    "an attribute of torch's functions": ("forward.__globals__.torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 5, 1),
    "a truth value": ("training", 2, 1),
    "a truth value of a layer": ("norm.affine", 2, 1),
    "a float": ("drop.p", 2, 1),
    "a buffer in its registry": ("norm._buffers.num_batches_tracked", 2, 1),
    "a buffer": ("norm.num_batches_tracked", 2, 1),
    "a property": ("bait", 3, 2),
    "a size below zero": ("first.out_features", 8, -8),
    "a size of zero": ("first.out_features", 8, 0),
    "a size that grows": ("first.out_features", 8, 9),
    "a size that was another": ("first.out_features", 9, 8),
    "a word in a list": ("sizes.abc", 8, 2),
    "a place from the end": ("sizes.-2", 8, 2),
    "a place in another spelling": ("sizes.00", 8, 2),
    "a place in Arabic digits": ("sizes.\u0660", 8, 2),
    "a parameter": ("first.weight", 8, 2),
    "a parameter's shape": ("first.weight.shape.0", 8, 2),
    "a tensor's shape in a list": ("others.2.shape.0", 12, 2),
    "a module in a list": ("others.1.in_features", 2, 1),
    "the dict of a config": ("settings.__dict__.width", 8, 2),
    "a float of a config": ("settings.limit", 2, 1),
    "the class of a config": ("settings.__class__.width", 8, 2),
    "a class through a layer": ("first.__class__.__dict__.out_features", 8, 2),
    "a step below an integer": ("first.out_features.numerator", 8, 2),
    "no step": ("", 8, 2),
    "an empty step": ("first..out_features", 8, 2),
    "a step of a million": ("x" * 10**6, 8, 2),
    "a million steps": ("others." * 10**6 + "0", 8, 2),
}

TWOS = {"product": [[k + 1, 2] for k in range(28)]}
CUTS = {
    "a dimension from the end": of_first(axis("first.weight", -100, [0, 8])),
    "one axis by two names": of_first(axis("first.weight", -2, [0, 8]), axis("first.weight", 0, [0, 8])),
    "a dimension beyond": of_first(axis("first.weight", 2, [0, 8])),
    "a dimension of 2**63": of_first(axis("first.weight", 2**63, [0, 8])),
    "all that is there": of_first(removed="0-7"),
    "more than is there": of_first(removed="0-99"),
    "a million million indices": of_first(removed="0-999999999999"),
    "a product of 28 twos": of_first(axis("nothing", 0, {"product": [*TWOS["product"], [0, 8]]})),
    "a product of 28 twos in place of eight": of_first(axis("first.weight", 0, {"product": [*TWOS["product"], [0, 8]]})),
    "twenty products of 18 twos": of_first(
        *(axis(f"nothing {k:02}", 0, {"product": [[k + 1, 3], *TWOS["product"][:18], [0, 8]]}) for k in range(40, 60))
    ),
    "a product of 10,000 sizes": of_first(axis("first.weight", 0, {"product": [[k, 2**40] for k in range(10_000)]})),
    "a product with no elements": of_first(
        axis("first.weight", 0, {"product": [*([k, 2**30] for k in range(1, 2)), [77, 0], [0, 8]]})
    ),
    "a million million rows": of_first(atom=(1, 2), base=[0, 10**12]),
    "a million million rows that go": content(
        axes=[axis("q.weight", 0, {"product": [[0, 10**12], [1, 4]]})],
        cuts=[cut([0, 10**12], "2-999999999999"), {**cut([1, 4], "0,5", base=[0, 10**12]), "group": "q.weight:0[1]"}],
    ),
    "rows of no size": of_first(atom=(1, 0), base=[0, 2]),
    "sizes below zero that make eight": of_first(
        axis("first.weight", 0, {"product": [[0, -2], [1, -4]]}), atom=(1, -4)
    ),
    "another size": of_first(axis("first.weight", 0, [0, 9]), atom=(0, 9)),
    "no such tensor": of_first(axis("nothing", 0, [0, 8])),
    "a name of a million characters": of_first(axis("x" * 10**6, 0, [0, 8])),
    "a tied weight under one of its names": of_first(axis("first.weight", 0, [0, 8])),
    "a tied weight cut in two ways": content(
        axes=[axis("first.weight", 0, [0, 8]), axis("tied.weight", 0, [1, 8])],
        cuts=[cut([0, 8], "0"), {**cut([1, 8], "1"), "group": "tied.weight:0"}],
    ),
}  # fmt: skip

ATTACKS = {**{name: content(edits=[write]) for name, write in WRITES.items()}, **CUTS}
FITTING = {"a tied weight under one of its names", "a tied weight cut in two ways", "no such tensor", "another size"}
"""What is sound by itself, and refused by the model alone. So are most of the writes."""


def loaded(attack, check=None):
    return codec.loads(hostile.text_of("plan", attack), "plan", dg.Plan, check=check)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_at_load_or_by_every_job(name):
    """From a file, and as if the file had been taken for granted: execution believes no plan that was made in process."""
    model, start = copy.deepcopy(hostile.victim()), time.process_time()
    before, process = hostile.model_state(model), hostile.process_state()
    try:
        loaded(ATTACKS[name], check=lambda plan: plan.problems)
    except dg.errors.DocumentError as error:
        assert len(str(error)) < 4_000
        assert name not in FITTING
    try:
        plan = loaded(ATTACKS[name])
    except dg.errors.DocumentError:
        assert name == "a product of 10,000 sizes"  # the reader makes no numbers of a million digits
        return
    for job in JOBS.values():
        with pytest.raises(dg.errors.MismatchError, match=r"Nothing was changed\.$") as caught:
            job(plan, model)
        assert len(str(caught.value)) < 10_000
    with pytest.raises(dg.errors.MismatchError):
        plan.apply(hostile.graph())
    assert hostile.model_state(model) == before and hostile.process_state() == process
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", [name for name in CUTS if "million" in name or "product" in name])
def test_what_is_refused_takes_no_memory(name):
    """Sizes are compared with the model's tensors before anything is expanded by them."""
    text, model = hostile.text_of("plan", ATTACKS[name]), hostile.victim()
    tracemalloc.start()
    try:
        with pytest.raises((dg.errors.MismatchError, dg.errors.DocumentError)):
            dg.execute(codec.loads(text, "plan", dg.Plan), model)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000 + 50 * len(text)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("path", hostile.PLAIN_SIZES)
def test_plain_sizes_are_what_an_edit_can_write(path):
    """The other side: integers of modules, configs, lists, dicts and tuples; and nothing but those becomes smaller."""
    old = hostile.PLAIN_SIZES[path]
    model, plan = hostile.victim(), attrs.evolve(dg.Plan.empty(hostile.graph()), edits=(Edit(path, old, 1),))
    before = hostile.model_state(model)
    small = dg.execute(plan, model)
    hostile.assert_only_less(model, small)
    assert attributes.read(small, path) == 1 and attributes.read(model, path) == old
    assert hostile.model_state(model) == before != hostile.model_state(small)


def test_a_module_that_is_not_registered_is_not_entered():
    """It is no part of the model that PyTorch knows, whoever holds it."""
    with pytest.raises(LookupError):
        attributes.read(hostile.victim(), "others.1.in_features")


def test_everything_that_is_wrong_is_told_at_once():
    """Of the plan by itself and beside the model."""
    plan = loaded(content(edits=[("bait", 3, 4), ("first.out_features", 9, 3), ("nothing", 4, 2)]))
    with pytest.raises(dg.errors.MismatchError, match="the plan is damaged") as caught:
        dg.execute(plan, hostile.victim())
    told = "\n".join(caught.value.problems)
    sentences = (
        "the edit of 'bait' makes a size smaller",
        "no attribute 'bait'",
        "expected 9, met 8",
        "no attribute 'nothing'",
    )
    assert all(sentence in told for sentence in sentences)


def test_a_message_lists_the_first_of_many_problems():
    """A plan for another model may differ in thousands of places; `problems` has them all."""
    edits = [Edit(f"none.{k:04}", 8, 2) for k in range(1000)]
    with pytest.raises(dg.errors.MismatchError, match="and 960 more") as caught:
        dg.execute(attrs.evolve(dg.Plan.empty(hostile.graph()), edits=tuple(edits)), hostile.victim())
    assert len(caught.value.problems) == 1000 and len(str(caught.value)) < 10_000


class Described(nn.Module):
    """A class that answers for an attribute which its instances hold as well."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.__dict__["width"] = 4

    @property
    def width(self):
        raise AssertionError("a property was run")

    @width.setter
    def width(self, value):
        raise AssertionError("a property's setter was run")


def test_a_property_is_not_run_where_the_instance_holds_its_name():
    """The value in the instance is not what the attribute is."""
    plan = attrs.evolve(dg.Plan("a" * 64, "a" * 64), edits=(Edit("width", 4, 2),))
    for job in JOBS.values():
        with pytest.raises(dg.errors.MismatchError, match="no attribute 'width'"):
            job(plan, Described())


class Shared:
    """A configuration that is copied by reference."""

    def __init__(self):
        self.width = 8

    def __deepcopy__(self, memo):
        return self


SharedConfig = type("SharedConfig", (Shared,), {})


def test_a_config_that_copies_share_is_not_written_to_by_execute():
    """The given model stays as it is, or is told to be changed in place."""
    model = nn.Sequential(nn.Linear(4, 8))
    model.config = SharedConfig()
    plan = attrs.evolve(dg.Plan("a" * 64, "a" * 64), edits=(Edit("config.width", 8, 2),))
    with pytest.raises(dg.errors.MismatchError, match=r"'config.width': the copy shares it with the model\n.* execute_"):
        dg.execute(plan, model)
    assert model.config.width == 8
    dg.execute_(plan, model)
    assert model.config.width == 2


class Oddly(nn.Module):
    """Sizes under names that a path cannot say: they are read as they are, and what they count stays."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.table = {True: 8, "8": 8, 8: 8, "__wide__": 8, "a.b": 8, "plain": 8}

    def forward(self, x, key=None):
        return self.last(self.first(x).view(-1, self.table[self.key]))


@pytest.mark.parametrize("key", [True, 8, "__wide__", "a.b"])
def test_sizes_whose_names_no_path_can_say_are_pinned(key):
    """No plan is made that execution would refuse."""
    model = Oddly()
    model.key = key
    graph = dg.trace(model, torch.randn(1, 4))
    assert not graph.groups
    model.key = "plain"
    plan = dg.cut(dg.trace(model, torch.randn(1, 4)), "first.weight", [0], dim=0)
    assert [edit.path for edit in plan.edits if edit.path.startswith("table")] == ["table.plain"]
    assert dg.execute(plan, model)(torch.randn(1, 4)).shape == (1, 2)


@pytest.mark.parametrize("space", [1, {"product": [[0, 2], [1, 4]]}, {"reversed": [0, 8]}, {"sum": [[0, 4], [1, 4]]}])
def test_what_is_to_be_an_atom_is_one(space):
    """Every atom is a space; a field that holds an atom takes no other space."""
    with pytest.raises(dg.errors.DocumentError, match=r"expected one atom, got .* @ \$\.cuts\[0\]\.atom"):
        loaded(content(axes=[axis("first.weight", 0, [0, 8])], cuts=[cut(space, "0")]))


@pytest.mark.parametrize("value", ["first", {"first": 1}, 3])
def test_a_text_is_no_list(value):
    """The characters of a text are not taken for elements."""
    with pytest.raises(dg.errors.DocumentError, match=r"invalid value for type, expected tuple.* @ \$\.cuts"):
        loaded({**content(), "cuts": value})


def test_of_a_long_document_the_first_problem_is_told():
    """To tell each with its place would take longer than reading it."""
    many = content(edits=[("a", "b", "c")] * 100_000)
    start = time.process_time()
    with pytest.raises(dg.errors.DocumentError, match=r"expected int, got 'b' .*the first of its problems") as caught:
        loaded(many)
    assert len(str(caught.value)) < 4_000 and time.process_time() - start < 5


def test_documents_are_bounded(tmp_path, monkeypatch):
    """A file that is longer than any graph is not read to its end, a text not parsed."""
    monkeypatch.setattr(codec, "LONGEST", 1000)
    path = tmp_path / "plan.json"
    path.write_text(" " * 10**6)
    with pytest.raises(dg.errors.DocumentError, match="has more than 1,000 characters"):
        dg.Plan.load(path)
    with pytest.raises(dg.errors.DocumentError, match="has more than 1,000 characters"):
        codec.loads(" " * 1001, "plan", dg.Plan)


@pytest.mark.parametrize("levels", [60, 400, 3000])
def test_deep_spaces_are_refused_at_load(levels):
    """Whatever the depth: by the reader of spaces, or because Python itself reads no deeper."""
    space = "[0,8]"
    for level in range(levels):
        space = f'{{"sum":[{space},1]}}' if level % 2 else f'{{"product":[[{level + 9},2],{space}]}}'
    text = json.dumps({"format": "depgraph.plan", "version": 1, "digest": "0", "content": of_first()})
    text = text.replace('"space": [0, 8]', f'"space": {space}')
    try:
        text = text.replace('"digest": "0"', f'"digest": "{codec._digest(json.loads(text)["content"])}"')
    except RecursionError:
        assert levels == 3000
    with pytest.raises(dg.errors.DocumentError, match="nested") as caught:
        codec.loads(text, "plan", dg.Plan)
    assert len(str(caught.value)) < 1000
