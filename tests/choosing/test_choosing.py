"""Choosing on small models with exact values, and on real ones: patterns, sides, scopes, limits, budgets and corners."""

import math

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.choosing.isomorphism import signatures
from depgraph.graph.checking import check as graph_problems
from tests.processes import elsewhere, plans_of_every_scope
from tests.zoo import torchvision

pytestmark = pytest.mark.models

X = torch.randn(1, 4)


def three():
    """Three hidden layers of eight features."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


class Attention(nn.Module):
    """Four query heads for two key-value heads, of width 8, in a residual stream of 16, with a grouped convolution behind."""

    def __init__(self):
        super().__init__()
        self.heads, self.kv_heads, self.width = 4, 2, 8
        self.embed = nn.Linear(6, 16)
        self.q, self.k, self.v = nn.Linear(16, 32), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out, self.last = nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x):
        y = self.embed(x)
        b, n, _ = y.shape
        q = self.q(y).view(b, n, self.heads, self.width).transpose(1, 2)
        k, v = (f(y).view(b, n, self.kv_heads, self.width).transpose(1, 2) for f in (self.k, self.v))
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        z = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return self.last(y + self.out(z.transpose(1, 2).reshape(b, n, -1)))


def counts(plan):
    """How many indices each group loses."""
    return {name: len(gone) for name, gone in plan.removed.items()}


@pytest.fixture(scope="module")
def layers():
    graph = dg.trace(three(), X)
    return graph, {"0.weight:0": range(8), "2.weight:0": range(4, 12), "4.weight:0": range(100, 108)}


@pytest.fixture(scope="module")
def attention():
    model = Attention()
    graph = dg.trace(model, torch.randn(2, 5, 6))
    return model, graph, dg.score(graph, model, dg.criteria.Random(0))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ratio": 0.5, "ignore": ["2"]}, {"4.weight:0": 4}),
        ({"ratio": 0.5, "ignore": "2:in"}, {"2.weight:0": 4, "4.weight:0": 4}),
        ({"ratio": 0.5, "ignore": ["2:out"]}, {"0.weight:0": 4, "4.weight:0": 4}),
        ({"ratio": 0.5, "only": ["2:out", "4:out"]}, {"2.weight:0": 4, "4.weight:0": 4}),
        ({"ratio": 0.5, "only": ["[24]:out"], "ignore": ["6"]}, {"2.weight:0": 4}),
        ({"ratio": {"*": 0.5, "2": 0.25}}, {"0.weight:0": 2, "2.weight:0": 2, "4.weight:0": 4}),
        ({"ratio": {"2": 0.25, "*": 0.5}}, {"0.weight:0": 4, "2.weight:0": 4, "4.weight:0": 4}),
        ({"ratio": {"role:channel": 0.5, "4.weight:0": 0}}, {"0.weight:0": 4, "2.weight:0": 4}),
        ({"ratio": 0.25, "scope": "global"}, {"0.weight:0": 5, "2.weight:0": 1}),
        ({"ratio": 0.25, "scope": [("2:out", "4:out")]}, {"0.weight:0": 2, "2.weight:0": 4}),
        ({"ratio": {("2:out", "4:out"): 0.5, "0:out": 0.25}}, {"0.weight:0": 2, "2.weight:0": 7, "4.weight:0": 1}),
        ({"ratio": {"0:out": 0.25, "2:out": 0.5}, "scope": "global"}, {"0.weight:0": 5, "2.weight:0": 1}),
        (
            {"ratio": 0.9, "scope": "global", "max_ratio": {"*": 0.5, "4:out": 1.0}},
            {"0.weight:0": 4, "2.weight:0": 4, "4.weight:0": 7},
        ),
        ({"ratio": 0.9, "min_width": 3}, {"0.weight:0": 5, "2.weight:0": 5, "4.weight:0": 5}),
        ({"ratio": 0.5, "round_to": {"0:out": 3}}, {"0.weight:0": 2, "2.weight:0": 4, "4.weight:0": 4}),
        ({"ratio": 0.5, "round_to": {"0:out": 3}, "rounding": "down"}, {"0.weight:0": 5, "2.weight:0": 4, "4.weight:0": 4}),
        ({"ratio": 0.9, "round_to": 3, "rounding": "down"}, {"0.weight:0": 5, "2.weight:0": 5, "4.weight:0": 5}),
        ({"ratio": 0.5, "round_to": {"*": 8}, "min_width": {"0:out": 8}, "ignore": []}, None),
        ({"ratio": 0}, {}),
        ({"macs": 1}, {}),
        ({"params": 1.0, "macs": 1.0}, {}),
        ({"macs": 176}, {}),
        ({"macs": 175}, {"0.weight:0": 1}),
        ({"params": 201}, {"0.weight:0": 1}),
    ],
)
def test_exact_choices(layers, options, expected):
    """What each option removes from three layers of eight with known scores."""
    graph, scores = layers
    if expected is None:
        with pytest.raises(dg.errors.PlanError, match="nothing can be removed"):
            dg.plan(graph, scores, **options)
        return
    assert graph.params == 202 and graph.macs == 176
    assert counts(dg.plan(graph, scores, **options)) == expected


def test_heads_widths_and_kv_groups_have_ratios_of_their_own(attention):
    """Each role is named by itself; a plain number leaves what counts blocks."""
    model, graph, scores = attention
    sizes = {group.role: group.size for group in graph.groups}
    assert sizes == {"channel": 16, "head": 2, "kv_group": 2, "head_dim": 8}
    roles = {group.name: group.role for group in graph.groups}
    ratio = {"role:head": 0.5, "role:kv_group": 0.5, "role:head_dim": 0.25, "role:channel": 0.125}
    plan = dg.plan(graph, scores, ratio=ratio)
    assert {roles[name]: count for name, count in counts(plan).items()} == {
        "head": 1, "kv_group": 1, "head_dim": 2, "channel": 2
    }  # fmt: skip
    small = dg.execute(plan, model)
    assert (small.heads, small.kv_heads, small.width) == (1, 1, 6)
    assert small(torch.randn(2, 5, 6)).shape == (2, 5, 3)
    plain = dg.plan(graph, scores, ratio=0.5)
    assert {roles[name] for name in plan.removed} - {roles[name] for name in plain.removed} == {"head", "kv_group"}
    heads = dg.plan(graph, scores, params=0.9, only=["role:head"])
    assert {roles[name] for name in heads.removed} == {"head"}
    assert {roles[name] for name in dg.plan(graph, scores, ratio=0.5, only=["q", "k", "v"]).removed} == {"channel", "head_dim"}


def test_heads_and_conv_groups_are_rounded_by_role():
    """Six heads and six conv groups at a third become four, or with rounding to three, three or six."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads, self.width = 6, 4
            self.qkv, self.out = nn.Linear(4, 72), nn.Linear(24, 4)

        def forward(self, x):
            b, n, _ = x.shape
            q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
            return self.out((torch.softmax(q @ k.transpose(-1, -2), -1) @ v).transpose(1, 2).reshape(b, n, -1))

    convolutions = nn.Sequential(nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 3, groups=6), nn.Conv2d(24, 2, 1))
    for model, x, role, path in (
        (Model(), torch.randn(1, 3, 4), "role:head", "heads"),
        (convolutions, torch.randn(1, 3, 5, 5), "role:conv_group", "1.groups"),
    ):
        graph = dg.trace(model, x)
        scores = dg.score(graph, model, dg.criteria.Random(0))

        def left(rounding, multiple, model=model, graph=graph, scores=scores, role=role, path=path, x=x):
            plan = dg.plan(graph, scores, ratio={role: 0.34}, round_to={role: multiple}, rounding=rounding)
            assert dg.execute(plan, model)(x).shape == model(x).shape
            return {edit.path: edit.new for edit in plan.edits}[path]

        assert (left("up", 1), left("down", 3), left("up", 2)) == (4, 3, 4)
        with pytest.raises(dg.errors.PlanError, match="nothing can be removed"):
            left("up", 3)


def test_balanced_groups_lose_the_least_of_their_ratios_and_limits():
    """The halves of a chunk stay equally long, whatever each half alone would lose."""

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.a, self.b = nn.Linear(4, 12), nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            a, b = self.wide(x).chunk(2, -1)
            return self.a(a) + self.b(b)

    graph = dg.trace(Halves(), X)
    first, second = graph.groups
    scores = {first.name: range(6), second.name: range(6, 0, -1)}
    for options in (
        {"ratio": {first.name: 0.5, second.name: 0.34}},
        {"ratio": 0.5, "max_ratio": {second.name: 0.34}},
        {"ratio": 0.5, "min_width": {first.name: 4}},
        {"ratio": 0.5, "round_to": {first.name: 4}},
        {"params": 0.7, "scope": "global"},
    ):
        removed = dg.plan(graph, scores, **options).removed
        assert removed == {first.name: dg.IndexSet.range(0, 2), second.name: dg.IndexSet.range(4, 6)}
    with pytest.raises(dg.errors.PlanError, match="balanced with one that is left"):
        dg.plan(graph, scores, ratio={first.name: 0.5})


def test_scores_near_the_largest_number_are_averaged(layers):
    """Units of several indices whose sum no number holds are still ranked by their mean."""
    graph, _ = layers
    scores = {group.name: tuple(1e308 + index * 1e306 for index in range(group.size)) for group in graph.groups}
    plan = dg.plan(graph, scores, ratio=0.5, round_to=2, scope="global")
    assert plan.removed["0.weight:0"] == dg.IndexSet.range(0, len(plan.removed["0.weight:0"]))


def test_an_infinite_score_keeps_its_index(layers):
    """Whatever the target, an index of infinite importance stays; one of minus infinity goes first."""
    graph, scores = layers
    kept = [5.0, math.inf, 3.0, math.inf, -math.inf, 1.0, 0.0, 2.0]
    scores = {**scores, "0.weight:0": kept}
    assert dg.plan(graph, scores, ratio=0.9).removed["0.weight:0"] == dg.IndexSet.of([0, 2, 4, 5, 6, 7])
    assert dg.plan(graph, scores, params=0.97, scope="global").removed["0.weight:0"] == dg.IndexSet.of([4])
    with pytest.raises(dg.errors.PlanError, match="with as little left in each group as its limits allow"):
        dg.plan(graph, scores, params=0.06)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"macs": 2.5}, "a whole number above 1, the cost itself; met 2.5"),
        ({"macs": float("inf")}, "met inf"),
        ({"macs": float("nan")}, "met nan"),
        ({"params": 12}, r"params=12 is out of reach: with one index left in each group, 0.0644 of .*, which is 13"),
        ({"params": 0.5, "max_ratio": 0.1}, "out of reach: with as little left in each group as its limits allow, 1.0000"),
        ({"params": 0.5, "macs": 0.01}, "macs=0.01 is out of reach"),
        ({"latency": 0.5}, "latency= and latency_model= belong together"),
        ({"ratio": 0.5, "latency_model": lambda graph: 1.0}, "latency= and latency_model= belong together"),
        ({"latency": 0.5, "latency_model": lambda graph: "fast"}, "expected a positive number .* met 'fast'"),
        ({"latency": 0.5, "latency_model": lambda graph: 1.0}, "latency=0.5 is out of reach"),
        ({"ratio": 0.5, "scope": "locally"}, "expected scope= to be one of 'group', 'global', 'isomorphic'.* met 'locally'"),
        ({"ratio": 0.5, "max_ratio": 1.5}, r"expected max_ratio= in \[0, 1\], met 1.5 for '\*'"),
        ({"ratio": 0.5, "min_width": {"0": 0}}, "expected min_width= to be a whole number of at least 1, met 0 for '0'"),
        ({"ratio": 0.5, "round_to": 2.0}, "expected round_to= .* met 2.0"),
        ({"ratio": 0.5, "rounding": "off"}, "expected rounding= 'up' or 'down', met 'off'"),
        ({"ratio": 0.5, "only": [3]}, "expected a pattern .* met 3"),
    ],
)
def test_impossible_choices_are_refused(layers, options, message):
    """Each error says what was expected, what came, and what can be reached."""
    graph, scores = layers
    with pytest.raises(dg.errors.PlanError, match=message):
        dg.plan(graph, scores, **options)


@pytest.mark.parametrize(
    "options, problems",
    [
        (
            {"only": ["4.bias"]},
            ["'4.bias' names no group: all of it is pinned (4.bias dim 0: it is a dimension of the model's"],
        ),
        ({"only": "4:out"}, ["'4:out' names no group: all of it is pinned (it is a dimension of the model's output)"]),
        ({"only": ["0", "0:in"]}, ["'0:in' names no group: all of it is pinned (it is a dimension of the model's input[0])"]),
        ({"only": ["1"]}, ["'1' names no group: it holds no parameter"]),
        ({"ratio": {"*": 0.5, "4.bias": 0.5, ("0", "4:out"): 0.5}}, ["'4.bias' names no group", "'4:out' names no group"]),
        ({"ratio": None, "params": 0.5, "only": ["4.bias"]}, ["'4.bias' names no group"]),
    ],
)
def test_patterns_of_what_is_pinned_are_refused_with_the_reason(options, problems):
    """Asked for by `only` or a ratio: no empty plan, and no plan of the rest."""
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(3, 4)
    graph = dg.trace(model, x)
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    with pytest.raises(dg.errors.PlanError) as caught:
        dg.plan(graph, scores, **{"ratio": 0.5, **options})
    assert str(caught.value).count("\n  - ") == len(problems) and all(problem in str(caught.value) for problem in problems)
    whole = dg.plan(graph, scores, ratio=0.5, ignore=["4.bias", "4:out"])
    assert whole == dg.plan(graph, scores, ratio={"*": 0.5, "4.bias": 0.0}) == dg.plan(graph, scores, ratio=0.5)


class Transposed(nn.Module):
    """A parameter that is read through a view, as stacked experts are: it is no layer."""

    def __init__(self):
        super().__init__()
        self.first, self.weight = nn.Linear(3, 6), nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return self.first(x) @ self.weight.transpose(0, 1).transpose(0, 1)


def test_a_parameter_has_no_side_by_which_it_reads():
    """Nothing enters a parameter that is read through a view; its groups have names."""
    graph = dg.trace(Transposed(), torch.zeros(1, 3))
    with pytest.raises(dg.errors.PlanError, match=r"no tensor enters it, for it is no layer; name a group .*: 'weight:0'"):
        dg.plan(graph, {"weight:0": range(6)}, ratio={"weight:in": 0.5})


@pytest.mark.parametrize("option", ["ignore", "only", "scope", "scopes", "max_ratio", "min_width", "round_to", "ratio"])
def test_modules_in_place_of_patterns_are_told_their_name(option):
    """A graph is data and holds no module: the error names the way from one to its pattern, also for containers and classes."""
    model, x = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 2)), torch.randn(3, 4)
    graph = dg.trace(model, x)
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    for given, words in ((model[0], "a module, Sequential; .*dg.names_of"), (nn.Linear, "the class Linear; .*dg.names_of")):
        tables = {"max_ratio": 0.5, "min_width": 2, "round_to": 2, "ratio": 0.5}
        value = {given: tables[option]} if option in tables else [(given, "1")] if option == "scopes" else given
        values = [value] if option in {*tables, "scopes", "scope"} else [value, [value]]
        for choice in values if option != "scope" else [[given]]:
            with pytest.raises(dg.errors.PlanError, match=f"expected a pattern .* met {words}"):
                dg.plan(graph, scores, **{"ratio": 0.5, option.rstrip("s") if option == "scopes" else option: choice})
    assert dg.plan(graph, scores, ratio=0.5, only=dg.names_of(model, model[0])).kept


def blocks():
    """A block of two layers, then two more, with norms between them, in containers; the last one is the largest."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
    model = nn.Sequential(inner, nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    model[4].weight.data.mul_(9.0)
    return model


@pytest.mark.parametrize(
    ("target", "options", "names"),
    [
        ({"ratio": 0.5}, lambda m: {"ignore": [m[0]]}, {"ignore": ["0"]}),
        ({"ratio": 0.5}, lambda m: {"ignore": m[0]}, {"ignore": ["0"]}),
        ({"ratio": 0.5}, lambda m: {"ignore": nn.LayerNorm}, {"ignore": ["1", "3"]}),
        ({"ratio": 0.5}, lambda m: {"only": [m[0][0], m[1]]}, {"only": ["0.0", "1"]}),
        ({"ratio": 0.5}, lambda m: {"only": None, "max_ratio": {nn.LayerNorm: 0.25}}, {"max_ratio": {"1": 0.25, "3": 0.25}}),
        ({"ratio": 0.5}, lambda m: {"min_width": {"*": 5, m[4]: 7}}, {"min_width": {"*": 5, "4": 7}}),
        ({"ratio": 0.5}, lambda m: {"round_to": {nn.LayerNorm: 4, m[1]: 3}}, {"round_to": {"3": 4, "1": 3}}),
        ({"ratio": 0.5}, lambda m: {"scope": [(nn.LayerNorm,), m[0][0]]}, {"scope": [("1", "3"), ("0.0",)]}),
        ({"macs": 0.5}, lambda m: {"scope": "global", "ignore": (m[4], "0.0")}, {"scope": "global", "ignore": ["4", "0.0"]}),
    ],
)
def test_iterate_takes_modules_and_classes_for_patterns(target, options, names):
    """It has the model: what it chooses is what the names choose, through a wrapper as well."""
    model, x = blocks(), torch.randn(3, 4)
    criterion = dg.Magnitude(p=2, normaliser="none")
    by_module = [
        step.plan for step in dg.iterate(nn.DataParallel(model), x, criterion, steps=2, target=target, **options(model))
    ]
    by_name = [step.plan for step in dg.iterate(model, x, criterion, steps=2, target=target, **names)]
    assert by_module == by_name and by_module[-1].cuts
    assert by_name[-1] != [step.plan for step in dg.iterate(model, x, criterion, steps=2, target=target)][-1]


def test_iterate_takes_modules_in_its_target():
    """A ratio for each module, class, or tuple of these."""
    model, x = blocks(), torch.randn(3, 4)
    (step,) = dg.iterate(
        model, x, dg.Magnitude(p=2), steps=1, target={"ratio": {nn.LayerNorm: 0.25, (model[0][0], model[4]): 0.5}}
    )
    (same,) = dg.iterate(model, x, dg.Magnitude(p=2), steps=1, target={"ratio": {"1": 0.25, "3": 0.25, ("0.0", "4"): 0.5}})
    assert step.plan == same.plan and step.plan.cuts


def test_modules_that_name_nothing_are_told_at_once():
    """A module of another model, the model itself, one without tensors, a class without modules, and something else."""
    model = blocks()
    with pytest.raises(dg.errors.PlanError) as caught:
        dg.names_of(model, [nn.Linear(4, 8), model, model[0][1], nn.Conv2d, 3, "0"])
    told = str(caught.value)
    assert told.count("\n  - ") == 5
    for words in (
        "this Linear is not part of the Sequential",
        "this Sequential is the model itself; write '*'",
        "this ReLU holds no parameter",
        "is a Conv2d with parameters",
        "3 is no module, no class and no pattern",
    ):
        assert words in told
    with pytest.raises(dg.errors.PlanError, match="this Linear is not part of the Sequential"):
        dg.iterate(model, torch.randn(3, 4), dg.Magnitude(p=2), steps=1, target={"ratio": 0.5}, ignore=[nn.Linear(4, 8)])


@pytest.mark.parametrize("option", ["ignore", "only", "scope", "max_ratio", "min_width", "round_to", "ratio"])
def test_patterns_that_name_nothing_are_refused(layers, option):
    """A typing error is no silent choice, wherever a pattern is taken."""
    graph, scores = layers
    value = {"max_ratio": {"7:out": 0.5}, "min_width": {"7:out": 2}, "round_to": {"7:out": 2}, "ratio": {"7:out": 0.5}}
    with pytest.raises(dg.errors.UnknownNameError, match="'7:out'"):
        dg.plan(graph, scores, **{"ratio": 0.5, option: value.get(option, ["7:out"])})


def test_latency_is_met_by_any_function_of_a_graph(layers):
    """The budget is kept and one unit less would break it, also where the latency rises when something goes."""
    graph, scores = layers
    calls = []

    def latency_model(smaller):
        calls.append(smaller.params)
        width = smaller.tensor("0.weight").shape[0]
        return smaller.macs + (40.0 if width % 2 else 0.0)  # odd widths are slow

    plan = dg.plan(graph, scores, latency=0.6, latency_model=latency_model)
    (target,) = plan.targets
    assert target.name == "latency" and target.realised == latency_model(plan.apply(graph)) <= target.requested == 0.6 * 176
    assert len(calls) <= 10  # a bisection over 21 units
    assert (
        dg.plan(graph, scores, latency=0.6 * 176, latency_model=latency_model) == plan
    )  # 105.6, in the unit of the latency model
    both = dg.plan(graph, scores, latency=0.6, latency_model=latency_model, params=0.3)
    assert both.apply(graph).params <= 0.3 * 202 and [item.name for item in both.targets] == ["params", "latency"]


def test_a_latency_table_measures_each_form_once(layers):
    """Equal operations are measured once, a table of what was measured gives the same plan, and what it lacks is refused."""
    graph, scores = layers
    seen = []

    def measure(form):
        seen.append(form)
        return 1e-3 + 1e-6 * math.prod(form.inputs[1]) if "linear" in form.op else 1e-4

    latency_model = dg.latency.latency_table(measure)
    assert latency_model(graph) == pytest.approx(4e-3 + 176e-6 + (len(graph.operations) - 6) * 1e-4)  # no input, no output
    plan = dg.plan(graph, scores, latency=0.99, latency_model=latency_model)
    assert plan.targets[0].realised <= plan.targets[0].requested and len(seen) == len(set(seen)) < 60
    table = {form: measure(form) for form in set(seen)}
    assert dg.plan(graph, scores, latency=0.99, latency_model=dg.latency.latency_table(table)) == plan
    table.pop(next(form for form in table if form.inputs == ((1, 4), (8, 4), (8,))))
    with pytest.raises(
        dg.errors.PlanError, match=r"the table has no OperationForm\(op='aten.linear', inputs=\(\(1, 4\), \(8, 4\)"
    ):
        dg.plan(graph, scores, latency=0.99, latency_model=dg.latency.latency_table(table))
    with pytest.raises(dg.errors.PlanError, match=r"expected costs by OperationForm, or a function .* met float"):
        dg.latency.latency_table(1.0)


def test_a_latency_table_leaves_further_calls_out():
    """What only a further call does costs no latency, as it costs no MACs; the square holds."""
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4)
    latency_model = dg.latency.latency_table(lambda form: math.prod(form.outputs[0]))
    graph, more = dg.trace(model, x), dg.trace(model, x, also=[dg.Call(torch.zeros(7, 4)), dg.Call(x, training=True)])
    assert latency_model(more) == latency_model(graph) == 18 and more.macs == graph.macs and more != graph
    assert len(more.operations) > 2 * len(graph.operations) and graph_problems(more) == ()
    plan = dg.cut(more, "0.weight", [1, 2], dim=0)
    assert latency_model(plan.apply(more)) == 14 and plan.apply(more) == dg.trace(
        dg.execute(plan, model), x, also=[dg.Call(torch.zeros(7, 4)), dg.Call(x, training=True)]
    )


def test_targets_travel_with_the_plan(layers, tmp_path):
    """They are saved, take no part in equality, and of two plans in a row those of the last cut stay."""
    graph, scores = layers
    plan = dg.plan(graph, scores, macs=0.5)
    plan.save(tmp_path / "plan.json")
    assert dg.Plan.load(tmp_path / "plan.json").targets == plan.targets
    smaller = plan.apply(graph)
    assert str(plan).endswith(f"\n  macs: {smaller.macs} of at most 88.0")
    second = dg.cut(smaller, "4.weight", [0], dim=0)
    assert plan.then(second).targets == ()
    assert plan.then(dg.Plan.empty(smaller)).targets == plan.targets
    assert dg.Plan.empty(graph).then(plan).targets == plan.targets


@pytest.mark.needs("torchvision")
def test_isomorphic_groups_of_a_resnet():
    """The inner channels of all basic blocks are alike, residual streams only where they match."""
    graph = dg.trace(torchvision().models.resnet18(), torch.randn(1, 3, 64, 64))
    alike = {}
    for atom, signature in signatures(graph).items():
        alike.setdefault(signature, []).append(graph.group_of[atom].name)
    inner = [f"layer{k}.{b}.conv1.weight:0" for k in range(1, 5) for b in range(2)]
    assert sorted(map(tuple, alike.values())) == sorted(
        [
            tuple(inner),
            ("conv1.weight:0",),
            ("layer2.0.conv2.weight:0", "layer3.0.conv2.weight:0"),
            ("layer4.0.conv2.weight:0",),
        ]
    )


def test_isomorphic_ranking_lets_equal_structures_compete_only():
    """Weak inner channels of one block spare those of the other; the residual stream loses its own share."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 8)

        def forward(self, x):
            return x + self.b(torch.relu(self.a(x)))

    graph = dg.trace(nn.Sequential(nn.Linear(4, 8), Block(), Block(), nn.Linear(8, 2)), X)
    scores = {"0.weight:0": [9.0] * 8, "1.a.weight:0": [0.0, 1.0, 2.0, 3.0], "2.a.weight:0": [4.0, 5.0, 6.0, 7.0]}
    assert counts(dg.plan(graph, scores, ratio=0.25, scope="isomorphic")) == {"0.weight:0": 2, "1.a.weight:0": 2}
    assert counts(dg.plan(graph, scores, ratio=0.25, scope="global")) == {"1.a.weight:0": 3, "2.a.weight:0": 1}


@pytest.mark.parametrize("scope", ["group", "global", "isomorphic"])
@pytest.mark.needs("torchvision")
def test_a_real_model_meets_budgets_in_every_scope(scope):
    """MobileNetV2 at half its MACs with widths in multiples of eight: met, lawful, and it runs."""
    model, x = torchvision().models.mobilenet_v2().eval(), torch.randn(1, 3, 64, 64)
    graph = dg.trace(model, x)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), macs=0.5, scope=scope, round_to=8, max_ratio=0.9)
    small = plan.apply(graph)
    assert 0.4 < small.macs / graph.macs <= 0.5
    for cut in plan.cuts:
        assert (cut.atom.size - len(cut.removed)) % 8 == 0 and len(cut.removed) <= 0.9 * cut.atom.size
    pruned = dg.execute(plan, model)
    assert dg.trace(pruned, x) == small and pruned(x).shape == (1, 1000)


@pytest.mark.needs("torchvision")
def test_the_sides_of_a_real_layer():
    """The inputs of a block's second convolution are its inner channels, its outputs the residual stream."""
    model = torchvision().models.resnet18()
    graph = dg.trace(model, torch.randn(1, 3, 64, 64))
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    everything = set(counts(dg.plan(graph, scores, ratio=0.5)))
    for side, left in (("layer1.0.conv2:in", "layer1.0.conv1.weight:0"), ("layer1.0.conv2:out", "conv1.weight:0")):
        assert everything - set(counts(dg.plan(graph, scores, ratio=0.5, ignore=[side]))) == {left}
    inside = {f"layer1.{block}.conv1.weight:0" for block in (0, 1)}
    assert inside <= set(counts(dg.plan(graph, scores, ratio=0.5, ignore=["layer1:in", "layer1:out"])))
    assert everything - set(counts(dg.plan(graph, scores, ratio=0.5, ignore=["layer1"]))) == {*inside, "conv1.weight:0"}


def test_the_same_plan_in_every_process():
    """No choice depends on the order of a set."""
    assert elsewhere(plans_of_every_scope) == plans_of_every_scope()
