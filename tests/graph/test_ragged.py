"""Cuts row by row on models whose numbers are known, on models of transformers, and everything that works on plans."""

import attrs
import pytest
import torch

import depgraph as dg
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import atoms
from depgraph.graph.ragged import bases_of
from depgraph.rules.elementwise import DRAWN, POINTWISE
from tests.attention import Attention, Stream, shuffled
from tests.laws.refuting import refuted
from tests.zoo import transformers
from tests.zoo.conformance import tensors
from tests.zoo.language import models

pytestmark = pytest.mark.models

X = torch.randn(2, 3, 3)
WIDTH, VALUES = "inner.q.weight:0[1]", "inner.v.weight:0[1]"


def model_and_graph(seed=0, **options):
    """Attention of four heads in a stream, and its graph."""
    torch.manual_seed(seed)
    model = Stream(Attention(**options)).eval()
    return model, dg.trace(model, X)


def test_each_head_loses_its_own_rows_of_every_parameter():
    """Exactly the named rows of values, their bias and the columns that read them go; what is left stays in order."""
    model, graph = model_and_graph(heads=2, width=2, values=3)
    plan = dg.cut_each(graph, {VALUES: [[0], [2]]})
    assert plan.kept == {
        "inner.v.weight": {0: IndexSet.of([1, 2, 3, 4])},
        "inner.v.bias": {0: IndexSet.of([1, 2, 3, 4])},
        "inner.o.weight": {1: IndexSet.of([1, 2, 3, 4])},
    }
    small = dg.execute(plan, model)
    assert torch.equal(small.inner.v.weight, model.inner.v.weight[1:5])
    assert torch.equal(small.inner.o.weight, model.inner.o.weight[:, 1:5])
    assert small.inner.values == 2 and [edit.path for edit in plan.edits if "features" not in edit.path] == ["inner.values"]
    assert str(plan).splitlines()[1] == f"  {VALUES}: 1 of 3 indices go, of each of 2 rows its own"
    assert plan.cuts[0].removal.sets == (IndexSet.of([0]), IndexSet.of([2])) and plan.cuts[0].count == 1


def test_heads_that_go_take_their_own_dims_along():
    """Of a head that goes as a whole no dims are said to go; where one head is left, the cut is a plain one."""
    _, graph = model_and_graph(heads=3, values=3)
    heads = graph.groups_by_name["inner.q.weight:0[0]"]
    ragged = dg.cut_each(graph, {VALUES: [[0], [1], [2]]})
    fewer = ragged.then(dg.combine(ragged.apply(graph), [{heads.name: [1]}]))
    assert [str(row) for row in next(cut for cut in fewer.cuts if cut.group == VALUES).removal.sets] == ["0", "", "2"]
    one = ragged.then(dg.combine(ragged.apply(graph), [{heads.name: [0, 1]}]))
    cut = next(cut for cut in one.cuts if cut.group == VALUES)
    assert cut.base is None and cut.removed == IndexSet.of([2])


def test_a_plan_file_without_rows_is_as_before(tmp_path):
    """Files of plain plans have no new key, and such files are read; a ragged one comes back as it was."""
    _, graph = model_and_graph()
    plain, ragged = dg.cut(graph, "enter.weight", [1], dim=0), dg.cut_each(graph, {VALUES: [[0], [1], [2], [0]]})
    for plan, marks in ((plain, 0), (ragged, 1)):
        plan.save(tmp_path / "plan.json")
        content = (tmp_path / "plan.json").read_text(encoding="utf-8")
        assert dg.Plan.load(tmp_path / "plan.json") == plan and content.count('"base": [') == marks


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0], [1], [2]], "has 4 rows, met indices for 3"),
        ([[0], [1], [2], [0, 1]], "equally many indices in each row, met 1 in row 0"),
        ([[0], [1], [2], [3]], r"has the indices 0 to 2, met \[3\]"),
        ([[0], [1], [2], [-1]], r"row 3 of group .* has the indices 0 to 2, met \[-1\]"),
        ([[0], [1], [2], [1, 1]], r"given more than once: \[1\]; give each once"),
        ([0, "a"], "expected integers as indices of group .*, met 'a'"),
        ([[0], [1], [2], 1], "expected a list of indices of row 3 of group .*, met 1"),
        ([[0, 1, 2]] * 4, "would lose its last index"),
    ],
)
def test_rows_that_cannot_be_cut_are_refused(rows, message):
    """Too few rows, unequal ones, and indices that do not exist are refused with what was met."""
    _, graph = model_and_graph()
    with pytest.raises(dg.errors.PlanError, match=message):
        dg.cut_each(graph, {VALUES: rows})


def test_groups_without_rows_say_why():
    """A width of the stream has no blocks; an unknown name is told as such."""
    _, graph = model_and_graph()
    with pytest.raises(dg.errors.PlanError, match="no other group counts blocks of enter"):
        dg.cut_each(graph, {"enter.weight:0": [[0]]})
    assert dg.ragged.ragged_groups(graph) == {WIDTH: "inner.q.weight:0[0]", VALUES: "inner.q.weight:0[0]"}
    with pytest.raises(dg.errors.UnknownNameError):
        dg.ragged.why_uniform(graph, "nothing")


def loss(model, batch):
    return model(batch).square().mean((1, 2))


CRITERIA = [
    *(
        dg.Magnitude(),
        dg.Magnitude(p=1, normaliser="none"),
        dg.Magnitude(normaliser="sum"),
        dg.criteria.LAMP(),
        dg.criteria.Elementwise(torch.abs),
    ),
    *(
        dg.criteria.Taylor([X], loss),
        dg.criteria.Hessian([X], loss),
        dg.criteria.OBDC([X], loss),
        dg.criteria.Wanda([X]),
        dg.criteria.Activation([X], statistic="absolute"),
    ),
    *(dg.Magnitude(reduction="max"), dg.Magnitude(normaliser="gaussian"), dg.criteria.FPGM(), dg.Magnitude(bias=True)),
]


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: type(criterion).__name__)
@pytest.mark.parametrize("shared", [1, 2])
def test_tables_have_a_row_for_each_head(criterion, shared):
    """Each head loses its own lowest of the table; the graph, and so the cost, is that of the uniform cut of that number."""
    model, graph = model_and_graph(shared=shared)
    tables = dg.score(graph, model, attrs.evolve(criterion, ragged=True))
    plain = dg.score(graph, model, criterion)
    bases = dg.ragged.ragged_groups(graph)
    assert {name for name, values in tables.items() if isinstance(values[0], tuple)} == set(bases)
    plan = dg.plan(graph, tables, ratio=0.5)
    uniform = dg.plan(graph, plain, ratio=0.5)
    assert plan.apply(graph) == uniform.apply(graph)
    for cut in plan.cuts:
        values = tables[cut.group]
        rows = cut.removal.sets if cut.base is not None else (cut.removed,) * len(values)
        if cut.group not in bases:
            assert cut == next(other for other in uniform.cuts if other.group == cut.group)
        elif type(criterion) is not dg.criteria.LAMP and criterion.normaliser != "gaussian":
            for row, lost in zip(values, rows, strict=True):
                assert max(row[index] for index in lost) <= min(row[index] for index in range(len(row)) if index not in lost)


@pytest.mark.parametrize("normaliser", ["none", "sum", "mean"])
@pytest.mark.parametrize(
    "criterion", [dg.Magnitude(), dg.criteria.Taylor([X], loss), dg.criteria.Wanda([X]), dg.criteria.Activation([X])]
)
def test_the_rows_of_a_table_add_up_to_the_plain_scores(criterion, normaliser):
    """What sums over all places of an index sums over heads: table and plain scores are of one scale."""
    model, graph = model_and_graph(shared=2)
    criterion = attrs.evolve(criterion, normaliser=normaliser)
    tables, plain = dg.score(graph, model, attrs.evolve(criterion, ragged=True)), dg.score(graph, model, criterion)
    for name in dg.ragged.ragged_groups(graph):
        assert torch.tensor(tables[name]).sum(0).tolist() == pytest.approx(plain[name], rel=1e-4)


def test_members_are_told_apart_by_row():
    """Without a reduction each member has a table, and reducing them gives the table of the reduction."""
    model, graph = model_and_graph()
    apart = dg.score(graph, model, dg.Magnitude(reduction="none", normaliser="none", ragged=True))
    whole = dg.score(graph, model, dg.Magnitude(reduction="max", ragged=True))
    reduced = apart.reduce("max", "mean")
    for name in (WIDTH, VALUES, "enter.weight:0"):
        assert torch.tensor(reduced[name]).shape == torch.tensor(whole[name]).shape
        torch.testing.assert_close(torch.tensor(reduced[name]), torch.tensor(whole[name]))


def test_ragged_keeps_at_least_what_uniform_keeps():
    """By a criterion that is a sum over heads, the kept importance is never less than that of the uniform cut."""
    model, graph = model_and_graph(width=8, values=8)
    criterion = dg.Magnitude(normaliser="none")
    tables, plain = dg.score(graph, model, attrs.evolve(criterion, ragged=True)), dg.score(graph, model, criterion)
    for name in (WIDTH, VALUES):
        ragged = next(cut for cut in dg.plan(graph, tables, ratio=0.5).cuts if cut.group == name)
        uniform = next(cut for cut in dg.plan(graph, plain, ratio=0.5).cuts if cut.group == name)
        lost = sum(row[index] for row, gone in zip(tables[name], ragged.removal.sets, strict=True) for index in gone)
        assert lost < sum(plain[name][index] for index in uniform.removed)


def test_tables_obey_targets_limits_and_infinities():
    """Budgets are met, widths rounded, and what is infinitely important in one head is not taken there."""
    model, graph = model_and_graph(width=8, values=8)
    tables = dg.score(graph, model, dg.Magnitude(ragged=True))
    budget = dg.plan(graph, tables, macs=0.7, scope="global", round_to=4)
    assert budget.apply(graph).macs <= 0.7 * graph.macs
    assert all((cut.atom.size - cut.count) % 4 == 0 for cut in budget.cuts)
    assert any(cut.base is not None for cut in budget.cuts)
    held = [list(row) for row in tables[WIDTH]]
    held[1] = [float("inf")] * 6 + held[1][6:]
    few = dg.plan(graph, {**tables, WIDTH: held}, ratio=0.5, only=["role:head_dim"], scope="global")
    cut = next(cut for cut in few.cuts if cut.group == WIDTH)
    assert cut.count <= 2 and cut.removal.sets[1] <= IndexSet.of([6, 7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[:2], "has 4 rows, its scores have 2"),
        (lambda table: [row[:2] for row in table], "has 5 indices, its scores are 2"),
        (lambda table: [[float("nan")] * 5, *table[1:]], "hold NaN"),
    ],
)
def test_tables_that_do_not_fit_are_refused(change, message):
    """Rows or numbers that are missing, and NaN, are told by the name of the group."""
    model, graph = model_and_graph()
    tables = dg.score(graph, model, dg.criteria.Random(0, ragged=True))
    with pytest.raises(dg.errors.PlanError, match=message):
        dg.plan(graph, {**tables, WIDTH: change(tables[WIDTH])}, ratio=0.5)


def test_tables_are_refused_where_one_number_per_index_is_meant():
    """A group without rows has no table; candidates and strengths are of one index in every row."""
    model, graph = model_and_graph()
    tables = dg.score(graph, model, dg.criteria.Random(0, ragged=True))
    plan = dg.plan(graph, tables, ratio=0.5)
    with pytest.raises(dg.errors.PlanError, match="no other group counts blocks"):
        dg.plan(graph, {**tables, "enter.weight:0": [[0.0] * 6] * 2}, ratio=0.5)
    with pytest.raises(dg.errors.PlanError, match="are a table"):
        list(dg.candidates(graph, tables))
    with pytest.raises(dg.errors.PlanError, match="is ragged"):
        list(dg.candidates(graph, dg.score(graph, model, dg.criteria.Random(0)), plan))
    with pytest.raises(dg.errors.PlanError, match="are a table"):
        dg.penalties.graded_strengths(tables, 0.1)
    with pytest.raises(dg.errors.PlanError, match="is ragged"):
        dg.penalties.grow(dg.penalties.strengths_of(graph), plan, delta=0.1)


def test_masks_optimizers_and_checkpoints_follow_rows():
    """The mask comes off, momentum is cut like its parameter, and a state dict cut by `kept` is that of the pruned model."""
    model, graph = model_and_graph()
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(3, ragged=True)), ratio={"*": 0.5, "role:head": 0.25})
    optimizer = torch.optim.Adam(model.parameters())
    model(X).square().sum().backward()
    optimizer.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = dg.execute(plan, model)
    with dg.mask_(plan, model):
        assert torch.equal(dg.execute(plan, model)(X), small(X))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, dims in plan.kept.items():
        for dim, kept in dims.items():
            before[name] = before[name].index_select(dim, torch.tensor(list(kept)))
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    going_on = torch.optim.Adam(small.parameters())
    going_on.load_state_dict(dg.optimizers.carry_state(plan, model, optimizer))
    kept = torch.tensor(list(plan.kept["inner.v.bias"][0]))
    moments = optimizer.state[model.inner.v.bias]["exp_avg"]
    assert torch.equal(going_on.state[small.inner.v.bias]["exp_avg"], moments[kept])
    replaced = dg.execute_(plan, model)
    assert torch.equal(model(X), small(X)) and len(replaced) == len(plan.kept)


def test_steps_are_nested_row_by_row():
    """Pruning in steps by tables: what a head has lost stays lost, and each step's plan is for the original."""
    model, graph = model_and_graph(width=8, values=6)
    table, target = dg.Magnitude(ragged=True), {"ratio": {"*": 0.5, "role:head": 0.5}}
    steps = list(dg.iterate(model, X, lambda graph, model: dg.score(graph, model, table), steps=3, target=target))
    done = dg.Plan.empty(graph)
    for step in steps:
        assert done.then(step.delta) == step.plan and step.plan.apply(graph) == step.graph
        assert all(
            torch.equal(a, b) for a, b in zip(step.model.parameters(), dg.execute(step.plan, model).parameters(), strict=True)
        )
        done = step.plan
    assert any(cut.base is not None for cut in done.cuts)
    first, last = ({cut.group: cut for cut in step.plan.cuts} for step in (steps[1], steps[2]))
    for name in (WIDTH, VALUES):
        heads = last["inner.q.weight:0[0]"].removed
        for head in heads.complement(4):
            assert first[name].removal.sets[head] <= last[name].removal.sets[head]


CONFIGS = {
    "bert": ("BertModel", "BertConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "vit": ("ViTModel", "ViTConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "gpt2": ("GPT2Model", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "llama": ("LlamaModel", "LlamaConfig", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "qwen3": ("Qwen3Model", "Qwen3Config", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
}
EXTRA = {
    "vit": {"image_size": 16, "patch_size": 8, "intermediate_size": 48},
    "gpt2": {"vocab_size": 50, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.needs("transformers")
def test_heads_of_transformers(name):
    """BERT, ViT and GPT-2 are cut head by head; of Llama and Qwen3 the values are, and queries and keys say what ties them."""
    library = transformers()
    model_class, config_class, options = CONFIGS[name]
    rest = EXTRA.get(name, {"vocab_size": 50, "intermediate_size": 48})
    if name in {"llama", "qwen3"}:
        rest = rest | {"num_key_value_heads": 2, "head_dim": 16}
    torch.manual_seed(0)
    model = getattr(library, model_class)(getattr(library, config_class)(**options, **rest)).eval()
    inputs = {"input_ids": torch.randint(0, 50, (2, 7))} if name != "vit" else {"pixel_values": torch.randn(2, 3, 16, 16)}
    inputs |= {"use_cache": False} if name in {"gpt2", "llama", "qwen3"} else {}
    graph = dg.trace(model, (), inputs)
    widths = [group for group in graph.groups if group.role == "head_dim"]
    tied = {group.name: reason for group in widths if (reason := dg.ragged.why_uniform(graph, group)) is not None}
    if name == "llama":
        assert len(tied) == 1 and "rotary_emb" in next(iter(tied.values())), tied
    elif name == "qwen3":
        assert len(tied) == 1 and "q_norm.weight holds it without any of its blocks" in next(iter(tied.values()))
    else:
        assert len(widths) == 4 and not tied
    scores = dg.score(graph, model, dg.criteria.Random(1, ragged=True))
    plan = dg.plan(graph, scores, ratio=0.5, only=["role:head_dim"])
    assert {cut.group for cut in plan.cuts if cut.base is None} == set(tied) and len(plan.cuts) == len(widths)
    small = dg.execute(plan, model)
    assert dg.trace(small, (), inputs) == plan.apply(graph)
    if name != "qwen3":  # it normalises queries and keys over their dims, where zeros count
        with torch.no_grad():
            masked, met = dg.mask(plan, model)(**inputs)[0], small(**inputs)[0]
        torch.testing.assert_close(met, masked, atol=1e-5, rtol=1e-5)


def test_explain_tells_rows():
    """The explanation of an axis says which of its groups may be cut row by row, and along what."""
    _, graph = model_and_graph()
    text = dg.explain(graph, "inner.v.weight", 0)
    assert text.count("each index of inner.q.weight:0[0] may lose its own of it") == 1
    assert "may lose its own" not in dg.explain(graph, "enter.weight", 0)


def test_one_key_head_for_all_is_shared():
    """With one key-value head for all queries its dims are those of every query head: all of them lose the same."""
    _, graph = model_and_graph(shared=4)
    for name in ("inner.q.weight", "inner.o.weight"):
        axis = graph.axis(name, 0 if name == "inner.q.weight" else 1)
        width = graph.group_of[atoms(axis)[-1]]
        assert "weight holds it without any of its blocks" in dg.ragged.why_uniform(graph, width)
    assert not dg.ragged.ragged_groups(graph)


BY_ITSELF = frozenset(POINTWISE.split())


def test_pointwise_operators_state_that_they_mix_nothing():
    """All that the table calls pointwise have the trait, more than any list beside it ever had."""
    assert {dg.RULES[f"aten.{name}"].traits.mixes for name in BY_ITSELF - {"add", "sub"}} == {()}
    assert len(BY_ITSELF) > 220


def _by_itself():
    """Calls of one or two operands of (3, 4) in which each row must be what the call makes of that row alone."""
    dropped = {"dropout", "native_dropout", "alpha_dropout", "feature_alpha_dropout", "feature_dropout", "rrelu"}
    skipped = {"empty_like", *dropped, *DRAWN.split()}
    for name in sorted(BY_ITSELF - skipped):
        packet = getattr(torch.ops.aten, name, None)
        for count in (1, 2):
            operands = [torch.rand(3, 4, dtype=torch.float64) + 0.5 for _ in range(count)]
            try:
                result = packet(*operands) if packet is not None else None
            except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
                continue
            if isinstance(result, torch.Tensor) and result.shape == (3, 4):
                yield name, operands


def assert_rows_alone(operator, operands):
    """The law: a row of the result is what the operator makes of that row by itself."""
    expected = operator(*[operand.clone() for operand in operands])
    for row in range(3):
        alone = operator(*[operand[row : row + 1].clone() for operand in operands])
        torch.testing.assert_close(alone.reshape(1, 4), expected[row : row + 1], equal_nan=True, msg=str(operator))


def test_known_operators_leave_rows_alone():
    """Of every known operator that takes one or two tensors of one shape, a row of the result is made of that row alone."""
    seen = set()
    for name, operands in _by_itself():
        assert_rows_alone(getattr(torch.ops.aten, name), operands)
        seen.add(name)
    assert len(seen) > 80, sorted(seen)


def test_that_law_refutes_a_softmax_over_rows():
    """A softmax over the rows is not known, for it fails the same law."""
    assert not {"softmax", "_softmax", "log_softmax", "cumsum", "renorm"} & BY_ITSELF
    refuted(assert_rows_alone, lambda x: torch.softmax(x, 0), [torch.rand(3, 4)])


ARCHITECTURES = ("gpt_neo", "t5", "bart", "deit", "swin2sr", "detr", "hubert", "clip_vision", "qwen3", "diffllama")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_order_in_each_row_is_free_in_transformers(name):
    """Whatever the graph calls ragged may stand in another order in each row, all groups at once: the outputs are the same."""
    torch.manual_seed(0)
    model, args, kwargs = models()[name]()
    graph = dg.trace(model.eval(), args, kwargs)
    bases = bases_of(graph)
    assert bases
    moved = model
    for number, (atom, base) in enumerate(bases.items()):
        moved = shuffled(graph, moved, atom, base, seed=number)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, moved.state_dict()[key])]
    assert changed
    with torch.no_grad():
        for before, after in zip(tensors(model(*args, **kwargs)), tensors(moved(*args, **kwargs)), strict=True):
            if before.is_floating_point():
                torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
