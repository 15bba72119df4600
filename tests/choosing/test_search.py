"""Tables of losses, allocations, evolution, and what memory and active parameters count."""

import random
import sys
from itertools import islice

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.choosing import search
from depgraph.choosing.budgets import terms_of
from depgraph.choosing.costs import CostPolynomial
from depgraph.choosing.tables import Curve, Order, Table
from depgraph.graph.ragged import bases_of
from tests.laws.test_search import ATTENTION, BLOCKS, MEMORY
from tests.zoo import transformers

X = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
SCORES = {group.name: tuple(range(group.size)) for group in BLOCKS.groups}


def model():
    """A model of the graph BLOCKS, with numbers that do not depend on other tests."""
    from tests.laws.test_search import Blocks

    torch.manual_seed(0)
    return Blocks()


def distance(net):
    """A function of a model: how far it is from the same one, uncut."""
    with torch.no_grad():
        whole = net(X)
    return lambda masked: (masked(X) - whole).square().mean().item()


def active(graph):
    """The parameters that a token meets."""
    return CostPolynomial(terms_of(graph, "active_params"))({})


def test_what_is_in_memory_and_what_a_token_meets():
    """Keys and values count before they are repeated; bytes by pattern; one of three experts is met."""
    assert dg.Memory()(ATTENTION) == 2 * ATTENTION.params
    assert dg.Memory(0, 10, batch=3, cache=1)(ATTENTION) == 3 * 10 * (4 + 4)
    of_output = sum(ATTENTION.tensor(name).numel for name in ("o.weight", "o.bias"))
    assert MEMORY(ATTENTION) == 2 * (ATTENTION.params - of_output) + 0.5 * of_output + 240
    assert active(ATTENTION) == ATTENTION.params - 2 * (2 * 6 * 5)
    assert active(BLOCKS) == BLOCKS.params
    assert dg.Memory(0, states=["up", "down"])(ATTENTION) == 2 * 2 * (3 * 6 * 5)


@pytest.mark.parametrize(("kind", "states"), [(nn.LSTM, 2), (nn.GRU, 1), (nn.RNN, 1)])
@pytest.mark.parametrize("batch_first", [True, False])
def test_states_of_recurrent_layers(kind, states, batch_first):
    """Each layer keeps its states of each sequence, whichever axis counts the sequences."""
    graph = dg.trace(kind(4, 6, num_layers=2, batch_first=batch_first), torch.zeros(3, 5, 4))
    assert dg.Memory(0, batch=7, cache=4)(graph) == 4 * 7 * states * 2 * 6


@pytest.mark.models
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_cache_of_a_language_model(attention):
    """Two layers with two key-value heads of 8 dims each, by either way of attention; a window for one of them."""
    library = transformers()
    config = library.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=50,
        attn_implementation=attention,
    )  # fmt: skip
    inputs = {"input_ids": torch.zeros(2, 5, dtype=torch.long), "use_cache": False}
    graph = dg.trace(library.LlamaForCausalLM(config).eval(), kwargs=inputs)
    assert dg.Memory(0, 100)(graph) == 2 * 100 * 2 * (2 * 2 * 8)
    assert dg.Memory(0, {"*": 100, "model.layers.0.*": 10})(graph) == 2 * (100 + 10) * (2 * 2 * 8)


@pytest.mark.models
@pytest.mark.parametrize("experts", ["grouped_mm", "batched_mm"])
def test_active_parameters_of_a_mixture(experts):
    """Of four stacked experts two are met; the router and all else count whole."""
    library = transformers()
    config = library.MixtralConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=50,
        num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    net = library.MixtralForCausalLM(config).eval()
    net.set_experts_implementation(experts)
    graph = dg.trace(net, kwargs={"input_ids": torch.zeros(2, 5, dtype=torch.long), "use_cache": False})
    stacked = sum(tensor.numel for tensor in graph.tensors if tensor.kind == "parameter" and ".experts." in tensor.name)
    assert active(graph) == graph.params - stacked // 2


def test_budgets_of_memory_and_active_parameters_join_others():
    """Each budget is kept, as a fraction or as a number, and schedules know them."""
    scores = {group.name: range(group.size) for group in ATTENTION.groups}
    plan = dg.plan(ATTENTION, scores, macs=0.8, memory=0.7, memory_model=MEMORY, active_params=150, only=["*", "role:head"])
    small = plan.apply(ATTENTION)
    realised = {"macs": small.macs, "active_params": active(small), "memory": MEMORY(small)}
    assert {target.name: target.realised for target in plan.targets} == realised
    assert all(target.realised <= target.requested for target in plan.targets)
    total = MEMORY(ATTENTION)
    (first, last) = dg.schedules.schedule(ATTENTION, {"memory": 500}, 2, memory_model=MEMORY)
    assert (first, last) == ({"memory": int(total - (total - 500) / 2)}, {"memory": 500})


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: dg.Memory(weights={"q.*": 2})(ATTENTION), "no bytes for 'k.weight'; add"),
        (lambda: dg.Memory(2, {"layer": 3})(ATTENTION), "cache_tokens= has no length for 'scaled_dot_product_attention'"),
        (lambda: dg.Memory(states=["none.*"])(ATTENTION), "no parameter"),
        (lambda: dg.Memory(weights=-1), "bytes of one element"),
        (lambda: dg.Memory(cache_tokens=0.5), "whole number of tokens"),
        (lambda: dg.Memory(batch=0), "whole number of sequences"),
        (lambda: dg.plan(BLOCKS, SCORES, macs=0.5, memory_model=dg.Memory()), "expected memory= with memory_model="),
        (lambda: dg.plan(BLOCKS, SCORES, memory=0), "expected memory= in"),
    ],
)
def test_wrong_memories(made, says):
    """Each error says what was expected and what to write instead."""
    with pytest.raises(dg.DepgraphError, match=says):
        made()


def test_an_interrupted_table_goes_on_from_its_file(tmp_path):
    """No cut is evaluated twice, the model is as it was, and the result is that of a run in one go."""
    net, path, calls = model(), tmp_path / "table.json", []
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    evaluate = distance(net)
    whole = dg.sensitivity(BLOCKS, net, evaluate, [0.4, 0.8], SCORES)

    def failing(masked):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(masked)

    with pytest.raises(KeyboardInterrupt):
        dg.sensitivity(BLOCKS, net, failing, [0.4, 0.8], SCORES, path=path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    part = Table.load(path)
    assert not part.is_complete and sum(len(curve.losses) for curve in part.curves) == 2
    with pytest.raises(dg.errors.PlanError, match="lacks losses"):
        dg.pareto(BLOCKS, part, {"macs": 0.5})
    assert dg.sensitivity(BLOCKS, net, failing, [0.4, 0.8], SCORES, path=path, progress=True) == whole
    assert len(calls) == 4 + sum(len(curve.counts) for curve in whole.curves) - 2
    assert Table.load(path) == whole
    for other in ({"ratios": [0.4]}, {"scores": {name: values[::-1] for name, values in SCORES.items()}}):
        with pytest.raises(dg.errors.PlanError, match="other scores, ratios or groups"):
            dg.sensitivity(**{"graph": BLOCKS, "model": net, "evaluate": evaluate, "ratios": [0.4, 0.8], "scores": SCORES}
                           | other, path=path)  # fmt: skip


def test_a_criterion_gives_the_order_and_uniform_groups_one_curve():
    """What goes at each count is what `dg.plan` would remove; groups that lose equally many are cut together."""
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = dg.trace(net, X)
    names = tuple(group.name for group in graph.groups)
    table = dg.sensitivity(graph, net, distance(net), [0.25, 0.5], dg.Magnitude(p=2), uniform=[names])
    (curve,) = table.curves
    plan = dg.plan(graph, dg.score(graph, net, dg.Magnitude(p=2)), ratio=0.5)
    assert curve.groups == names and {cut.atom: cut.removal for cut in plan.cuts} == curve.removed(graph, 4)
    assert table == Table(graph.fingerprint, table.whole, (curve,))


def test_limits_and_uniform_groups_of_an_allocation():
    """Counts that a limit forbids are not chosen, and uniform groups lose equally many."""
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = dg.trace(net, X)
    names = [group.name for group in graph.groups]
    order = tuple(range(8))
    curves = [Curve((Order(name, None, (order,)),), (1, 2, 3, 4, 6), (1.0, 2.0, 3.0, 4.0, 6.0)) for name in names]
    cheap = Curve((Order(names[0], None, (order,)),), (1, 2, 3, 4, 6), (0.1, 0.2, 0.3, 0.4, 0.6))
    table = Table(graph.fingerprint, 0.0, (cheap, curves[1]))

    def counts(**options):
        return [dg.pareto(graph, table, {"params": 0.6}, **options)[0].counts.get(name, 0) for name in names]

    assert counts()[0] == 6 and counts()[0] > counts()[1]
    assert counts(uniform=[tuple(names)]) == [3, 3]
    assert all((8 - count) % 4 == 0 for count in counts(round_to=4))
    assert counts(max_ratio={names[0]: 0.25})[0] <= 2
    assert counts(min_width={names[0]: 7})[0] <= 1
    with pytest.raises(dg.errors.PlanError, match="out of reach"):
        counts(max_ratio=0.2)


def test_ragged_scores_make_ragged_plans():
    """Where each head loses its own dims, so it does in the plan of an allocation, and from the file."""
    group, base = next((ATTENTION.group_of[atom], base) for atom, base in bases_of(ATTENTION).items() if atom.size > 1)
    scores = {group.name: [[*range(group.size)], *([[*range(group.size)][::-1]] * (base.size - 1))]}
    table = dg.choosing.tabulate(ATTENTION, scores, [0.5], lambda plan: float(len(plan.cuts)), only=[group.name])
    (best,) = dg.pareto(ATTENTION, table, {"params": 0.99})
    assert best.plan.cuts == dg.plan(ATTENTION, scores, ratio=0.5, only=[group.name]).cuts


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"budgets": {"latency": 0.5}}, "expected budgets such as"),
        ({"budgets": [{}]}, "expected budgets such as"),
        ({"budgets": {"macs": -1}}, "expected macs= in"),
        ({"budgets": {"macs": 0.001}}, "macs=.* is out of reach.*measure larger ratios"),
        ({"budgets": {"macs": 0.5}, "top_k": 0}, "expected top_k="),
        ({"budgets": {"macs": 0.5}, "memory_model": dg.Memory()}, "none of the budgets has one"),
        ({"graph": ATTENTION, "budgets": {"macs": 0.5}}, "the table is of another graph"),
        ({"table": {}, "budgets": {"macs": 0.5}}, "expected a table from dg.sensitivity"),
    ],
)
def test_wrong_questions_to_pareto(wrong, says):
    """Each error says what was expected."""
    table = dg.choosing.tabulate(BLOCKS, SCORES, [0.5], lambda plan: float(len(plan.cuts)))
    with pytest.raises(dg.DepgraphError, match=f"(?s){says}"):
        dg.pareto(**{"graph": BLOCKS, "table": table} | wrong)


def test_without_scipy_the_error_names_the_extra(monkeypatch):
    """And a drawing without matplotlib names its own."""
    table = dg.choosing.tabulate(BLOCKS, SCORES, [0.5], lambda plan: float(len(plan.cuts)))
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(dg.errors.PlanError, match=r"depgraph\[search\]"):
        dg.pareto(BLOCKS, table, {"macs": 0.8})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(dg.errors.PlanError, match=r"depgraph\[plots\]"):
        table.plot()


def test_too_many_combinations_are_refused(monkeypatch):
    """Where sizes of many groups are multiplied the error says what to ask for instead."""
    monkeypatch.setattr(search, "_MOST", 3)
    table = dg.choosing.tabulate(BLOCKS, SCORES, [0.5], lambda plan: float(len(plan.cuts)))
    with pytest.raises(dg.errors.PlanError, match="combinations of widths"):
        dg.pareto(BLOCKS, table, {"macs": 0.8})


def test_a_drawing_has_an_axis_for_each_curve():
    """The loss over the fraction that goes, from the whole model on."""
    table = dg.choosing.tabulate(BLOCKS, SCORES, [0.4, 0.8], lambda plan: sum(cut.count for cut in plan.cuts))
    shown = [axis for axis in table.plot(columns=2).axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == [curve.groups[0] for curve in table.curves]
    assert [[*axis.lines[0].get_ydata()] for axis in shown] == [[0, *curve.losses] for curve in table.curves]


@pytest.mark.parametrize(
    ("curve", "says"),
    [
        (Curve((Order("a", None, ((0, 0),)),), (1,)), "no order of all indices"),
        (Curve((Order("a", None, ((0, 1),)),), (2,)), "removes 2 of 2"),
        (Curve((Order("a", None, ((0, 1, 2),)),), (2, 1)), "do not rise"),
        (Curve((Order("a", None, ((0, 1),)),), (1,), (1.0, 2.0)), "has 1 counts"),
        (Curve((Order("a", None, ((0, 1),)), Order("a", None, ((0, 1),))), (1,)), "in two curves"),
    ],
)
def test_files_of_wrong_tables_are_refused(tmp_path, curve, says):
    """The invariants of a table are checked where it is read."""
    Table("base", 0.0, (curve,)).save(tmp_path / "table.json")
    with pytest.raises(dg.errors.DocumentError, match=says):
        Table.load(tmp_path / "table.json")


def swapped(plan, draw):
    """One index of a group comes back, another one goes."""
    name, gone = draw.choice(sorted(plan.removed.items(), key=lambda item: item[0]))
    left = sorted({*range(BLOCKS.groups_by_name[name].size)} - {*gone})
    new = {*gone} ^ {draw.choice(sorted(gone)), draw.choice(left)}
    return dg.cut_each(BLOCKS, {**plan.removed, name: sorted(new)})


def test_evolution_is_deterministic_and_asks_once():
    """The same seed gives the same generations, the best never gets worse, and no fitness is asked for twice."""
    start, asked = dg.plan(BLOCKS, SCORES, ratio=0.5), []

    def fitness(plan):
        asked.append(plan)
        return float(sum(sum(gone) for gone in plan.removed.values()))

    def run(seed):
        return list(islice(dg.evolve(BLOCKS, start, swapped, fitness, population=3, children=4, seed=seed), 8))

    one = run(1)
    assert len(asked) == len(set(asked)) == one[-1].evaluations
    assert run(1) == one and run(2) != one
    bests = [generation.population[0].fitness for generation in one]
    assert bests == sorted(bests) and bests[-1] > bests[0]
    assert all(len(set(generation.population)) == len(generation.population) <= 3 for generation in one)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"start": []}, "at least one plan"),
        ({"start": ["plan"]}, "expected plans, met str"),
        ({"children": 0}, "expected children="),
        ({"start": dg.plans.Plan.empty(ATTENTION)}, "for another graph"),
        ({"fitness": lambda plan: None}, "expected a number as the fitness"),
        ({"mutate": lambda plan, draw: dg.plans.Plan.empty(ATTENTION)}, "for another graph"),
    ],
)
def test_wrong_evolutions(wrong, says):
    """Each error says what was expected."""
    right = {
        "graph": BLOCKS,
        "start": dg.plan(BLOCKS, SCORES, ratio=0.5),
        "mutate": swapped,
        "fitness": lambda plan: 0.0,
    }
    with pytest.raises(dg.DepgraphError, match=says):
        list(islice(dg.evolve(**(right | wrong)), 2))


def test_mutations_that_find_nothing_are_left_out():
    """A mutation may give None; the population then stays."""
    start = dg.plan(BLOCKS, SCORES, ratio=0.5)
    generations = islice(dg.evolve(BLOCKS, start, lambda plan, draw: None, lambda plan: random.random()), 3)
    assert [[each.plan for each in generation.population] for generation in generations] == [[start]] * 3
