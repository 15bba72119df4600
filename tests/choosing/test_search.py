"""Tables of losses, allocations, evolution, and what memory and active parameters count."""

import math
import os
import random
import signal
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


def bytes_of(tensors):
    """What tensors hold."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


IDS = torch.arange(21).view(3, 7)


@pytest.mark.models
def test_the_memory_of_a_cache_is_what_a_pruned_language_model_holds():
    """Grouped queries and fewer key-value heads: the bytes of the `DynamicCache` after a run, and of the weights."""
    library = transformers()
    config = library.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4, vocab_size=50,
    )  # fmt: skip
    net = library.LlamaForCausalLM(config).eval()
    graph = dg.trace(net, kwargs={"input_ids": IDS, "use_cache": False})
    scores = dg.score(graph, net, dg.Magnitude(p=2))
    plan = dg.plan(graph, scores, ratio={"role:head": 0.5, "role:channel": 0.25})
    small = dg.execute(plan, net)
    layers = small(input_ids=IDS, use_cache=True).past_key_values.layers
    held, cached = bytes_of(small.parameters()), bytes_of(each for layer in layers for each in (layer.keys, layer.values))
    shrunk = plan.apply(graph)
    assert dg.Memory(0, 7, batch=3, cache=4)(shrunk) == cached == dg.Memory(0, 7, batch=3, cache=4)(graph) / 2
    assert dg.Memory(4, 7, batch=3, cache=4)(shrunk) == held + cached
    assert dg.Memory(0, 8, batch=3, cache=4)(shrunk) != cached, "the control: another length"


@pytest.mark.models
def test_the_memory_of_a_state_is_what_a_pruned_mamba_holds():
    """Its states of convolution and recurrence, with fewer channels."""
    library = transformers()
    config = library.MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=50)
    net = library.MambaForCausalLM(config).eval()
    graph = dg.trace(net, kwargs={"input_ids": IDS, "use_cache": False})
    plan = dg.plan(graph, dg.score(graph, net, dg.Magnitude(p=2)), ratio=0.4)
    layers = dg.execute(plan, net)(input_ids=IDS, use_cache=True).cache_params.layers
    states = [state for layer in layers for each in (layer.conv_states, layer.recurrent_states) for state in each.values()]
    memory = dg.Memory(0, states=["*.A_log", "*.conv1d.weight"], batch=3, cache=4)
    assert memory(plan.apply(graph)) == bytes_of(states) < memory(graph)
    assert dg.Memory(0, states=["*.A_log"], batch=3, cache=4)(plan.apply(graph)) != bytes_of(states), "the control"


@pytest.mark.models
def test_active_parameters_are_those_that_one_token_meets_in_a_pruned_mixture():
    """Counted by the experts that the router of each layer takes for one token; widths of experts are cut."""
    library = transformers()
    config = library.MixtralConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=50,
        num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    net = library.MixtralForCausalLM(config).eval()
    net.set_experts_implementation("grouped_mm")
    graph = dg.trace(net, kwargs={"input_ids": IDS, "use_cache": False})
    plan = dg.plan(graph, dg.score(graph, net, dg.Magnitude(p=2)), ratio=0.25)
    small, met = dg.execute(plan, net), 0
    taken = []
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs: taken.append({*args[1].flatten().tolist()}), with_kwargs=True
        )
        for name, module in small.named_modules()
        if name.endswith(".experts")
    ]
    with torch.no_grad():
        small(input_ids=torch.tensor([[3]]), use_cache=False)
    for hook in hooks:
        hook.remove()
    assert [len(experts) for experts in taken] == [2, 2]
    for name, parameter in small.named_parameters():
        layer = int(name.split(".")[2]) if ".experts." in name else None
        met += parameter.numel() if layer is None else sum(parameter[expert].numel() for expert in taken[layer])
    assert active(plan.apply(graph)) == met < plan.apply(graph).params


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
    assert Table.load(path) == whole


def test_a_file_that_is_damaged_or_of_another_graph_is_no_table_to_go_on_from(tmp_path):
    """Nothing is evaluated, the error says why, and the file stays as it was."""
    net, path = model(), tmp_path / "table.json"
    dg.sensitivity(BLOCKS, net, distance(net), [0.4], SCORES, path=path)
    text, asked = path.read_text(), []

    def again(graph=BLOCKS, subject=net, **options):
        dg.sensitivity(graph, subject, asked.append, [0.4], scores=dict.fromkeys(SCORES, range(5)) if graph is not BLOCKS else
                       SCORES, path=path, **options)  # fmt: skip

    cut = dg.cut(BLOCKS, "up.2.weight", [0], dim=0)
    for damaged, says in (
        (text[: len(text) // 2], "no JSON|not JSON|JSON"),
        (text.replace('"whole": 0', '"whole": 1').replace('"whole":0', '"whole":1'), "digest"),
        ("", "JSON"),
        ('{"format": "depgraph.plan"}', "depgraph.plan"),
    ):
        path.write_text(damaged)
        with pytest.raises(dg.errors.DocumentError, match=says):
            again()
        assert path.read_text() == damaged
    path.write_text(text)
    small = dg.execute(cut, net)
    with pytest.raises(dg.errors.PlanError, match="a table of another graph"):
        dg.sensitivity(cut.apply(BLOCKS), small, asked.append, [0.4], dg.Magnitude(p=2), path=path)
    with pytest.raises(dg.errors.PlanError, match="around another plan"):
        again(around=dg.plan(BLOCKS, SCORES, ratio=0.4))
    assert path.read_text() == text and asked == []


def test_a_run_that_is_killed_goes_on_from_what_it_measured(tmp_path):
    """After SIGKILL in the middle of an evaluation the file is whole, and a second run ends where one in one go does."""
    net, path = model(), tmp_path / "table.json"
    evaluate = distance(net)
    whole = dg.sensitivity(BLOCKS, net, evaluate, [0.4, 0.8], SCORES)
    child = os.fork()
    if child == 0:
        calls = []

        def killing(masked):
            calls.append(None)
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return evaluate(masked)

        dg.sensitivity(BLOCKS, net, killing, [0.4, 0.8], SCORES, path=path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert sum(len(curve.losses) for curve in Table.load(path).curves) == 3
    asked = []
    assert (
        dg.sensitivity(BLOCKS, net, lambda masked: asked.append(None) or evaluate(masked), [0.4, 0.8], SCORES, path=path)
        == whole
    )
    assert len(asked) == sum(len(curve.counts) for curve in whole.curves) - 3


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
        ({"budgets": {"macs": 0.5}, "seconds": 0}, "expected seconds="),
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


CHAIN = dg.trace(nn.Sequential(*(nn.Linear(24, 24) for _ in range(9))), torch.zeros(1, 24))


def test_a_search_that_runs_out_of_time_says_how_good_its_result_is():
    """Either the best so far with a gap that holds, or an error that says what to do; nothing is printed."""
    draw = random.Random(0)
    curves = [
        Curve((Order(group.name, None, (tuple(range(24)),)),), tuple(range(2, 24, 2)), tuple(draw.random() for _ in range(11)))
        for group in CHAIN.groups
    ]
    table = Table(CHAIN.fingerprint, 0.0, tuple(curves))
    (best,) = dg.pareto(CHAIN, table, {"params": 0.3})
    assert best.gap == 0
    for seconds in (1e-6, 0.05, 0.2, 30):
        try:
            (found,) = dg.pareto(CHAIN, table, {"params": 0.3}, seconds=seconds)
        except dg.errors.PlanError as error:
            assert "give more seconds" in str(error) and seconds < 30
            continue
        assert found.loss - found.gap <= best.loss + 1e-6 and best.loss <= found.loss + 1e-6
        assert found.plan.apply(CHAIN).params <= 0.3 * CHAIN.params
    assert found.loss == pytest.approx(best.loss) and found.gap == 0


def test_a_knapsack_that_runs_out_of_time_gives_what_it_has(monkeypatch):
    """A choice within the budget, with a gap that holds."""
    table = dg.choosing.tabulate(
        BLOCKS, SCORES, [0.2, 0.4, 0.6, 0.8], lambda plan: float(sum(cut.count**2 for cut in plan.cuts))
    )
    (best,) = dg.pareto(BLOCKS, table, {"macs": 0.5})
    monkeypatch.setattr(search.time, "monotonic", iter([0.0, *[100.0] * 99]).__next__)
    (found,) = dg.pareto(BLOCKS, table, {"macs": 0.5}, seconds=1)
    assert found.gap > 0 and found.loss - found.gap <= best.loss <= found.loss
    assert found.plan.apply(BLOCKS).macs <= 0.5 * BLOCKS.macs


def test_neither_solver_prints(capfd, monkeypatch):
    """The solver of scipy could write lines of its own to the terminal."""
    table = dg.choosing.tabulate(BLOCKS, SCORES, [0.4, 0.8], lambda plan: float(len(plan.cuts)))
    dg.pareto(BLOCKS, table, [{"macs": 0.5}, {"params": 0.6}], top_k=3)
    monkeypatch.setattr(search.Knapsack, "of", classmethod(lambda cls, items, costs: None))
    dg.pareto(BLOCKS, table, [{"macs": 0.5}, {"params": 0.6}], top_k=3, seconds=20)
    assert capfd.readouterr() == ("", "")


def alignment(one, other):
    """The linear centred kernel alignment by its definition: the cosine of centred matrices of similarities."""
    one, other = ((each.double() - each.double().mean(0)) for each in (one.flatten(0, -2), other.flatten(0, -2)))
    kernels = one @ one.T, other @ other.T
    return (kernels[0] * kernels[1]).sum() / kernels[0].norm() / kernels[1].norm()


def test_the_alignment_of_embeddings_sees_no_shift_rotation_or_scale():
    """Others are apart, whether there are more rows or more numbers in each, and rows that are all the same are far."""
    net = nn.Linear(3, 4)
    turned = nn.Linear(3, 4)
    with torch.no_grad():
        turned.weight.copy_(3 * torch.linalg.qr(torch.randn(4, 4)).Q @ net.weight)
    for rows in (3, 50):
        distance = dg.output_distance(net, [torch.randn(rows, 3)], "cka")
        assert distance(turned) == pytest.approx(0, abs=1e-6) and distance(nn.Linear(3, 4)) > 1e-3
        assert distance(nn.Linear(3, 4).requires_grad_(False).apply(lambda layer: layer.weight.zero_())) == 1
    assert dg.output_distance(net, [torch.randn(9, 3)], "squared")(turned) > 0.1, "the control: another distance sees them"


@pytest.mark.parametrize("kind", ["kl", "cosine", "squared", "cka"])
def test_distances_are_zero_for_the_model_and_those_of_their_formula(kind):
    """Over batches of different sizes, in the mean over rows."""
    net, batches = nn.Linear(3, 4), [torch.randn(5, 2, 3), torch.randn(7, 2, 3)]
    distance = dg.output_distance(net, batches, kind)
    assert distance(net) == pytest.approx(0, abs=1e-6)
    other = nn.Linear(3, 4)
    whole, moved = (torch.cat([each(batch).detach() for batch in batches]) for each in (net, other))
    wanted = {
        "kl": (whole.softmax(-1) * (whole.log_softmax(-1) - moved.log_softmax(-1))).sum(-1).mean(),
        "cosine": (1 - (whole * moved).sum(-1) / whole.norm(dim=-1) / moved.norm(dim=-1)).mean(),
        "cka": 1 - alignment(whole, moved),
        "squared": (whole - moved).square().sum() / whole.square().sum(),
    }
    assert distance(other) == pytest.approx(wanted[kind].item(), rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"batches": [torch.full((2, 3), math.nan)]}, "infinite numbers or NaN"),
        ({"kind": "l2"}, "expected kind= as one of"),
        ({"batches": torch.zeros(2, 3)}, r"write \[batch\] for one"),
        ({"batches": []}, "at least one batch"),
        ({"forward": lambda model, batch: (model(batch),)}, "expected outputs as one tensor of floats"),
        ({"batches": [torch.zeros(2, 3)], "model": nn.Linear(3, 4, bias=False)}, "empty, 0 or the same"),
        ({"batches": [torch.ones(2, 3)], "kind": "cka"}, "empty, 0 or the same"),
    ],
)
def test_wrong_distances(wrong, says):
    """Each error says what was expected."""
    with pytest.raises(dg.errors.PlanError, match=says):
        dg.output_distance(**{"model": nn.Linear(3, 4), "batches": [torch.ones(2, 3)]} | wrong)


def test_outputs_of_another_shape_are_no_distance_away():
    """Only inner widths may differ."""
    with pytest.raises(dg.errors.PlanError, match="only inner widths may change"):
        dg.output_distance(nn.Linear(3, 4), [torch.ones(2, 3)])(nn.Linear(3, 5))


@pytest.mark.parametrize(
    ("around", "says"),
    [
        (0.5, "met float"),
        (dg.plans.Plan.empty(ATTENTION), "a plan for this graph"),
        (dg.cut(BLOCKS, "up.2.weight", [3, 4], dim=0), "removes other indices than these scores say"),
    ],
)
def test_wrong_plans_to_measure_around(around, says):
    """Each error says what was expected."""
    with pytest.raises(dg.errors.PlanError, match=says):
        dg.choosing.tabulate(BLOCKS, SCORES, [0.4], lambda plan: 0.0, around=around)


def test_a_table_around_a_plan_is_saved_and_drawn(tmp_path):
    """From the loss with all of the group on, with a line where the plan stands."""
    plan = dg.plan(BLOCKS, SCORES, ratio=0.4)
    table = dg.choosing.tabulate(
        BLOCKS, SCORES, [0.4, 0.8], lambda plan: float(sum(cut.count**2 for cut in plan.cuts)), around=plan
    )
    assert dict(table.around) == {cut.group: cut.count for cut in plan.cuts}
    table.save(tmp_path / "table.json")
    assert Table.load(tmp_path / "table.json") == table
    shown = [axis for axis in table.plot(columns=2).axes if axis.get_visible()]
    assert [[*axis.lines[0].get_ydata()] for axis in shown] == [[*curve.losses] for curve in table.curves]
    assert all(len(axis.lines) == 2 for axis in shown)


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
        ({"fitness": None}, "expected fitness= as a function of a plan, met None"),
        ({"start": []}, "at least one plan"),
        ({"mutate": 3}, "expected mutate= as scores, or as a function"),
        ({"mutate": SCORES, "start": dg.plan(BLOCKS, SCORES, memory=0.8)}, "budgets of memory, which are measured by a model"),
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


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"budgets": {}}, "expected budgets such as"),
        ({"budgets": {"bytes": 0.5}}, "expected budgets of params"),
        ({"budgets": {"latency": 0.5}}, "latency_model= belong together"),
        ({"max_ratio": 0.0}, "no group can lose an index"),
    ],
)
def test_wrong_shifts(wrong, says):
    """Each error says what was expected."""
    with pytest.raises(dg.errors.PlanError, match=says):
        dg.choosing.shifts(**{"graph": BLOCKS, "scores": SCORES, "budgets": {"macs": 0.5}} | wrong)


def test_shifts_refuse_plans_that_cut_what_takes_no_part():
    """They would put it back."""
    move = dg.choosing.shifts(BLOCKS, SCORES, {"macs": 0.5}, ignore=["up.0:out"])
    with pytest.raises(dg.errors.PlanError, match="cuts none but groups that take part"):
        move(dg.plan(BLOCKS, SCORES, ratio=0.5), random.Random(0))


def test_shifts_within_a_latency():
    """Any function of a graph may be the budget, and a plan over it is brought within."""
    move = dg.choosing.shifts(BLOCKS, SCORES, {"latency": 0.6}, latency_model=lambda graph: float(graph.params))
    plan = move(dg.plans.Plan.empty(BLOCKS), random.Random(0))
    assert plan.apply(BLOCKS).params <= 0.6 * BLOCKS.params
    assert [target.name for target in plan.targets] == ["latency"]
