"""Nothing of a trace stays behind: in containers of every kind, in hooks, in objects and modules that are held unregistered."""

import functools
import sys
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import depgraph as dg
from depgraph.tracing import session

X = torch.randn(3, 4)


@dataclass
class Data:
    x: object = None
    xs: list = field(default_factory=list)


@dataclass(slots=True)
class Slotted:
    x: object = None
    xs: list = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    xs: list = field(default_factory=list)


class Store:
    """An object of the user's own, which is passed to the traced forward as it is."""

    def __init__(self):
        self.last, self.all, self.by_name = None, [], {}

    def keep(self, x):
        self.last = x
        self.all.append([x])
        self.by_name.setdefault("x", {})["y"] = x


class Dict(dict):
    """A dictionary with a method of its own."""

    def keep(self, x):
        self["x"] = x


Pair = namedtuple("Pair", "left right")


def itself():
    """A list and a dictionary that hold each other."""
    content = {"list": []}
    content["list"].append(content)
    return content


CONTAINERS = {
    "dotted key": (lambda: {"layer.0": []}, lambda c, x: c["layer.0"].append(x)),
    "tuple key": (lambda: {(0, 1): []}, lambda c, x: c[0, 1].append(x)),
    "six deep": (lambda: [[[[[[]]]]]], lambda c, x: c[0][0][0][0][0].append(x)),
    "mixed": (lambda: [({"a.b": (deque([[]]),)},)], lambda c, x: c[0][0]["a.b"][0][0].append(x)),
    "OrderedDict": (OrderedDict, lambda c, x: c.update(k=x)),
    "defaultdict": (lambda: defaultdict(list), lambda c, x: c["k"].append(x)),
    "deque": (lambda: deque(maxlen=2), lambda c, x: c.append(x)),
    "deque of lists": (lambda: deque([[]]), lambda c, x: c[0].append(x)),
    "set": (set, lambda c, x: c.add(x)),
    "dataclass": (Data, lambda c, x: (setattr(c, "x", x), c.xs.append(x))),
    "slots": (Slotted, lambda c, x: (setattr(c, "x", x), c.xs.append(x))),
    "frozen": (Frozen, lambda c, x: c.xs.append(x)),
    "namespace": (lambda: SimpleNamespace(a=[]), lambda c, x: c.a.append(x)),
    "namedtuple": (lambda: Pair([], 3), lambda c, x: c.left.append(x)),
    "own dict": (lambda: Dict(xs=[]), lambda c, x: (c.keep(x), c["xs"].append(x))),
    "own object": (Store, lambda c, x: c.keep(x)),
    "UserDict": (lambda: UserDict(a=[]), lambda c, x: (c["a"].append(x), c.update(b=x))),
    "holds itself": (itself, lambda c, x: c["list"][0]["list"].append(x)),
    "closure": (lambda: (lambda kept: lambda x: kept.append(x))([]), lambda c, x: c(x)),
    "partial": (lambda: functools.partial(Store.keep, Store()), lambda c, x: c(x)),
    "bound method": (lambda: Store().keep, lambda c, x: c(x)),
}


def tensors_in(content, seen=None):
    """Every tensor that can be reached, by way of whatever the garbage collector would follow."""
    import gc

    seen = {} if seen is None else seen
    if id(content) in seen or isinstance(content, type) or type(content).__name__ in ("module", "frame", "dict_items"):
        return []
    seen[id(content)] = content
    if isinstance(content, torch.Tensor):
        return [content]
    skipped = (sys.modules, globals(), vars(torch))
    parts = [part for part in gc.get_referents(content) if not any(part is other for other in skipped)]
    return [tensor for part in parts for tensor in tensors_in(part, seen)]


class Touches(nn.Module):
    def __init__(self, container, touch, needs_data=False):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.container = container
        self.touch, self.needs_data = touch, needs_data

    def forward(self, x):
        h = self.a(x)
        if self.needs_data:
            h.sum().item()
        self.touch(self.container, h)
        return self.b(h)


@pytest.mark.parametrize("needs_data", [False, True], ids=["fake", "real"])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_what_forward_writes_into_containers_stays_out_of_the_model(kind, needs_data):
    """Of every kind, under every key and at every depth; what was in them is the very same as before."""
    make, touch = CONTAINERS[kind]
    model = Touches(make(), touch, needs_data)
    container = model.container
    graph = dg.trace(model, X)
    assert model.container is container and not tensors_in(container)
    assert graph.mode == ("real" if needs_data else "fake") and [group.name for group in graph.groups] == ["a.weight:0"]
    model(X)
    assert tensors_in(container), "the forward of the model itself does write"
    held = tensors_in(container)
    assert dg.trace(model, X) == graph
    after = tensors_in(container)
    assert len(after) == len(held) and all(one is other for one, other in zip(held, after, strict=True))


@pytest.mark.parametrize("key", ["layer.0", (0, 1), "plain", 3])
def test_tensors_in_containers_keep_their_numbers(key):
    model = Touches(OrderedDict({key: torch.zeros(2)}), lambda c, x: (c[key].add_(1), x.sum().item()))
    graph = dg.trace(model, X)
    assert graph.mode == "real" and model.container[key].tolist() == [0.0, 0.0] and model.container[key]._version == 0


def test_sizes_in_containers_are_edited_where_a_path_names_them():
    """At every depth of lists, ordered and default dictionaries, dataclasses; elsewhere they are literals, which pin."""

    class Reads(nn.Module):
        def __init__(self, sizes, read):
            super().__init__()
            self.a, self.b, self.sizes, self.read = nn.Linear(4, 8), nn.Linear(8, 2), sizes, read

        def forward(self, x):
            return self.b(self.a(x).view(-1, self.read(self.sizes)))

    for sizes, read, path in (
        ([[[[[8]]]]], lambda s: s[0][0][0][0][0], "sizes.0.0.0.0.0"),
        (OrderedDict(n=8), lambda s: s["n"], "sizes.n"),
        (defaultdict(int, n=8), lambda s: s["n"], "sizes.n"),
        (Data(8), lambda s: s.x, "sizes.x"),
        (Slotted(8), lambda s: s.x, None),
        ({"a.b": 8}, lambda s: s["a.b"], None),
        ({(0, 1): 8}, lambda s: s[0, 1], None),
        (deque([8]), lambda s: s[0], None),
        (Pair(8, 1), lambda s: s.left, None),
    ):
        model = Reads(sizes, read)
        graph = dg.trace(model, X)
        if path is None:
            assert not graph.groups
            continue
        plan = dg.cut(graph, "a.weight", [1], dim=0)
        edits = [(edit.path, edit.old, edit.new) for edit in plan.edits if edit.path.startswith("sizes")]
        assert edits == [(path, 8, 7)]
        small = dg.execute(plan, model)
        assert small(X).shape == (3, 2) and dg.trace(small, X) == plan.apply(graph) and read(model.sizes) == 8
        dg.execute_(plan, model)
        assert read(model.sizes) == 7 and type(model.sizes) is type(sizes)


@pytest.mark.parametrize("needs_data", [False, True], ids=["fake", "real"])
def test_modules_that_are_registered_nowhere_are_as_they_were(needs_data):
    """Batch norms in a plain list count batches, and a teacher keeps features: in a copy."""

    class Teacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.features = nn.BatchNorm1d(8), []

        def forward(self, x):
            self.features.append(x)
            return self.norm(x)

    model = Touches([Teacher()], lambda c, x: c[0](x), needs_data)
    (teacher,) = model.container
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    graph = dg.trace(model, X)
    assert model.container == [teacher] and teacher.features == []
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert graph.operations and dg.trace(model, X) == graph


def test_a_dictionary_by_module_finds_the_copies():
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.scales = {self.a: 2.0, self.b: 3.0}

        def forward(self, x):
            for layer in (self.a, self.b):
                x = layer(x) * self.scales[layer]
            return x

    model = Scales()
    assert len(dg.trace(model, X).groups) == 1 and list(model.scales) == [model.a, model.b]


KEPT, LAST = {}, None


def hooks():
    """What hooks of users do with what they are given: name to (the hook, what it can reach)."""
    inside, store, last, bound = {}, Store(), None, Store()

    def of_closure(module, args, out):
        inside.setdefault("features", []).append(out)

    def rebinds(module, args, out):
        nonlocal last
        last = out

    def of_globals(module, args, out):
        global LAST
        KEPT["features"] = out
        LAST = out

    def of_object(module, args, out):
        store.keep(out)

    class Features:
        def __init__(self):
            self.outputs = defaultdict(OrderedDict)

        def collect(self, name, module, args, out):
            self.outputs[name][module] = out.detach()

    features = Features()
    return {
        "closure": (of_closure, lambda: inside),
        "rebinds": (rebinds, lambda: last),
        "globals": (of_globals, lambda: (KEPT, LAST)),
        "object": (of_object, lambda: vars(store)),
        "bound": (lambda module, args, out: bound.keep(out), lambda: vars(bound)),
        "method": (
            functools.partial(features.collect, "a"),
            lambda: [list(part.values()) for part in features.outputs.values()],
        ),
        "module": (lambda module, args, out: setattr(module, "kept", out), lambda: None),
    }


@pytest.mark.parametrize("kind", hooks())
@pytest.mark.parametrize("needs_data", [False, True], ids=["fake", "real"])
def test_hooks_run_and_keep_no_tensor_of_the_trace(kind, needs_data):
    """What a hook of the user's kept before is there again: features of the last forward stay those of the last forward."""
    global LAST
    KEPT.clear()
    LAST = None
    hook, kept = hooks()[kind]
    model = Touches(None, lambda c, x: None, needs_data)
    model.a.register_forward_hook(hook)
    before = repr(kept())
    graph = dg.trace(model, X)
    assert repr(kept()) == before and not hasattr(model.a, "kept")
    model(X)
    after = tensors_in(kept()) if kind != "module" else [model.a.kept]
    assert after and not any(isinstance(tensor, FakeTensor) for tensor in after)
    held = repr(kept())
    assert dg.trace(model, X) == graph and repr(kept()) == held
    again = tensors_in(kept()) if kind != "module" else [model.a.kept]
    assert all(one is other for one, other in zip(after, again, strict=True))


def test_what_a_hook_counts_stays_counted():
    """Hooks do run: only tensors are taken back. A list without any is the user's own affair."""
    names = []
    model = Touches(None, lambda c, x: None)
    model.a.register_forward_hook(lambda module, args, out: names.append(type(module).__name__))
    dg.trace(model, X)
    assert names == ["Linear"]


def test_hooks_that_forward_reads_work_in_a_trace():
    """As in a network of features: forward returns what hooks of its layers have stored."""

    class Features:
        def __init__(self, modules):
            self.stored = {}
            for name, module in modules.items():
                module.register_forward_hook(functools.partial(self.store, name))

        def store(self, name, module, args, out):
            self.stored[name] = out

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.hooks = Features({"a": self.a, "b": self.b})

        def forward(self, x):
            self.b(self.a(x))
            return self.hooks.stored["a"], self.hooks.stored["b"]

    model = Net()
    graph = dg.trace(model, X)
    assert not graph.groups and model.hooks.stored == {} and "a.weight" in {pinned.tensor for pinned in graph.pinned}


def test_a_forward_that_fails_leaves_nothing_behind():
    kept = []

    def fails(container, x):
        raise ArithmeticError("forward's own")

    model = Touches([], fails)
    model.a.register_forward_hook(lambda module, args, out: kept.append(out))
    with pytest.raises(ArithmeticError):
        dg.trace(model, X)
    assert kept == []


def nested(count):
    model = nn.Linear(4, 4)
    for _ in range(count):
        model = nn.Sequential(model)
    return nn.Sequential(nn.Linear(4, 4), model)


NO_DEEP_CALLS = pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="no model of this depth runs: C calls are limited")


@pytest.mark.parametrize("count, limit", [pytest.param(1000, 4500, marks=NO_DEEP_CALLS), (200, None)])
def test_what_is_nested_deeply_is_traced_where_it_runs(count, limit):
    """Python's limit of frames is raised by what a trace adds to each module, and is afterwards as it was."""
    before = sys.getrecursionlimit()
    model = nested(count)
    try:
        if limit:
            sys.setrecursionlimit(limit)
        now = sys.getrecursionlimit()
        model(X)
        graph = dg.trace(model, X)
        assert sys.getrecursionlimit() == now
        plan = dg.cut(graph, "0.weight", [1], dim=0)
        small, masked = dg.execute(plan, model), dg.mask(plan, model)
        assert small(X).shape == (3, 4) and torch.allclose(small(X), masked(X), atol=1e-5)
        assert dg.trace(small, X) == plan.apply(graph)
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize("holders", range(4))
def test_references_are_those_of_the_count_and_of_the_holders(holders):
    """However many the count makes itself in this version of Python: with none elsewhere, nothing seems to hold a result."""
    table = [(torch.zeros(1), None)]
    held = [table[0][0]] * holders
    assert session._references(table) == [session._OWN_REFERENCES + holders] and len(held) == holders
