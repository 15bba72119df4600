"""Damaged documents with a valid digest, and the law that no such document does more to a model than slice and count."""

from __future__ import annotations

import copy
import json
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import torch
import torch.utils.data
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import codec
from depgraph.errors import DepgraphError, DocumentError, MismatchError
from depgraph.graph.checking import check as graph_problems
from depgraph.plans import plan_files

SECRET = 7
LIMITS = {"max": 7}
SECONDS = 10.0
"""No document of these sizes takes so long, on a busy machine either."""


@dataclass
class Settings:
    """A config object of the model's."""

    width: int = 8
    limit: float = 1.0
    names: tuple = ("a", "b")


class Victim(nn.Module):
    """Heads, halves laid end to end, an axis read backwards, a tied weight; sizes in configs, lists and dicts; and baits."""

    FLAGS = {"safe": 4}  # noqa: RUF012  one for all instances: a bait

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(20, 5)
        self.q, self.k, self.v = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(6, 12)
        self.tied = nn.Linear(6, 8)
        self.tied.weight = self.first.weight
        self.heads, self.head_width, self.settings = 3, 4, Settings()
        self.sizes, self.table, self.shape = [8, {"inner": 8}], {"wide": 8, 3: 8}, (8, 1)
        self.other = SimpleNamespace(deep=[(8, 2)], owner=None)
        self.others = [self.other, nn.Linear(2, 2), self.q.weight]
        self.drop = nn.Dropout(0.0)

    def helper(self, number=3, *, flag=5):
        return number, flag

    @property
    def bait(self):
        raise AssertionError("a property was run")

    @bait.setter
    def bait(self, value):
        raise AssertionError("a property's setter was run")

    def forward(self, x):
        y = torch.relu(self.norm(self.first(x)) + self.tied(x)).view(-1, self.settings.width).view(-1, self.sizes[1]["inner"])
        q, k, v = (layer(x).view(-1, self.heads, self.head_width).transpose(0, 1) for layer in (self.q, self.k, self.v))
        z = (q @ k.mT @ v).transpose(0, 1).flatten(1)
        return self.last(torch.cat([y.flip(-1), z], -1))


@cache
def victim():
    """A victim whose every element tells where it is from. Copy it before it is written to."""
    torch.manual_seed(0)
    model, number = Victim().eval(), 1
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.arange(number, number + tensor.numel()).view(tensor.shape))
    return model


@cache
def graph():
    """Its graph."""
    return dg.trace(victim(), torch.ones(2, 6))


@cache
def made_plans():
    """Plans: by ratio, down to one index, ragged, by hand, empty, edited."""
    model = victim()
    scores = dg.score(graph(), model, dg.criteria.Random(0))
    made = [dg.plan(graph(), scores, ratio=ratio) for ratio in (0.3, 0.5, 0.99)]
    made.append(dg.cut(graph(), "first.weight", [1, 2, 5], dim=0))
    made.append(dg.plan(graph(), scores, params=0.8))
    ragged = dg.ragged.ragged_groups(graph())
    made.append(dg.cut_each(graph(), {name: [[0, 1], [1, 2], [0, 3]] for name in ragged}))
    made.append(dg.Plan.empty(graph()))
    made.append(made[0].edit("table.wide", 5).edit("last.out_features", 2, old=5))
    assert all(plan.unread for plan in made[:3]) and made[-1].added
    assert any(cut.base is not None for plan in made for cut in plan.cuts) and any(plan.renumbered for plan in made)
    return made


@cache
def seeds():
    """Valid contents of plan documents."""
    return [codec.content_of(plan_files.PlanContent.of(plan)) for plan in made_plans()]


@cache
def old_seeds():
    """The same in version 1."""
    return [codec.content_of(plan) for plan in made_plans()]


@cache
def graph_seeds():
    """Valid contents of graph documents: the victim's, and what a plan makes of it."""
    scores = dg.score(graph(), victim(), dg.criteria.Random(0))
    both = graph(), dg.plan(graph(), scores, ratio=0.99).apply(graph())
    return [json.loads(codec.dumps("graph", item))["content"] for item in both]


PATHS = [
    "forward.__globals__.SECRET", "forward.__globals__.LIMITS.max", "helper.__func__.__defaults__.0", "SECRET",
    "helper.__func__.__kwdefaults__.flag", "__class__.FLAGS.safe", "FLAGS.safe", "bait", "training", "drop.p", "norm.affine",
    "forward.__globals__.subprocess.PIPE", "norm._buffers.num_batches_tracked", "norm.num_batches_tracked", "_modules.first",
    "first.weight", "first.weight.shape.0", "first.weight.grad", "_parameters", "norm.eps", "norm.momentum", "sizes.abc",
    "sizes.-1", "sizes.00", "sizes.1.inner", "table.3", "table.wide", "shape.0", "shape.1", "other.deep.0.0", "other.deep.0.1",
    "others.0.deep.0.0", "others.1.in_features", "others.2.shape.0", "settings.limit", "settings.width", "settings.names.0",
    "settings.__dict__.width", "settings.__class__.width", "settings.__dataclass_fields__.width", "heads", "head_width",
    "first.in_features", "first.out_features", "q.out_features", "last.in_features", "_forward_hooks", "_version", "",
    ".", "a..b", "first..out_features", "first.out_features.", "0", "first.forward", "first.forward.__func__", "\ud800",
    "first.out_features.__class__", "first.out_features.real", "first.out_features.numerator", "x" * 5000, "a." * 3000,
]  # fmt: skip
"""Where an edit might lead: baits, plain sizes, and what is no path."""


def _redraw(draw, content):
    """Another graph: records are left out or doubled, names and sizes exchanged."""
    kind = draw(st.sampled_from(["drop", "double", "size", "number", "input", "path", "kind", "exchange", "bound", "term"]))
    items = content[draw(st.sampled_from(["operations", "tensors", "attributes", "pinned_atoms", "balances"]))]
    place = draw(st.integers(0, max(len(items) - 1, 0)))
    atom = draw(st.sampled_from([[0, 8], [3, 3], [4, 4], [5, 4], [1, 6], [2, 2]]))
    tensor = draw(st.sampled_from(content["tensors"]))
    if kind == "drop" and items:
        del items[place]
    elif kind == "double" and items:
        items.insert(place, copy.deepcopy(items[place]))
    elif kind == "size":
        _everywhere(content, atom, [atom[0], draw(st.sampled_from([0, 1, 2, 5, 40, 2**40, -3]))])
    elif kind == "number":
        _everywhere(content, atom, [draw(st.integers(-1, 9)), atom[1]])
    elif kind == "term":
        _everywhere(content, atom, draw(st.sampled_from(SPACES)))
    elif kind == "input":
        operation = draw(st.sampled_from(content["operations"]))
        operation[draw(st.sampled_from(["inputs", "outputs"]))] = [tensor["name"], *operation["inputs"][1:]]
    elif kind == "path" and content["attributes"]:
        draw(st.sampled_from(content["attributes"]))["path"] = draw(st.sampled_from(PATHS))
    elif kind == "kind":
        tensor["kind"] = draw(st.sampled_from(["parameter", "buffer", "value", "other"]))
    elif kind == "exchange":
        tensor["axes"] = copy.deepcopy(draw(st.sampled_from(content["tensors"]))["axes"])
    elif kind == "bound":
        content["lower_bounds"] = [{"atom": atom, "size": draw(st.integers(-1, 9)), "reason": "it says so"}]


PLAIN_SIZES = {
    "first.in_features": 6, "first.out_features": 8, "q.out_features": 12, "last.out_features": 5, "heads": 3, "head_width": 4,
    "settings.width": 8, "sizes.0": 8, "sizes.1.inner": 8, "table.wide": 8, "table.3": 8, "shape.0": 8, "other.deep.0.0": 8,
    "other.deep.0.1": 2, "others.0.deep.0.0": 8,
}  # fmt: skip
"""What the attributes of the victim hold that an edit can write."""

BAITS = {
    "forward.__globals__.SECRET": 7, "forward.__globals__.LIMITS.max": 7, "helper.__func__.__defaults__.0": 3, "bait": 3,
    "helper.__func__.__kwdefaults__.flag": 5, "__class__.FLAGS.safe": 4, "FLAGS.safe": 4, "settings.__class__.width": 8,
    "settings.__dict__.width": 8, "others.1.in_features": 2, "others.2.shape.0": 12, "first.weight.shape.0": 8,
    "first.out_features.numerator": 8, "first.__class__.__dict__.out_features": 8,
}  # fmt: skip
"""Integers that it holds, or that can be reached from it, and that no edit can write."""

NUMBERS = [0, 1, -1, 2, 3, 4, 5, 7, 8, 9, 12, 20, -8, 99, 2**31, 2**48, 2**48 + 1, 2**63, 2**64, 10**30, -(10**30), 10**4000]
INDICES = [
    "",
    "0",
    "1",
    "0-7",
    "0-8",
    "8",
    "0-99",
    "1-3,5",
    "5,1",
    "0-999999999999",
    "-1",
    "1,9,18",
    "0-3",
    "a",
    "1-",
    "0,2,4,6",
    "bits:",
    "bits:Ig==",
    "bits:Iv8=",
    "bits://///w==",
    "bits:AAAA",
    "bits:I g=",
    "bits:" + "q" * 4000,
]
SPACES = [
    1, 2, [0, 8], [1, 2], [0, -8], [0, 0], [0, 1], [-1, 8], [0, 2**48], [10**30, 8], [0], [0, 8, 8], [0, True], {"sum": []},
    {"product": []}, {"reversed": [0, 8]}, {"reversed": {"reversed": [0, 8]}}, {"reversed": {"product": [[0, 2], [1, 4]]}},
    {"product": [[0, 2], [1, 4]]}, {"product": [[0, -2], [1, -4]]}, {"product": [[k, 2] for k in range(28)]}, {"sum": "ab"},
    {"product": [[k, 2] for k in range(3)]}, {"sum": [[0, 4], [1, 4]]}, {"sum": [1] * 8}, {"sum": [[0, 7], 1]}, {"product": 3},
    {"product": [[0, 2**40], [1, 2**40]]}, {"product": [[0, 2**40], [1, 2**40], [2, 0]]},
    {"product": [{"sum": [[0, 2], 1]}, 8]},
]  # fmt: skip
JUNK = [None, True, False, [], {}, "", 0.5, float("nan"), float("inf"), -0.0, [[]], {"a": 1}, "plan", "parameter", "value"]


def _deep(levels):
    space = [0, 8]
    for level in range(levels):
        space = {"sum": [space, 1]} if level % 2 else {"product": [[level + 9, 2], space]}
    return space


@st.composite
def documents(draw, contents):
    """A content that says something else in the words of a plan, or has places of its tree changed, or both."""
    content = copy.deepcopy(draw(st.sampled_from(contents)))
    if draw(st.integers(0, 3)):
        for _ in range(draw(st.integers(1, 3))):
            (_reword if "cuts" in content else _redraw)(draw, content)
        _reorder(content)
        if draw(st.integers(0, 3)):
            return content
    for _ in range(draw(st.integers(1, 4))):
        _change(draw, content)
    if draw(st.booleans()):
        _reorder(content)
    return content


def _reword(draw, content):
    """Another plan: most of these are sound by themselves, and so come to the model and the graph."""
    cuts, axes = content["cuts"], content["axes"]
    kinds = ["set", "set", "drop axis", "drop edit", "drop cut", "edit", "added", "size", "tensor", "dim", "result"]
    kind = draw(st.sampled_from(kinds))
    if kind == "set" and cuts:
        cut = draw(st.sampled_from(cuts))
        size = cut["atom"][1]
        indices = st.sets(st.integers(0, size - 1), min_size=1, max_size=size - 1)
        if cut.get("base"):
            rows, count = cut["base"][1], draw(st.integers(1, size - 1))
            sets = [draw(st.permutations(range(size)))[:count] for _ in range(rows)]
            cut["removed"] = str(dg.IndexSet.of(row * size + index for row, chosen in enumerate(sets) for index in chosen))
        else:
            cut["removed"] = str(dg.IndexSet.of(draw(indices)))
    elif kind == "drop cut" and cuts:
        del cuts[draw(st.integers(0, len(cuts) - 1))]
    elif kind == "result":
        content["result"] = draw(st.sampled_from(["a" * 64, content["base"]]))
    elif any("dim" in axis for axis in axes):
        _reword_old(draw, content, kind)
    else:
        _reword_new(draw, content, kind)


def _reword_old(draw, content, kind):
    """Axes and edits as version 1 has them."""
    axes, edits = content["axes"], content["edits"]
    if kind == "drop axis" and axes:
        del axes[draw(st.integers(0, len(axes) - 1))]
    elif kind == "drop edit" and edits:
        del edits[draw(st.integers(0, len(edits) - 1))]
    elif kind == "edit":
        path, old, new = draw(_edits())
        edits.append({"path": path, "old": old, "new": new})
    elif kind == "added" and edits:
        content["added"] = [draw(st.sampled_from(edits))["path"]]
    elif kind == "size" and edits:
        edit = draw(st.sampled_from(edits))
        edit["new"] = draw(st.integers(1, edit["old"] - 1))
    elif kind == "tensor" and axes:
        draw(st.sampled_from(axes))["tensor"] = draw(st.sampled_from([*victim().state_dict(), "nothing"]))
    elif kind == "dim" and axes:
        draw(st.sampled_from(axes))["dim"] = draw(st.integers(0, 2))


def _reword_new(draw, content, kind):
    """Axes and edits as version 2 has them."""
    axes, edits = content["axes"], content["edits"]
    names = draw(st.sampled_from(axes))["of"] if axes else []
    place = draw(st.integers(0, max(len(names) - 1, 0)))
    if kind == "drop axis" and names:
        del names[place]
        content["axes"] = [line for line in axes if line["of"]]
    elif kind == "drop edit" and edits:
        del edits[draw(st.integers(0, len(edits) - 1))]
    elif kind == "edit":
        edits.append(draw(_edits()))
    elif kind == "added" and edits:
        content.setdefault("added", []).append(edits.pop(draw(st.integers(0, len(edits) - 1))))
    elif kind == "size" and edits:
        edit = draw(st.sampled_from(edits))
        edit[2] = draw(st.integers(1, edit[1] - 1))
    elif kind == "tensor" and names:
        names[place] = f"{draw(st.sampled_from([*victim().state_dict(), 'nothing']))}:{names[place].rpartition(':')[2]}"
    elif kind == "dim" and names:
        names[place] = f"{names[place].rpartition(':')[0]}:{draw(st.integers(0, 2))}"


@st.composite
def _edits(draw):
    path, old = draw(st.sampled_from(sorted(draw(st.sampled_from([PLAIN_SIZES, BAITS, dict.fromkeys(PATHS, 8)])).items())))
    return [path, old, draw(st.integers(1, max(old - 1, 1)))]


def _change(draw, content):
    """One change at a place that is drawn, not of the root."""
    key = draw(st.sampled_from(sorted(content)))
    holder = content
    while isinstance(holder[key], (list, dict)) and holder[key] and draw(st.integers(0, 5)):
        holder = holder[key]
        key = draw(st.sampled_from(sorted(holder)) if isinstance(holder, dict) else st.integers(0, len(holder) - 1))
    kind = draw(st.sampled_from(["replace", "replace", "nudge", "delete", "duplicate", "insert", "move", "edit", "alike"]))
    value = holder[key]
    if kind == "nudge" and type(value) is int:
        holder[key] = draw(st.sampled_from([value + 1, value - 1, 2 * value, -value, value // 2]))
    elif kind == "delete":
        del holder[key]
    elif kind == "duplicate" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    elif kind == "insert" and isinstance(holder, list):
        holder.insert(key, draw(_values))
    elif kind == "insert":
        holder[draw(st.sampled_from(["extra", "__class__", "base", "removed", "drops", "added", "of"]))] = draw(_values)
    elif kind == "move":
        holder[key] = copy.deepcopy(_anywhere(draw, content))
    elif kind == "edit" and isinstance(content.get("edits"), list):
        old = draw(st.sampled_from([8, 8, 12, 20, 6, 3, 4, 2, 7, 1, 0]))
        new = draw(st.sampled_from([1, 2, 3, 5, old - 1, old, old + 1, 0, -old]))
        edit = {"path": draw(st.sampled_from(PATHS)), "old": old, "new": new}
        content["edits"].append(edit if "unread_attributes" in content else list(edit.values()))
    elif kind == "alike":  # what stands in one place for another everywhere: sizes and atoms stay consistent
        _everywhere(content, value, draw(_values))
    else:
        holder[key] = draw(_values)


_values = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(SPACES), st.sampled_from(PATHS), st.sampled_from(INDICES), st.sampled_from(JUNK),
    st.integers(0, 24).map(str), st.sampled_from([5, 40, 60, 200]).map(_deep),
).map(copy.deepcopy)  # fmt: skip


def _anywhere(draw, content):
    value = content
    while isinstance(value, (list, dict)) and value and draw(st.integers(0, 4)):
        value = draw(st.sampled_from(list(value.values()) if isinstance(value, dict) else value))
    return value if value is not content else 1


def _everywhere(content, old, new):
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        if type(value) is type(old) and value == old:
            content[key] = copy.deepcopy(new)
        elif isinstance(value, (list, dict)):
            _everywhere(value, old, new)


def _reorder(content):
    """Lists in the order that a plan has, where they can be sorted."""
    orders = {
        "cuts": lambda cut: cut["atom"][0],
        "axes": lambda axis: (axis["tensor"], axis["dim"]) if "dim" in axis else _order_of_line(axis),
        "edits": lambda edit: edit["path"] if isinstance(edit, dict) else edit[0],
        "added": lambda edit: edit if isinstance(edit, str) else edit[0],
        "unread_attributes": lambda attribute: attribute["path"],
        "unread": lambda attribute: attribute["path"],
        "tied": lambda names: names,
    }
    for name, order in orders.items():
        try:
            content[name].sort(key=order)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            continue  # the document is too damaged to be sorted


def _order_of_line(line):
    """The names of a line in their order, and the line's own place."""
    line["of"].sort(key=lambda name: (name.rpartition(":")[0], int(name.rpartition(":")[2])))
    return plan_files.order_of(codec.space_of(line["space"]))


def text_of(kind, content, version=1):
    """A document with a valid digest."""
    document = {"format": f"depgraph.{kind}", "version": version, "digest": codec._digest(content), "content": content}
    return json.dumps(document)


@dataclass
class Tally:
    """How documents fared."""

    outcomes: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    longest: int = 0

    def refused(self, where, error, most):
        """Count a refusal, whose message is a short one."""
        assert len(str(error)) < most, f"a message of {len(str(error))} characters"
        self.longest = max(self.longest, len(str(error)))
        self.outcomes[where] += 1


def judge_old_plan(content, tally):
    """The law for a content of version 1."""
    judge_plan(content, tally, version=1)


def judge_plan(content, tally, version=plan_files.VERSION):
    """The law. A plan file is refused, at load or before anything is written, or takes indices and makes sizes smaller."""
    start, process = time.process_time(), process_state()
    try:
        plan = plan_files.loads(text_of("plan", content, version))
        assert plan_files.loads(plan_files.dumps(plan)) == plan
        _judge_execution(plan, tally)
        _judge_applying(plan)
    except DocumentError as error:
        tally.refused("refused at load", error, 4_000)
    finally:
        assert process_state() == process, "something else in the process has changed"
    _in_time(start, tally)


def judge_graph(content, tally):
    """A graph file is refused, or what it holds is a graph: it saves as it was, and plans made on it obey the law of plans."""
    start, process = time.process_time(), process_state()
    try:
        loaded = codec.loads(text_of("graph", content), "graph", dg.Graph, check=graph_problems)
        assert codec.loads(codec.dumps("graph", loaded), "graph", dg.Graph) == loaded and len(loaded.fingerprint) == 64
        tally.outcomes["loaded"] += 1
        for group in [group for group in loaded.groups if group.size < 10_000][:3]:
            try:
                plan = dg.plans.plan_of(loaded, {group.atom: dg.IndexSet.of([0])})
                plan.apply(loaded)
            except DepgraphError as error:
                tally.refused("groups refused by a plan", error, 10_000)
                continue
            assert plan.problems == ()
            _judge_execution(plan, Tally())
    except DocumentError as error:
        tally.refused("refused at load", error, 4_000)
    finally:
        assert process_state() == process, "something else in the process has changed"
    _in_time(start, tally)


def _in_time(start, tally):
    seconds = time.process_time() - start
    assert seconds < SECONDS, f"{seconds:.1f} seconds"
    tally.slowest = max(tally.slowest, seconds)


def _judge_applying(plan):
    try:
        result = plan.apply(graph())
    except MismatchError as error:
        assert len(str(error)) < 10_000
    else:
        assert result.fingerprint == plan.result


def _judge_execution(plan, tally):
    model, before = victim(), model_state(victim())
    try:
        small = dg.execute(plan, model)
    except MismatchError as error:
        tally.refused("refused by execution", error, 10_000)
        for job in (dg.execute_, dg.mask, dg.mask_, _carried):
            try:
                job(plan, model)
            except MismatchError:
                continue
            raise AssertionError(f"{job.__name__} took what execute refused") from None
        assert model_state(model) == before, "a refused plan has changed the model"
        return
    assert model_state(model) == before, "execute has changed the given model"
    assert_only_less(model, small)
    in_place = copy.deepcopy(model)
    optimizer = torch.optim.SGD(in_place.parameters())
    dg.optimizers.carry_optimizer_(plan, in_place, optimizer, dg.execute_(plan, in_place))
    assert model_state(in_place) == model_state(small), "in place something else comes out"
    held = {id(parameter) for parameter in in_place.parameters()}
    assert {id(parameter) for parameter in optimizer.param_groups[0]["params"]} == held, "the optimizer trains something else"
    for name, tensor in small.state_dict().items():
        assert torch.equal(dg.teacher_view(plan, name, model.state_dict()[name]), tensor), "the teacher shows something else"
    dg.mask(plan, model)
    assert model_state(model) == before, "mask has changed the given model"
    _carried(plan, model)
    tally.outcomes["executed"] += 1


def _carried(plan, model):
    return dg.optimizers.carry_state(plan, model, torch.optim.SGD(model.parameters()))


def model_state(model):
    """All that a module tree holds, as comparable data: tensors by their elements, plain data by its type and value."""
    return [(name, type(module).__name__, _plain(module.__dict__, {})) for name, module in model.named_modules()]


def _plain(value, seen):
    if isinstance(value, torch.Tensor):
        return "tensor", value.shape, value.requires_grad, value.tolist()
    if isinstance(value, nn.Module):
        return "module", type(value).__name__
    if id(value) in seen:
        return "again"
    if isinstance(value, dict):
        return type(value).__name__, [(key, _plain(item, seen | {id(value): value})) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [_plain(item, seen | {id(value): value}) for item in value]
    if isinstance(value, (Settings, SimpleNamespace)):
        return type(value).__name__, _plain(vars(value), seen)
    return type(value).__name__, repr(value)


def process_state():
    """What a hostile path might reach beside the model."""
    statics = {name: id(value) for owner in (Victim, nn.Module, nn.Linear, Settings) for name, value in vars(owner).items()}
    return (
        SECRET, dict(LIMITS), dict(Victim.FLAGS), Victim.helper.__defaults__, dict(Victim.helper.__kwdefaults__), statics,
        subprocess.PIPE, Settings.width, torch.is_grad_enabled(), torch.get_default_dtype(), len(globals()),
    )  # fmt: skip


def assert_only_less(before, after):
    """One model is the other without some indices, and with smaller integers of at least 1; nothing else differs."""
    names = [name for name, _ in before.named_modules()]
    assert names == [name for name, _ in after.named_modules()], "other modules"
    for name in names:
        _less(name, before.get_submodule(name).__dict__, after.get_submodule(name).__dict__)


def _less(where, old, new):
    assert type(old) is type(new), f"{where}: a {type(old).__name__} became a {type(new).__name__}"
    if isinstance(old, torch.Tensor):
        _fewer(where, old, new)
    elif type(old) is int:
        assert new == old or 1 <= new < old, f"{where}: {old} became {new}"
    elif isinstance(old, dict):
        assert list(old) == list(new), f"{where}: other keys"
        for key in old:
            _less(f"{where}.{key}", old[key], new[key])
    elif isinstance(old, (list, tuple)):
        assert len(old) == len(new), f"{where}: another length"
        for place, (ours, theirs) in enumerate(zip(old, new, strict=True)):
            _less(f"{where}.{place}", ours, theirs)
    elif isinstance(old, (Settings, SimpleNamespace)):
        _less(where, vars(old), vars(new))
    elif not isinstance(old, nn.Module):
        assert repr(old) == repr(new), f"{where}: {old!r} became {new!r}"


def _fewer(where, old, new):
    """Each element is one of the old ones, and those of one index of an axis are from one index, in the old order."""
    assert old.ndim == new.ndim and old.dtype == new.dtype and old.requires_grad == new.requires_grad, f"{where}: another kind"
    assert all(1 <= less <= size for less, size in zip(new.shape, old.shape, strict=True)), f"{where}: {tuple(new.shape)}"
    if not old.is_floating_point() or not old.ndim:
        assert torch.equal(old, new), where
        return
    places = (new.detach() - old.detach().flatten()[0]).round().long()
    for dim, index in enumerate(torch.unravel_index(places, old.shape)):
        lines = index.movedim(dim, 0).reshape(new.shape[dim], -1)
        assert (lines == lines[:, :1]).all(), f"{where}: dimension {dim} is no selection"
        assert (lines[1:, 0] > lines[:-1, 0]).all(), f"{where}: dimension {dim} is in another order"
