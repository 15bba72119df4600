"""Removing experts equals a router that can't choose them, exactly; what removes other things is refuted."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from tests import zoo
from tests.experts import without_choosing
from tests.laws.refuting import refuted
from tests.zoo.language import TRANSFORMERS, inputs


class Mixture(nn.Module):
    """A router and stacked experts; `dispatch` is how tokens come to their experts."""

    def __init__(self, experts, top_k, groups=1, sigmoid=False, shared=False, dispatch="indexed", width=8):
        super().__init__()
        self.num_experts, self.top_k, self.groups, self.sigmoid, self.dispatch = experts, top_k, groups, sigmoid, dispatch
        self.inputs, self.gate = nn.Linear(4, width), nn.Linear(width, experts, bias=False)
        self.up, self.down = nn.Parameter(torch.randn(experts, width, 12)), nn.Parameter(torch.randn(experts, 12, width))
        self.shared, self.out = nn.Linear(width, width) if shared else None, nn.Linear(width, 3)
        self.correction = nn.Buffer(torch.randn(experts) / 9)

    def forward(self, x):
        """The weighted sum of the chosen experts."""
        x = self.inputs(x)
        weights, chosen = self.routed(self.gate(x))
        y = getattr(self, self.dispatch)(x, weights, chosen)
        return self.out(y if self.shared is None else y + self.shared(x))

    def routed(self, logits):
        """The weights of the chosen experts, and which they are."""
        if not self.sigmoid:
            weights, chosen = logits.softmax(-1).topk(self.top_k, -1)
            return weights, chosen
        scores = logits.sigmoid()
        choice = scores + self.correction
        if self.groups > 1:
            grouped = choice.view(-1, self.groups, self.num_experts // self.groups)
            best = grouped.topk(1, -1)[0].sum(-1).topk(self.groups - 1, -1)[1]
            mask = torch.zeros(len(logits), self.groups).scatter_(1, best, 1)
            open_ = mask.unsqueeze(-1).expand(-1, self.groups, self.num_experts // self.groups).reshape(-1, self.num_experts)
            choice = choice.masked_fill(open_ == 0, float("-inf"))
        chosen = choice.topk(self.top_k, -1)[1]
        weights = scores.gather(1, chosen)
        return weights / weights.sum(-1, keepdim=True), chosen

    def indexed(self, x, weights, chosen):
        """The weights of each token's experts are gathered."""
        y = torch.einsum("ti,tkih->tkh", x, self.up[chosen]).relu()
        return (torch.einsum("tkh,tkhi->tki", y, self.down[chosen]) * weights[..., None]).sum(1)

    def dense(self, x, weights, chosen):
        """Every expert is computed; a mask chooses."""
        gates = (F.one_hot(chosen, self.num_experts) * weights[..., None]).sum(1)
        y = torch.einsum("ti,eih->teh", x, self.up).relu()
        return torch.einsum("teh,ehi,te->ti", y, self.down, gates)

    def scattered(self, x, weights, chosen):
        """As `dense`, with the weights written to a row of zeros."""
        gates = torch.zeros(len(x), self.num_experts).scatter(1, chosen, weights)
        y = torch.einsum("ti,eih->teh", x, self.up).relu()
        return torch.einsum("teh,ehi,te->ti", y, self.down, gates)

    def grouped(self, x, weights, chosen):
        """Tokens are sorted by their experts, counted, and multiplied in groups."""
        names, order = chosen.flatten().sort()
        ends = torch.histc(names.float(), self.num_experts, 0, self.num_experts - 1).cumsum(0, dtype=torch.int32)
        y = torch._grouped_mm(x[order // self.top_k], self.up, offs=ends).relu()
        y = torch._grouped_mm(y, self.down, offs=ends) * weights.flatten()[order, None]
        return torch.zeros_like(y).index_copy(0, order, y).view(len(x), self.top_k, -1).sum(1)


@st.composite
def mixtures(draw):
    """A mixture, its inputs, and experts that may leave it."""
    sigmoid = draw(st.booleans())
    groups = draw(st.sampled_from([1, 3])) if sigmoid else 1
    experts, top_k = draw(st.sampled_from([6, 9])), draw(st.integers(1, 2))
    dispatch = draw(st.sampled_from(["indexed", "dense", "scattered", "grouped"]))
    torch.manual_seed(draw(st.integers(0, 99)))
    model = Mixture(experts, top_k, groups, sigmoid, draw(st.booleans()), dispatch).eval()
    block = experts // groups
    least = 1 if groups > 1 else 2  # of each group one, which makes enough; einsum sums over two at least
    inner = draw(st.sets(st.integers(0, block - 1), min_size=1, max_size=block - least))
    return model, torch.randn(11, 4), sorted(group * block + index for group in range(groups) for index in inner)


def close(left, right):
    """Equal up to rounding: sums over experts run in another order."""
    return torch.allclose(left, right, rtol=1e-4, atol=1e-4)


@settings(max_examples=settings.default.max_examples // 2)
@given(mixtures())
def test_removing_experts_is_never_choosing_them(drawn):
    """The smaller model computes what the whole one does where the router can't choose these experts."""
    model, x, removed = drawn
    graph = dg.trace(model, x)
    plan = dg.cut(graph, "up", removed, dim=0)
    small = dg.execute(plan, model)
    assert close(small(x), without_choosing(model, model.num_experts, removed, x))
    assert dg.trace(small, x) == plan.apply(graph)
    assert small.gate.weight.shape[0] == small.down.shape[0] == model.num_experts - len(removed)


def without(model, removed, names):
    """The model without the experts' slices in the named tensors, and with as many experts as are left."""
    small = Mixture(model.num_experts, model.top_k, sigmoid=model.sigmoid, dispatch=model.dispatch).eval()
    small.load_state_dict(model.state_dict())
    stay = [expert for expert in range(model.num_experts) if expert not in removed]
    for name in names:
        owner, _, last = name.rpartition(".")
        tensor = small.get_parameter(name) if name != "correction" else small.correction
        sliced = tensor.detach()[stay]
        setattr(small.get_submodule(owner), last, nn.Buffer(sliced) if name == "correction" else nn.Parameter(sliced))
    small.num_experts = len(stay)
    return small


EVERYTHING = ("up", "down", "gate.weight", "correction")


@pytest.mark.parametrize("dispatch", ["indexed", "dense", "scattered"])
@pytest.mark.parametrize(
    ("names", "removed"),
    [
        (("up", "down"), [1]),  # the router still names it, and the last expert has no weights
        (("up", "gate.weight", "correction"), [1]),  # the other matrix keeps all
        (("up", "down", "gate.weight"), [1]),  # the correction keeps all
        (EVERYTHING, [2]),  # another expert
    ],
)
def test_the_oracle_refutes_a_part_of_an_expert_and_another_expert(dispatch, names, removed):
    """What removes less than an expert fails or computes something else, and so does what removes another one."""
    torch.manual_seed(0)
    model, x = Mixture(6, 2, sigmoid=True, dispatch=dispatch).eval(), torch.randn(40, 4)
    wanted = without_choosing(model, 6, [1], x)
    assert close(without(model, [1], EVERYTHING)(x), wanted)
    assert refuted(assert_computes, without(model, removed, names), x, wanted, by=(AssertionError, RuntimeError, IndexError))


def assert_computes(small, x, wanted):
    """Fail unless the model returns what is wanted."""
    assert close(small(x), wanted)


def test_experts_are_left_unless_named():
    """A plain ratio leaves experts, as it leaves heads; their role names them, and `top_k` of them stay."""
    torch.manual_seed(0)
    model, x = Mixture(6, 2).eval(), torch.randn(11, 4)
    graph = dg.trace(model, x)
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    (experts,) = [group for group in graph.groups if group.role == "expert"]
    assert experts.lower_bound == 2
    assert experts.name not in dg.plan(graph, scores, ratio=0.5).removed
    plan = dg.plan(graph, scores, ratio=0.99, only=["role:expert"])
    assert dg.execute(plan, model).up.shape[0] == 2
    with pytest.raises(dg.errors.PlanError, match="at least 2"):
        dg.cut(graph, "up", [0, 1, 2, 3, 4], dim=0)


class Numbered(Mixture):
    """Computes with the numbers of the experts."""

    def __init__(self, way):
        super().__init__(6, 2)
        self.way = way

    def forward(self, x):
        """Something is done with the numbers that holds for these experts alone."""
        x = self.inputs(x)
        weights, chosen = self.routed(self.gate(x))
        return self.ways()[self.way](x, weights, chosen)

    def ways(self):
        """What is done, by name."""
        return {
            "compared": lambda x, weights, chosen: self.indexed(x, weights * (chosen != 3), chosen),
            "added to": lambda x, weights, chosen: self.indexed(x, weights, (chosen + 1) % 6),
            "returned": lambda x, weights, chosen: (self.indexed(x, weights, chosen), chosen),
            "cast to truth": lambda x, weights, chosen: self.indexed(x, weights * chosen.bool(), chosen),
            "written": lambda x, weights, chosen: self.indexed(x, weights, self.written(chosen)),
            "summed": lambda x, weights, chosen: self.indexed(x, weights * chosen.cumsum(0), chosen),
            "offsets": lambda x, weights, chosen: torch._grouped_mm(x, self.up[:2], offs=chosen[0].sort()[0].int()),
            "read": lambda x, weights, chosen: self.indexed(x, weights * float(chosen[0, 0]), chosen),
            "mixed": lambda x, weights, chosen: self.indexed(x, weights, chosen.masked_fill(weights < 0.1, 0)),
            "ordered": lambda x, weights, chosen: self.indexed(x, weights, self.gate(x).argsort(-1)[:, :2]),
        }

    def written(self, chosen):
        """The numbers by way of a view of another tensor, which no operator shows."""
        others = torch.zeros_like(chosen)
        others[:, 0] = chosen[:, 0]
        return others


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("compared", "aten.ne computes with the numbers of its indices"),
        ("added to", "aten.add computes with the numbers of its indices"),
        ("returned", "numbers of its indices leave: they are the model's output"),
        ("cast to truth", "computes with the numbers of its indices"),
        ("written", "numbers of its indices"),
        ("summed", "aten.cumsum computes with the numbers of its indices"),
        ("offsets", "aten._grouped_mm computes with the numbers of its indices"),
        ("read", "numbers of its indices leave: forward reads its data"),
        ("mixed", "aten.masked_fill computes with the numbers of its indices"),
        ("ordered", "aten.argsort runs along it"),
    ],
)
def test_who_computes_with_numbers_of_experts_pins_them(way, reason):
    """An expert's number that is more than a name stays, and so do all experts, with the reason."""
    graph = dg.trace(Numbered(way).eval(), torch.randn(11, 4))
    assert not [group for group in graph.groups if group.role == "expert"]
    assert reason in graph.why_pinned(graph.axis("gate.weight", 0))


def test_the_laws_hold_of_a_mixture():
    """Each group alone, experts among them, prunes to a model that runs, and a part of its members does not."""
    torch.manual_seed(0)
    dg.testing.assert_lawful(Mixture(6, 2, sigmoid=True, shared=True).eval(), torch.randn(11, 4))


@pytest.mark.parametrize(("dtype", "multiple"), [(torch.float32, 4), (torch.bfloat16, 8)])
def test_plans_keep_the_multiples_that_a_kernel_asks_for(dtype, multiple):
    """Rows of grouped products are a multiple of 16 bytes whatever the ratio; one that is not is refused by the kernel."""
    torch.manual_seed(0)
    model, x = Mixture(6, 2, dispatch="grouped", width=32).eval().to(dtype), torch.randn(11, 4, dtype=dtype)
    model.up, model.down = (nn.Parameter(torch.randn(6, *shape, dtype=dtype)) for shape in ((32, 24), (24, 32)))
    graph = dg.trace(model, x)
    widths = [group for group in graph.groups if group.role == "channel"]
    assert [group.multiple for group in widths] == [multiple] * len(widths)
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    for ratio in (0.3, 0.5, 0.7):
        plan = dg.plan(graph, scores, ratio=ratio)
        small = dg.execute(plan, model)
        assert small(x).shape == (11, 3) and dg.trace(small, x) == plan.apply(graph)
    assert refuted(assert_runs, dg.execute(dg.cut(graph, "up", [0], dim=2), model), x, by=RuntimeError, says="16 bytes")


def assert_runs(model, x):
    """Fail unless the model takes the inputs."""
    model(x)


class Separate(Mixture):
    """Experts in a module of their own that is called with numbers and weights, as those of transformers are."""

    class Experts(nn.Module):
        """Stacked weights."""

        def __init__(self, count, width):
            super().__init__()
            self.up, self.down = nn.Parameter(torch.randn(count, width, 12)), nn.Parameter(torch.randn(count, 12, width))

        def forward(self, x, numbers, weights):
            """The weighted sum of the chosen experts."""
            y = torch.einsum("ti,tkih->tkh", x, self.up[numbers]).relu()
            return (torch.einsum("tkh,tkhi->tki", y, self.down[numbers]) * weights[..., None]).sum(1)

    def __init__(self):
        super().__init__(6, 2)
        del self.up, self.down
        self.experts = self.Experts(6, 8)

    def indexed(self, x, weights, chosen):
        """The module's result."""
        return self.experts(x, chosen, weights)


@given(st.integers(0, 99), st.integers(1, 3))
@settings(max_examples=settings.default.max_examples // 4)
def test_reap_is_the_mean_over_its_tokens_of_gate_times_norm(seed, batches):
    """However tokens are batched, the score is what a loop over tokens and experts adds up; an expert without tokens has 0."""
    torch.manual_seed(seed)
    model, x = Separate().eval(), torch.randn(12, 4)
    graph, group = dg.trace(model, x), "gate.weight:0"
    h = model.inputs(x)
    weights, chosen = model.routed(model.gate(h))
    added = {expert: [] for expert in range(6)}
    for token, (gates, numbers) in enumerate(zip(weights, chosen, strict=True)):
        for gate, expert in zip(gates, numbers.tolist(), strict=True):
            output = (h[token] @ model.experts.up[expert]).relu() @ model.experts.down[expert]
            added[expert].append((gate * output.norm()).item())
    means = [sum(norms) / max(len(norms), 1) for norms in added.values()]
    parts = x.chunk(batches)
    assert dg.score(graph, model, dg.criteria.REAP(parts, normaliser="none"))[group] == pytest.approx(means, rel=1e-4)
    shares = [len(norms) / 24 for norms in added.values()]
    assert dg.score(graph, model, dg.criteria.Frequency(parts, normaliser="none"))[group] == pytest.approx(shares)
    lonely = [norms[:-1] or norms for norms in added.values()]  # a mean that forgets a token is another one
    forgetful = [sum(norms) / max(len(norms), 1) for norms in lonely]
    assert means == pytest.approx(means) and means != pytest.approx(forgetful, rel=1e-4)


def test_reap_says_what_it_can_measure():
    """Experts that share a module with their router are not seen, which is told."""
    model, x = Mixture(6, 2).eval(), torch.randn(12, 4)
    with pytest.raises(dg.errors.PlanError, match="two tensors of the shape"):
        dg.score(dg.trace(model, x), model, dg.criteria.REAP([x]))


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_experts_of_transformers(family):
    """Without a registry of classes: experts go from router, stacks, biases and corrections, exactly."""
    transformers = zoo.transformers()
    model_class, config_class, options, kind = TRANSFORMERS[family]
    counts = {"n_routed_experts": 6, "topk_group": 2} if family == "deepseek_v3" else {"num_local_experts": 6}
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**{**options, **counts})).eval()
    given_inputs = {**inputs(kind), "use_cache": False}
    graph = dg.trace(model, kwargs=given_inputs)
    groups = [group for group in graph.groups if group.role == "expert" and group.lower_bound < group.size]
    scores = {group.name: tuple(float(index != 1) for index in range(group.size)) for group in groups}
    plan = dg.plan(graph, scores, ratio=1 / min(group.size for group in groups), only=[group.name for group in groups])
    small = dg.execute(plan, model)
    removed = [1, 4] if family == "deepseek_v3" else [1]
    wanted = without_choosing(model, 6, removed, **given_inputs).logits
    assert torch.allclose(small(**given_inputs).logits, wanted, atol=1e-6)
    assert dg.trace(small, kwargs=given_inputs) == plan.apply(graph)
