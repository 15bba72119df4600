"""Repairs: exact values, what is left and why, files, and wrong input."""

import copy

import pytest
import torch
from attrs import evolve
from torch import nn
from torch.nn import functional as F

import depgraph as dg
from depgraph import testing
from tests.repair.networks import ConvNet, Gated, settled


def two_layers(inner=6, bias=True):
    """A linear network with some calibration data, and a plan that takes two of the inner features."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, inner), nn.Tanh(), nn.Linear(inner, 3, bias=bias)).double()
    x = torch.randn(200, 4, dtype=torch.float64)
    return model, x, dg.cut(dg.trace(model, x[:1]), "0.weight", [1, 4], dim=0)


@pytest.mark.parametrize("mode", ["sequential", "independent"])
@pytest.mark.parametrize("bias", [True, False])
def test_values_are_those_of_least_squares(mode, bias):
    """Without a penalty: the best weights, and the best bias where there is one, for the rows that are fitted to."""
    model, x, plan = two_layers(bias=bias)
    repair = dg.refit(plan, model, [x], mode=mode, ridges=[0], dtype=torch.float64)
    kept = model[1](model[0](x[:150]))[:, [0, 2, 3, 5]].detach()
    columns = torch.cat([kept, kept.new_ones(150, 1)], 1) if bias else kept
    best = torch.linalg.lstsq(columns, model(x[:150]).detach()).solution.T
    assert torch.allclose(repair.values["2.weight"], best[:, :4], atol=1e-8)
    assert not bias or torch.allclose(repair.values["2.bias"], best[:, 4], atol=1e-8)
    assert repair.values.keys() == {"2.weight", "2.bias"} - ({"2.bias"} if not bias else set())
    (row,) = [layer for layer in repair.layers if layer.weight == "2.weight"]
    assert (row.rows, row.held_out_rows, row.inputs, row.choice) == (150, 50, 4, "ridge 0")


def test_the_bias_alone_takes_the_mean_of_what_goes():
    """FLAP: b' = b + W_R μ_R."""
    model, x, plan = two_layers()
    repair = dg.refit(plan, model, [x], mode="independent", ridges=[1e30], dtype=torch.float64)
    gone = model[1](model[0](x[:150]))[:, [1, 4]].mean(0)
    assert torch.allclose(repair.values["2.bias"], model[2].bias + model[2].weight[:, [1, 4]] @ gone, atol=1e-6)


def test_sequential_repair_is_that_of_running_the_network_again_for_each_layer():
    """Lockstep against the plain way: for each layer a forward of the network as it is repaired so far."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)]
    model, x = nn.Sequential(*layers).double(), torch.randn(240, 5, dtype=torch.float64)
    plan = dg.plan(dg.trace(model, x[:1]), dg.score(dg.trace(model, x[:1]), model, dg.Magnitude(p=2)), ratio=0.4)
    repair = dg.refit(plan, model, list(x.split(50)), mode="sequential", ridges=[0.01], dtype=torch.float64)
    small, fitted = dg.execute(plan, model), x[:180]
    for name in ("2", "4"):
        number = int(name)
        with torch.no_grad():
            read, wanted = small[:number](fitted), model[: number + 1](fitted)
            rows = torch.tensor(list(plan.kept.get(f"{name}.weight", {}).get(0, range(wanted.shape[1]))))
            layer = small[number]
            missing = wanted[:, rows] - layer(read)
            centred, gap = read - read.mean(0), missing - missing.mean(0)
            moments = centred.T @ centred / len(read)
            change = torch.linalg.solve(moments + 0.01 * moments.diag().diag(), centred.T @ gap / len(read)).T
            layer.weight += change
            layer.bias += missing.mean(0) - change @ read.mean(0)
        assert torch.allclose(repair.values[f"{name}.weight"], layer.weight, atol=1e-8), name
        assert torch.allclose(repair.values[f"{name}.bias"], layer.bias, atol=1e-8), name


def test_a_layer_that_is_called_twice_is_solved_for_both_calls():
    """In independent mode; in sequential mode it is left, with the reason."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(torch.tanh(self.shared(torch.tanh(self.shared(torch.tanh(self.first(x)))))))

    torch.manual_seed(0)
    model, x = Twice().double(), torch.randn(120, 4, dtype=torch.float64)
    plan = dg.cut(dg.trace(model, x[:1]), "first.weight", [0, 3], dim=0)
    repair = dg.refit(plan, model, [x], mode="independent", ridges=[0], dtype=torch.float64)
    with torch.no_grad():
        once = torch.tanh(model.first(x[:90]))
        both = torch.cat([once, torch.tanh(model.shared(once))])
        kept = [1, 2, 4, 5]
        columns = torch.cat([both[:, kept], both.new_ones(180, 1)], 1)
        best = torch.linalg.lstsq(columns, model.shared(both)[:, kept]).solution.T
    assert torch.allclose(repair.values["shared.weight"], best[:, :4], atol=1e-8)
    assert "called" not in repair.left
    assert "calls it several times" in dg.refit(plan, model, [x], mode="sequential").left["shared.weight"]


class Tied(nn.Module):
    """An embedding that is the last layer, too."""

    def __init__(self):
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(11, 6), nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, ids):
        x = self.embed(ids)
        return F.linear(x + self.down(F.relu(self.up(x))), self.embed.weight)


def test_a_tied_embedding_is_left():
    """Solved for as a layer it would be another embedding."""
    torch.manual_seed(0)
    model, ids = Tied(), torch.randint(11, (16, 5))
    plan = dg.cut(dg.trace(model, ids), "embed.weight", [0, 1], dim=1)
    for mode in ("sequential", "independent"):
        repair = dg.refit(plan, model, [ids], mode=mode)
        assert repair.left == {"embed.weight": "aten.embedding.default uses it, too"}
        assert "embed.weight" not in repair.values and "up.weight" in repair.values


def test_grouped_depthwise_and_transposed_convolutions_are_repaired():
    """Whole blocks go from a grouped one; a depthwise one has a regression for each channel."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=4),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 6, 3, stride=2, output_padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1),
    ).eval()
    x = torch.randn(24, 3, 9, 9)
    graph = dg.trace(model, x[:1])
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    repair = dg.refit(plan, model, list(x.split(8)))
    solved = {layer.weight: layer for layer in repair.layers}
    assert solved.keys() == {"0.weight", "1.weight", "3.weight", "5.weight", "7.weight"} and not repair.left
    assert solved["1.weight"].inputs == 9
    assert repair.outputs[1] < 0.9 * repair.outputs[0]


def test_rows_that_do_not_count_are_left_out():
    """Padding is garbage here: with it the repair is worse on the places that count."""
    model, x, plan = two_layers()
    torch.manual_seed(1)
    sequences = x.view(20, 10, 4).clone()
    mask = torch.arange(10) < 5
    sequences[:, ~mask] = 50
    options = {"mode": "independent", "ridges": [0], "dtype": torch.float64}
    masked = dg.refit(plan, model, [sequences], valid=lambda batch: mask.expand(len(batch), 10), **options)
    short = dg.refit(plan, model, [sequences[:, mask]], **options)
    assert masked.layers[0].rows == 75
    for name, values in short.values.items():
        assert torch.allclose(values, masked.values[name], atol=1e-9)
    assert not torch.allclose(dg.refit(plan, model, [sequences], **options).values["2.weight"], short.values["2.weight"])


def test_few_rows_are_told():
    model, x, plan = two_layers()
    notes = [layer.note for layer in dg.refit(plan, model, [x[:8]], mode="independent").layers]
    assert notes == ["6 rows for 4 inputs are few; 16 would be better"]


def test_a_repair_that_harms_the_whole_is_none(monkeypatch):
    """Each layer gains, and the outputs lose: then nothing is repaired, and the repair says so."""
    model, x, plan = two_layers()
    monkeypatch.setattr("depgraph.repair.refit.outputs_missed", lambda *args: [0.1, 0.2])
    repair = dg.refit(plan, model, [x])
    assert repair.values == {} and "nothing is repaired" in repair.note and "nothing is repaired" in str(repair)
    small = dg.execute(plan, model, repair=repair)
    assert torch.equal(small[2].weight, dg.execute(plan, model)[2].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_repaired_in_single(dtype):
    torch.manual_seed(0)
    model, x = Gated(4, 8).to(dtype).eval(), torch.randn(200, 5, dtype=dtype)
    plan = dg.cut(dg.trace(model, x[:1]), "up.weight", [1, 2, 3], dim=0)
    repair = dg.refit(plan, model, [x])
    small = dg.execute(plan, model, repair=repair)
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    assert repair.outputs[1] < 0.7 * repair.outputs[0]


def test_autocast_in_forward():
    """Weights are cast before they are used: independent repair follows the cast."""
    torch.manual_seed(0)
    model, x = Gated(4, 8).eval(), torch.randn(200, 5)
    plan = dg.cut(dg.trace(model, x[:1]), "up.weight", [1, 2, 3], dim=0)

    def forward(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return model(batch)

    repair = dg.refit(plan, model, [x], mode="independent", forward=forward)
    assert "down.weight" in repair.values and repair.outputs[1] < 0.7 * repair.outputs[0]
    assert "copied before it is used" in dg.refit(plan, model, [x], mode="sequential", forward=forward).left["down.weight"]


def test_frozen_models_and_gradients_stay_as_they_are():
    model, x, plan = two_layers()
    model[2].weight.requires_grad_(False)
    model(x).sum().backward()
    before = testing.snapshot(model)
    repair = dg.refit(plan, model, [x])
    assert testing.snapshot(model) == before
    small = dg.execute(plan, model, repair=repair)
    assert not small[2].weight.requires_grad and small[2].bias.requires_grad
    assert torch.equal(small[2].bias.grad, model[2].bias.grad)


def test_a_repair_comes_back_from_its_file(tmp_path):
    torch.manual_seed(0)
    model = settled(ConvNet(8), torch.randn(32, 2, 5, 5))
    x = torch.randn(32, 2, 5, 5)
    plan = dg.cut(dg.trace(model, x[:1]), "conv1.weight", [0, 5], dim=0)
    repair = dg.refit(plan, model, [x])
    repair.save(tmp_path / "repair.safetensors")
    loaded = dg.Repair.load(tmp_path / "repair.safetensors")
    assert str(loaded) == str(repair) and loaded.values.keys() == repair.values.keys() and loaded.left == repair.left
    one, two = (dg.execute(plan, model, repair=each).state_dict() for each in (repair, loaded))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_moments_come_back_from_their_file(tmp_path):
    model, x, plan = two_layers()
    sums = dg.moments.collect(model, [x])
    sums.save(tmp_path / "moments.safetensors")
    loaded = dg.moments.Moments.load(tmp_path / "moments.safetensors")
    one, two = (dg.refit(plan, model, each) for each in (sums, loaded))
    assert all(torch.equal(values, two.values[name]) for name, values in one.values.items()) and one.values
    whole = dg.refit(plan, model, [x], mode="independent")
    assert all(torch.allclose(values, whole.values[name]) for name, values in one.values.items())


@pytest.mark.parametrize("damage", ["header", "tensors", "truncated", "foreign", "json"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    from safetensors.torch import load_file, save_file

    model, x, plan = two_layers()
    path = tmp_path / "repair.safetensors"
    dg.refit(plan, model, [x]).save(path)
    content = path.read_bytes()
    if damage == "header":
        path.write_bytes(content.replace(b"ridge", b"bride", 1))
    elif damage == "tensors":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "foreign":
        save_file(load_file(path), path)
    else:
        path.write_text("{}")
    with pytest.raises(dg.errors.DocumentError, match=r"Pass a file|Save the"):
        dg.Repair.load(path)


def test_what_does_not_fit_is_refused_whole():
    """Another plan, other weights and other shapes are told at once, and nothing is changed."""
    model, x, plan = two_layers()
    repair = dg.refit(plan, model, [x])
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].bias += 1
    another = dg.cut(dg.trace(model, x[:1]), "0.weight", [0], dim=0)
    before = testing.snapshot(other)
    for write in (dg.execute, dg.execute_):
        with pytest.raises(dg.errors.MismatchError) as caught:
            write(another, other, repair=evolve(repair, values={**repair.values, "9.weight": torch.zeros(1)}))
        assert len(caught.value.problems) == 4, caught.value.problems
        assert testing.snapshot(other) == before
    with pytest.raises(dg.errors.PlanError, match=r"expected repair= to be what dg\.refit gives, met dict"):
        dg.execute(plan, model, repair={})


def test_wrong_options_are_told_at_once():
    model, x, plan = two_layers()
    with pytest.raises(dg.errors.PlanError) as caught:
        dg.refit(plan, model, [x], mode="best", ridges=[-1], holdout=2, rows_per_input=0, dtype=torch.float16)
    assert len(caught.value.problems) == 5
    with pytest.raises(dg.errors.PlanError, match="at least 2 samples in all, some to fit to and some to judge by, met 0"):
        dg.refit(plan, model, iter([]))
    with pytest.raises(dg.errors.PlanError, match="is on the meta device"):
        dg.refit(plan, copy.deepcopy(model).to("meta"), [x])
    sums = dg.moments.collect(model, [x])
    with torch.no_grad():
        model[0].bias += 1
    with pytest.raises(dg.errors.MismatchError, match="collected from other weights"):
        dg.refit(plan, model, sums)


def test_moments_of_different_models_do_not_add_up():
    model, x, _ = two_layers()
    other, _, _ = two_layers(inner=7)
    with pytest.raises(dg.errors.PlanError, match="of models with other weights"):
        dg.moments.collect(model, [x]) + dg.moments.collect(other, [x])


def test_iterate_repairs_each_step():
    model, x, _ = two_layers(inner=12)
    options = {"steps": 3, "target": {"ratio": 0.5}}

    def by_norm(graph, model):
        return dg.score(graph, model, dg.Magnitude(p=2))

    def missed(**more):
        (*_, last) = dg.iterate(model, x, by_norm, **options, **more)
        with torch.no_grad():
            return float((last.model(x) - model(x)).square().mean())

    assert missed(repair=lambda plan, model: dg.refit(plan, model, [x])) < 0.5 * missed()
    with pytest.raises(dg.errors.PlanError, match="expected repair= as a function of plan and model"):
        dg.iterate(model, x, by_norm, **options, repair=3)


class Recurrent(nn.Module):
    """An operator of torch's that is no product, behind a layer that is one."""

    def __init__(self):
        super().__init__()
        self.embed, self.first, self.last = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.cell = nn.Bilinear(6, 6, 5)

    def forward(self, ids):
        x = self.first(self.embed(ids))
        return self.last(x), self.cell(x, x)


def test_what_no_layer_multiplies_with_is_left_with_its_operator():
    torch.manual_seed(0)
    model, ids = Recurrent(), torch.randint(9, (12, 4))
    plan = dg.plan(dg.trace(model, ids), dg.score(dg.trace(model, ids), model, dg.Magnitude(p=2)), ratio=0.5)
    assert {"embed.weight", "cell.weight"} <= plan.kept.keys()
    for batches in ([ids], dg.moments.collect(model, [ids])):
        left = dg.refit(plan, model, batches).left
        assert left["embed.weight"] == "aten.embedding.default uses it, which is no product and no convolution"
        assert "aten._trilinear" in left["cell.weight"]


def test_what_is_no_option_is_told_before_anything_runs():
    """One batch in the place of many, what cannot be called, a mask of another batch, moments for the other mode."""
    model, x, plan = two_layers()
    sums = dg.moments.collect(model, [x])
    before = testing.snapshot(model)
    with pytest.raises(dg.errors.PlanError) as caught:
        dg.refit(plan, model, x, forward=3, valid=3)
    assert [problem.split(",")[0] for problem in caught.value.problems] == [
        "expected batches as an iterable of batches",
        "expected forward= to be a function of (model",
        "expected valid= to be a function of a batch",
    ]
    with pytest.raises(dg.errors.PlanError) as caught:
        dg.moments.collect(model, 5, holdout=2, wanted=3, dtype=torch.int32)
    assert len(caught.value.problems) == 4
    for mask in (torch.ones(3), None, torch.tensor(1)):
        with pytest.raises(dg.errors.PlanError, match=r"a mask of the 200 samples of batch 0 and their places, met"):
            dg.refit(plan, model, [x], valid=lambda batch, mask=mask: mask)
    with pytest.raises(dg.errors.PlanError, match="moments make an independent repair"):
        dg.refit(plan, model, sums, mode="sequential")
    with pytest.raises(dg.errors.PlanError, match=r"expected what dg\.moments\.collect gives, met int"):
        dg.reconstruction_error(plan, 3, model)
    assert testing.snapshot(model) == before


@pytest.mark.parametrize("mode", ["sequential", "independent"])
@pytest.mark.parametrize("where", ["in forward", "around it"])
def test_inference_mode_hides_no_layer(mode, where):
    """There, operators are not taken apart on their way: the layers are found, and the result can be trained."""
    model, x, plan = two_layers()
    expected = dg.refit(plan, model, [x], mode=mode)

    def forward(model, batch):
        with torch.inference_mode():
            return model(batch)

    if where == "in forward":
        repair = dg.refit(plan, model, [x], mode=mode, forward=forward)
    else:
        with torch.inference_mode():
            repair = dg.refit(plan, model, [x], mode=mode)
    assert repair.values.keys() == expected.values.keys() == {"2.weight", "2.bias"}
    for name, values in expected.values.items():
        assert torch.allclose(values, repair.values[name])
    small = dg.execute(plan, model, repair=repair)
    small(x).sum().backward()
    assert small[2].weight.grad is not None


class Residual(nn.Module):
    """A residual block that keeps what it made in a cache that is given to it."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x, cache):
        made = self.inner(x).relu()
        cache.append(made)
        return x + self.outer(made)


def deep():
    """Four such blocks, of which the second leaves, and inputs; the fourth loses half of its inner channels."""
    torch.manual_seed(0)

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.last = nn.ModuleList(Residual() for _ in range(4)), nn.Linear(4, 2)
            self.cached = False

        def forward(self, x):
            cache = []
            for layer in self.layers:
                x = layer(x, cache)
            return {"y": self.last(x), "cache": cache} if self.cached else self.last(x)

    model, x = Deep().eval(), torch.randn(64, 4)
    graph = dg.trace(model, x)
    cut = dg.cut(graph, "layers.3.inner.weight", range(4), dim=0)
    return model, cut.then(dg.drop(cut.apply(graph), "layers", [1])), x


@pytest.mark.parametrize("mode", ["sequential", "independent"])
def test_a_cache_of_fewer_layers_is_not_compared(mode):
    """What an output has of each layer has no counterpart where layers leave: the error is that of the result alone."""
    model, plan, x = deep()
    plain = dg.refit(plan, model, [x], mode=mode).outputs
    model.cached = True
    cached = dg.refit(plan, model, [x], mode=mode).outputs
    y, cache = (sum(float(part[48:].square().sum()) for part in parts) for parts in outputs_of(model, x))
    assert cached == pytest.approx([error * y / (y + cache) for error in plain])


def outputs_of(model, x):
    """The result and the cache."""
    with torch.no_grad():
        found = model(x)
    return [found["y"]], found["cache"]


def test_layers_behind_a_gap_are_fitted_in_order_and_left_independently():
    """In order all layers behind the one that left, by the original's names; independently those that lose inputs."""
    model, plan, x = deep()
    in_order = dg.refit(plan, model, [x], mode="sequential")
    behind = [f"layers.{place}.{part}.weight" for place in (2, 3) for part in ("inner", "outer")]
    assert [layer.weight for layer in in_order.layers] == [*behind, "last.weight"]
    assert [layer.weight for layer in dg.refit(plan, model, [x], mode="independent").layers] == ["layers.3.outer.weight"]
    assert in_order.outputs[1] < in_order.outputs[0]
    small = dg.execute(plan, model, repair=in_order)
    assert torch.equal(small.layers[2].outer.weight, in_order.values["layers.3.outer.weight"])


def test_a_checkpoint_gets_the_repair_of_layers_that_move_up(tmp_path):
    model, plan, x = deep()
    repair = dg.refit(plan, model, [x], mode="sequential")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    dg.prune_checkpoint(plan, tmp_path / "model.pt", tmp_path / "small.pt", repair=repair)
    written, expected = torch.load(tmp_path / "small.pt"), dg.execute(plan, model, repair=repair).state_dict()
    assert written.keys() == expected.keys() and all(torch.equal(written[name], expected[name]) for name in expected)


def test_an_element_without_layers_lets_everything_be_fitted():
    """Nothing says where in the forward it was."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(64, 4)
    plan = dg.drop(dg.trace(model, x), "", [1])
    repair = dg.refit(plan, model, [x], mode="sequential")
    assert [layer.weight for layer in repair.layers] == ["0.weight", "2.weight"]
    assert [layer.choice == "as it was" for layer in repair.layers] == [True, False]


def test_new_biases_are_for_layers_that_stay():
    """A layer that leaves and would lose inputs gets none; one behind it gets its own."""
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 4, bias=False)

        def forward(self, x):
            return x + self.outer(self.inner(x).relu())

    model, x = nn.Sequential(*(Block() for _ in range(3))), torch.randn(64, 4)
    graph = dg.trace(model, x)
    cut = dg.plan(
        graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5, only=[f"{place}.inner.weight:0" for place in range(3)]
    )
    plan = cut.then(dg.drop(cut.apply(graph), "", [1]))
    repair = dg.refit(plan, model, [x], mode="independent", add_bias=True)
    assert repair.added == ("0.outer.bias", "2.outer.bias")
    small = dg.execute(plan, model, repair=repair)
    assert torch.equal(small[1].outer.bias, repair.values["2.outer.bias"])
