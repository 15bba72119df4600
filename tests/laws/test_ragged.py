"""Cuts row by row: the laws of plans hold for them, and what may not be cut so is refused, each with a wrong way that fails."""

import re

import attrs
import pytest
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import depgraph as dg
from depgraph import codec, testing
from depgraph.algebra.index_maps import image
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import RaggedSet, is_table, joined, ragged_image, row_problem
from depgraph.algebra.spaces import Atom, atoms, backwards, laid_end_to_end, product
from depgraph.graph.ragged import bases_of
from depgraph.plans.making import plan_of
from tests.attention import Attention, Heads, Stream, shuffled
from tests.laws.refuting import refuted

pytestmark = pytest.mark.models

X = torch.randn(2, 3, 3, dtype=torch.float64)


@st.composite
def attentions(draw):
    """A model with attention in double precision: its heads, their widths and how it is written are drawn."""
    shared = draw(st.sampled_from([1, 2]))
    heads = shared * draw(st.integers(2, 3))
    options = {"width": draw(st.integers(2, 5)), "values": draw(st.integers(2, 4)), "bias": draw(st.booleans())}
    how = draw(st.sampled_from(["matmul", "kernel", "einsum"]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 2**16)))
        return Stream(Attention(heads, shared, how=how, **options)).double().eval()


@st.composite
def ragged_plans(draw, graph, uniform=True):
    """A plan that cuts some groups row by row, and others, rows among them, as a whole."""
    bases, removed = bases_of(graph), {}
    for group in graph.groups:
        count = draw(st.integers(0, group.size - group.lower_bound))
        some = st.permutations(range(group.size)).map(lambda order, count=count: IndexSet.of(order[:count]))
        base = bases.get(group.atom)
        if base is not None:
            removed[group.atom] = RaggedSet(base, tuple(draw(some) for _ in range(base.size)))
        elif uniform:
            removed[group.atom] = draw(some)
    for balance in graph.balances:
        assert not any(atom in bases for atom in balance.atoms), "balanced rows are not drawn here"
        least = min(len(removed.get(atom, ())) for atom in balance.atoms)
        removed.update({atom: IndexSet.of(list(removed[atom])[:least]) for atom in balance.atoms if atom in removed})
    return plan_of(graph, removed)


def values(model):
    """Names and bits of everything that a model holds."""
    return {name: testing.tensor_bytes(tensor) for name, tensor in model.state_dict().items()}


def forced(graph, rows):
    """A plan that cuts groups row by row, whether or not that is right."""
    plan = plan_of(graph, {atom: IndexSet.range(0, len(lost)) for atom, lost in rows.items()})
    cuts = [
        attrs.evolve(cut, removed=rows[cut.atom].flat(cut.atom.size), base=rows[cut.atom].base) if cut.atom in rows else cut
        for cut in plan.cuts
    ]
    return attrs.evolve(plan, cuts=tuple(cuts))


def gap(plan, model, x):
    """By how much the masked model differs from the executed one."""
    with torch.no_grad():
        return float((dg.mask(plan, model)(x) - dg.execute(plan, model)(x)).abs().max())


def assert_exact(plan, model, x, tolerance=1e-10):
    """Law 6: what is cut computes what is masked."""
    assert gap(plan, model, x) < tolerance, "the function is another one"


@given(attentions(), st.data())
def test_what_each_head_loses_is_what_masking_takes_from_it(model, data):
    """Law 6 and the square: in attention of any form the cut model computes what the masked one does."""
    graph = dg.trace(model, X)
    roles = {graph.groups_by_name[name].role for name in dg.ragged.ragged_groups(graph)}
    assert roles - {"kv_group"} == {"head_dim"}
    plan = data.draw(ragged_plans(graph))
    small = dg.execute(plan, model)
    assert dg.trace(small, X) == plan.apply(graph)
    assert_exact(plan, model, X)


def change(model, graph, atom, base, x):
    """By how much the function changes when each row has its indices in another order."""
    with torch.no_grad():
        return float((shuffled(graph, model, atom, base)(x) - model(x)).abs().max())


def assert_order_is_free(model, graph, atom, base, x, tolerance=1e-10):
    """The law of rows: their indices may stand in any order, each in its own."""
    assert change(model, graph, atom, base, x) < tolerance, "the order counts"


@given(attentions())
def test_the_order_in_each_head_is_free(model):
    """Why a cut row by row is exact: each row's indices may stand in an order of their own, and the function is the same."""
    graph = dg.trace(model, X)
    assert bases_of(graph)
    for atom, base in bases_of(graph).items():
        assert_order_is_free(model, graph, atom, base, X)


@given(attentions(), st.data())
def test_equal_rows_are_a_plain_cut(model, data):
    """Where every row loses the same, the plan is the uniform one, its file too; else its graph is that of one as large."""
    graph = dg.trace(model, X)
    free = {atom: atom.size - graph.group_of[atom].lower_bound for atom in bases_of(graph)}
    assume(any(free.values()))
    for atom, most in free.items():
        if not most:
            continue
        base = bases_of(graph)[atom]
        lost = data.draw(st.sets(st.integers(0, atom.size - 1), min_size=1, max_size=most).map(IndexSet.of))
        plain = plan_of(graph, {atom: lost})
        assert plan_of(graph, {atom: RaggedSet(base, (lost,) * base.size)}) == plain
        other = data.draw(st.permutations(range(atom.size)).map(lambda order, lost=lost: IndexSet.of(order[: len(lost)])))
        ragged = plan_of(graph, {atom: RaggedSet(base, (other, *(lost,) * (base.size - 1)))})
        assert ragged.result == plain.result and ragged.apply(graph) == plain.apply(graph)
        event(f"other rows: {other != lost}")
        assert (ragged == plain) == (other == lost)


def assert_composition(graph, model, p, q, both):
    """Law 4: both plans as one do what they do one after the other, to graphs and to modules."""
    assert both.apply(graph) == q.apply(p.apply(graph)), "another graph"
    assert values(dg.execute(both, model)) == values(dg.execute(q, dg.execute(p, model))), "other numbers"


@given(attentions(), st.data())
def test_ragged_plans_compose_in_original_indices(model, data):
    """Law 4: plain and ragged cuts, of heads and of their dims, in any order, are one plan that does what they do in turn."""
    graph = dg.trace(model, X)
    p = data.draw(ragged_plans(graph))
    q = data.draw(ragged_plans(p.apply(graph)))
    r = data.draw(ragged_plans(q.apply(p.apply(graph))))
    both = p.then(q)
    assert_composition(graph, model, p, q, both)
    assert p.then(q).then(r) == p.then(q.then(r))
    assert dg.Plan.empty(graph).then(p) == p == p.then(dg.Plan.empty(p.apply(graph)))
    assert dg.schedules.remainder(graph, p, both) == q


def test_the_law_of_composition_refutes_rows_that_are_not_lifted():
    """A second cut counts in what the first one left, row by row; taking its numbers as original ones is noticed."""
    torch.manual_seed(0)
    model = Stream(Attention()).double()
    graph = dg.trace(model, X)
    name = "inner.v.weight:0[1]"
    p = dg.cut_each(graph, {name: [[0], [1], [2], [0]]})
    q = dg.cut_each(p.apply(graph), {name: [[0], [1], [0], [1]]})
    assert_composition(graph, model, p, q, p.then(q))
    refuted(assert_composition, graph, model, p, q, p, says="another graph")
    unlifted = dg.cut_each(graph, {name: [[0, 2], [1, 2], [0, 2], [0, 1]]})
    refuted(assert_composition, graph, model, p, q, unlifted, says="other numbers")
    base = bases_of(graph)[graph.groups_by_name[name].atom]
    assert p.then(q).cuts[0].removal == RaggedSet(base, tuple(map(IndexSet.of, [[0, 1], [1, 2], [0, 2], [0, 2]])))
    wrong = [a | b for a, b in zip(p.cuts[0].removal.sets, q.cuts[0].removal.sets, strict=True)]
    assert tuple(wrong) != p.then(q).cuts[0].removal.sets and len({len(row) for row in wrong}) > 1


@given(st.data())
def test_cuts_in_turn_take_what_stays_in_each_row(data):
    """`joined` against a model of plain lists: rows, and indices in each, are struck out in two rounds."""
    rows, width = data.draw(st.integers(2, 4)), data.draw(st.integers(3, 6))
    base, atom = Atom(0, rows), Atom(1, width)
    table = {row: list(range(width)) for row in range(rows)}
    cuts = []
    for _ in range(2):
        left = sorted(table)
        size = len(table[left[0]])
        whole = data.draw(st.sets(st.integers(0, len(left) - 1), max_size=len(left) - 1))
        count = data.draw(st.integers(0, size - 1))
        sets = [set(data.draw(st.permutations(range(size)))[:count]) for _ in left]
        now = RaggedSet(Atom(0, len(left)), tuple(map(IndexSet.of, sets))).without(IndexSet.of(whole)) if count else IndexSet()
        cuts.append({base: IndexSet.of(whole), atom: RaggedSet(base, now.sets) if isinstance(now, RaggedSet) else now})
        table = {
            row: [index for place, index in enumerate(table[row]) if place not in lost]
            for number, (row, lost) in enumerate(zip(left, sets, strict=True))
            if number not in whole
        }
    found = joined(*cuts)
    lost = found[atom].sets if isinstance(found[atom], RaggedSet) else (found[atom],) * rows
    assert [row for row in range(rows) if row not in found[base]] == sorted(table)
    assert {row: [index for index in range(width) if index not in lost[row]] for row in table} == table


@given(attentions(), st.data())
def test_a_ragged_plan_is_what_was_saved(model, data):
    """Law 5: the file holds the rows; one without any is as it always was."""
    graph = dg.trace(model, X)
    plan = data.draw(ragged_plans(graph))
    text = codec.dumps("plan", plan)
    assert codec.loads(text, "plan", dg.Plan) == plan
    assert text.count('"base": [') == sum(cut.base is not None for cut in plan.cuts)


@given(st.data())
def test_images_of_rows_are_those_of_brute_force(data):
    """Index by index: in each place of a space the row says whether an index goes."""
    base, atom, other = Atom(0, data.draw(st.integers(2, 3))), Atom(1, data.draw(st.integers(2, 4))), Atom(2, 2)
    block = data.draw(
        st.sampled_from(
            [
                *(product(base, atom), product(base, other, atom), product(other, base, atom), product(base, atom, other)),
                product(base, laid_end_to_end(other, atom)),
                laid_end_to_end(product(base, atom), other, product(base, atom)),
            ]
        )
    )
    sets = tuple(
        map(IndexSet.of, data.draw(st.lists(st.sets(st.integers(0, atom.size - 1)), min_size=base.size, max_size=base.size)))
    )
    places = _places(block)
    expected = [flat for flat, place in enumerate(places) if atom in place and place[atom] in sets[place[base]]]
    assert ragged_image(block, atom, RaggedSet(base, sets)) == IndexSet.of(expected)
    assert RaggedSet.of_flat(base, atom.size, RaggedSet(base, sets).flat(atom.size)).sets == sets


def test_equal_rows_need_no_base_around_them():
    """What every row loses alike is a plain image, also of an atom by itself or backwards; else there must be rows."""
    base, atom, one, two = Atom(0, 2), Atom(1, 3), IndexSet.of([0]), IndexSet.of([1])
    for space in (atom, backwards(atom), product(base, backwards(atom)), laid_end_to_end(atom, product(base, atom))):
        assert ragged_image(space, atom, RaggedSet(base, (one, one))) == image(space, {atom: one})
        with pytest.raises(dg.errors.PlanError, match=r"is to be cut ragged, but stands"):
            ragged_image(space, atom, RaggedSet(base, (one, two)))
    assert RaggedSet(base, (one, one)).without(IndexSet()) == RaggedSet(base, (one, two)).without(two) == one
    assert RaggedSet(base, (one, two)).without(IndexSet()) == RaggedSet(base, (one, two))
    assert RaggedSet(base, (one, two)).without(IndexSet.range(0, 2)) == RaggedSet(base, (IndexSet(),) * 2)


def test_rows_that_go_as_a_whole_are_not_counted():
    """Only those that stay must lose equally many; where none stays, the base is refused by itself."""
    base, one, two = Atom(0, 3), IndexSet.of([0]), IndexSet.of([0, 1])
    rows = RaggedSet(base, (one, two, one))
    for gone in (IndexSet.of([1]), IndexSet.of([0, 2]), IndexSet.range(0, 3)):
        assert row_problem("a", rows, gone) is None
    for gone in (None, IndexSet(), IndexSet.of([0])):
        problem = row_problem("a", rows, gone)
        assert problem is not None and re.fullmatch(r"group a must lose equally many .* 2 in row 1, 1 in row 2\.", problem)
    assert row_problem("a", RaggedSet(base, (one, one)), None) == "group a has 3 rows, met indices for 2."


@pytest.mark.parametrize("rows", [[[1.0], [2.0]], ((1.0,), (2.0,)), torch.rand(2, 3), [torch.rand(3), torch.rand(3)]])
def test_scores_are_a_table_where_the_first_entry_is_a_row(rows):
    """Lists, tuples and tensors of rows; a number is no row, nor is a tensor that holds one, a matrix, or nothing at all."""
    assert is_table(rows) is True
    for plain in (
        [1.0, 2.0],
        (1, 2),
        torch.rand(4),
        [torch.tensor(1.0)],
        torch.rand(2, 3, 4),
        [],
        torch.rand(0),
        torch.rand(0, 3),
    ):
        assert is_table(plain) is False


def _places(space):
    """For each flat index the index of each atom that it stands for."""
    if isinstance(space, Atom):
        return [{space: index} for index in range(space.size)]
    if hasattr(space, "parts"):
        return [place for part in space.parts for place in _places(part)]
    first, *rest = space.factors
    return [{**one, **two} for one in _places(first) for two in (_places(product(*rest)) if rest else [{}])]


def total(self, a, b):
    return a + (a + b).sum(2, keepdim=True)


def gram(self, a, b):
    return torch.softmax(a @ b.transpose(-1, -2), -1) @ a


def over_heads(self, a, b):
    return a.softmax(2) * b


def heads_as_tokens(self, a, b):
    return F.scaled_dot_product_attention(a + b, b, b, scale=0.5)


def summed_letter(self, a, b):
    return torch.einsum("bthd,btgd->btgd", a + b, b)


def summed_letter_of_three(self, a, b):
    return b * torch.einsum("bthd,bth,btg->btgd", a, a.sum(-1), a.sum(-1))


def statistics_over_heads(self, a, b):
    normed = F.batch_norm(a.flatten(0, 1).transpose(1, 2), None, None, training=True)
    return normed.transpose(1, 2).unflatten(0, a.shape[:2]) + b


def norm_over_heads(self, a, b):
    return F.layer_norm(a.transpose(2, 3), (self.heads,)).transpose(2, 3) + b


MIXING = [
    total,
    gram,
    over_heads,
    heads_as_tokens,
    summed_letter,
    summed_letter_of_three,
    statistics_over_heads,
    norm_over_heads,
]


@pytest.mark.parametrize("function", MIXING, ids=lambda function: function.__name__)
def test_what_mixes_heads_is_refused_and_would_be_wrong(function):
    """Each of these pairs one head's dims with another's: forced row by row it breaks law 6, and so it is refused.

    Where heads are normalised together, masking differs from removing anyway; there the order of the rows tells.
    """
    torch.manual_seed(0)
    model = Stream(Heads(function)).double().eval()
    graph = dg.trace(model, X)
    group = next(group for group in graph.groups if group.name == "inner.a.weight:0[1]")
    base = graph.groups_by_name["inner.a.weight:0[0]"].atom
    reason = dg.ragged.why_uniform(graph, group)
    assert reason is not None and ("inner.a.weight:0[0]" in reason or "without any of its blocks" in reason)
    with pytest.raises(dg.errors.PlanError, match="must lose the same indices everywhere"):
        dg.cut_each(graph, {group.name: [[0, 1], [1, 2], [0, 4], [2, 3]]})
    same, other = (RaggedSet(base, tuple(map(IndexSet.of, rows))) for rows in ([[0, 1]] * 4, [[0, 1], [1, 2], [0, 4], [2, 3]]))
    assert_exact(forced(graph, {group.atom: same}), model, X)  # plainly cut it is right
    refuted(assert_exact, forced(graph, {group.atom: other}), model, X, tolerance=1e-4)
    refuted(assert_order_is_free, model, graph, group.atom, base, X, tolerance=1e-4)


def lone_scale(self, a, b):
    return a * self.scale + b


def rotary(self, a, b):
    half = self.width // 2
    turned = torch.cat([-a[..., half:], a[..., :half]], -1)
    return a * self.cos + turned * self.sin + b


def shared_layer(self, a, b):
    return self.mixed(a).mean(-1, keepdim=True) * b


def permuted(self, a, b):
    return a[:, :, torch.tensor([1, 0, 3, 2])] + b


def flipped(self, a, b):
    return a.flip(2) + b


def rolled(self, a, b):
    return a.roll(1, 2) + b


def first_head(self, a, b):
    return a + b[:, :, :1]


REFUSED = [
    (lone_scale, {"scale": nn.Parameter(torch.rand(5))}, "inner.scale holds it without any of its blocks"),
    (rotary, {"cos": torch.rand(3, 1, 4), "sin": torch.rand(3, 1, 4)}, "inner.cos holds it without any of its blocks"),
    (shared_layer, {"mixed": nn.Linear(5, 7)}, "inner.mixed.weight holds it without any of its blocks"),
    (permuted, {}, None),
    (flipped, {}, None),
    (rolled, {}, None),
    (first_head, {}, None),
]


@pytest.mark.parametrize(("function", "held", "reason"), REFUSED, ids=lambda part: getattr(part, "__name__", ""))
def test_what_heads_share_or_exchange_is_refused(function, held, reason):
    """A table, a scale or a layer for all heads ties their dims; heads that change places are no rows."""
    width = 4 if function is rotary else 5
    graph = dg.trace(Stream(Heads(function, width=width, **held)).double(), X)
    axis = graph.axis("inner.a.weight", 0)
    reasons = [dg.ragged.why_uniform(graph, graph.group_of[atom]) for atom in atoms(axis) if atom in graph.group_of]
    assert reasons and all(reasons)
    assert reason is None or any(reason in text for text in reasons)


def test_a_table_of_rotations_would_break_law_6():
    """The negative control: with the rows of RoPE's table taken from the first head, the others are turned by wrong angles."""
    torch.manual_seed(0)
    width, heads = 4, 4
    tables = {name: torch.rand(3, 1, width) for name in ("cos", "sin")}
    model = Stream(Heads(lone_scale_by_table, width=width, **tables)).double().eval()
    graph = dg.trace(model, X)
    group = graph.groups_by_name["inner.a.weight:0[1]"]
    base = graph.groups_by_name["inner.a.weight:0[0]"].atom
    assert "inner.cos holds it without any of its blocks" in dg.ragged.why_uniform(graph, group)
    plain = plan_of(graph, {group.atom: IndexSet.of([1])})
    assert_exact(plain, model, X)
    rows = RaggedSet(base, tuple(map(IndexSet.of, [[1], [2], [3], [0]])))
    wrong = forced(graph, {group.atom: rows})
    with pytest.raises(dg.errors.MismatchError, match="not inside of its rows"):
        dg.execute(wrong, model)
    shared = tuple(axis for axis in wrong.axes if base in atoms(axis.space))
    small = dg.execute(attrs.evolve(wrong, axes=shared), model)
    kept = torch.tensor([0, 2, 3])
    small.inner.cos, small.inner.sin = model.inner.cos[..., kept], model.inner.sin[..., kept]
    masked = dg.mask(attrs.evolve(wrong, axes=shared), model)
    assert base.size == heads
    refuted(torch.testing.assert_close, small(X), masked(X), atol=1e-3, rtol=0)


def lone_scale_by_table(self, a, b):
    return a * self.cos + b * self.sin


def scores_of_talking_heads(self, a, b):
    scores = torch.einsum("bthd,bshd->btsh", a, b)
    return torch.einsum("btsh,bshd->bthd", self.talk(scores).softmax(2), b)


def normed_heads(self, a, b):
    return F.rms_norm(a, (self.width,)) * b


def gated(self, a, b):
    gate = torch.sigmoid(a.sum(-1, keepdim=True))
    return torch.cat([gate * a, b], 1)[:, : a.shape[1]]


def scaled_heads(self, a, b):
    return a * self.each[:, None] + torch.nn.functional.dropout(b, 0.1, False)


def joined_norm(self, a, b):
    return self.norm(a.flatten(2)).unflatten(2, (self.heads, self.width)) * b


def normed_apart(self, a, b):
    return (a - a.mean(-1, keepdim=True)) / (a.std(-1, keepdim=True) + 1) + b


def normed_by_groups(self, a, b):
    flat = F.group_norm(a.flatten(2).flatten(0, 1), self.heads)
    return flat.view(a.shape[0], a.shape[1], self.heads, self.width) + b


def rms_of_all(self, a, b):
    return (F.rms_norm(a.flatten(2), (self.heads * self.width,)) * self.gain).view_as(a) + b


def unscaled_attention(self, a, b):
    q, k = a.transpose(1, 2), b.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, k * 2).transpose(1, 2)


def linear_attention(self, a, b):
    memory = torch.einsum("bthd,bthe->bhde", F.elu(a) + 1, b)
    return torch.einsum("bthd,bhde->bthe", a, memory) + b


ALLOWED = [
    (gated, {}, True),
    (scaled_heads, {"each": nn.Parameter(torch.rand(4))}, True),
    (normed_heads, {}, False),
    (normed_apart, {}, False),
    (normed_by_groups, {}, False),
    (rms_of_all, {"gain": nn.Parameter(torch.rand(20))}, False),
    (unscaled_attention, {}, False),
    (linear_attention, {}, True),
    (joined_norm, {"norm": nn.LayerNorm(20)}, False),
]


@pytest.mark.parametrize(("function", "held", "exact"), ALLOWED, ids=lambda part: getattr(part, "__name__", ""))
def test_what_treats_each_head_by_itself_is_allowed(function, held, exact):
    """Scales and gates by head, norms of each head or of all dims together: each head may lose its own.

    Where something is normalised over the dims, masking differs from removing by nature; there their order tells.
    """
    torch.manual_seed(0)
    model = Stream(Heads(function, **held)).double().eval()
    graph = dg.trace(model, X)
    group = graph.group_of[atoms(graph.axis("inner.a.weight", 0))[-1]]
    assert dg.ragged.why_uniform(graph, group) is None
    tied = {group.atom} | {atom for balance in graph.balances if group.atom in balance.atoms for atom in balance.atoms}
    plan = dg.cut_each(graph, {graph.group_of[atom].name: [[0, 1], [1, 2], [0, 4], [2, 3]] for atom in tied})
    assert dg.trace(dg.execute(plan, model), X) == plan.apply(graph)
    assert_order_is_free(model, graph, group.atom, bases_of(graph)[group.atom], X)
    if exact:
        assert_exact(plan, model, X)
    else:
        refuted(assert_exact, plan, model, X)


def test_heads_that_talk_keep_their_own_dims():
    """Mixing the scores of heads does not tie the dims of the queries and keys, only those that the mixed scores weigh."""
    torch.manual_seed(0)
    model = Stream(Heads(scores_of_talking_heads, talk=nn.Linear(4, 4, bias=False))).double().eval()
    graph = dg.trace(model, X)
    for name in dg.ragged.ragged_groups(graph):
        width = graph.groups_by_name[name].size
        rows = graph.groups_by_name[dg.ragged.ragged_groups(graph)[name]].size
        assert_exact(dg.cut_each(graph, {name: [[(row + 1) % width] for row in range(rows)]}), model, X)


@given(testing.modules(("attention", "grouped", "group norm", "halves")), st.data())
def test_whatever_is_ragged_obeys_the_laws(model, data):
    """On random networks every group that may be cut row by row is cut so, and the square and law 6 hold."""
    x = torch.randn(2, 3, 4, 4)
    graph = dg.trace(model, x)
    event(f"something may be cut row by row: {bool(bases_of(graph))}")
    for atom, base in bases_of(graph).items():
        assert_order_is_free(model.double(), graph, atom, base, x.double(), 1e-8)
    model.float()
    plan = data.draw(ragged_plans(graph, uniform=False))
    assert dg.trace(dg.execute(plan, model), x) == plan.apply(graph)
    testing.assert_zero_channels(graph, plan, model, x)
