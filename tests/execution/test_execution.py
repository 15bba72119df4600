"""Executing plans: what is kept, what follows, and that nothing is ever half done."""

import copy
import gc

import attrs
import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.plans.plan import Edit
from tests import networks


def chain() -> nn.Sequential:
    """Conv, BatchNorm, ReLU, Conv."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()


X = torch.randn(2, 3, 8, 8)


def planned(model, x=X, name="0.weight", indices=(1, 4)):
    """A plan by hand for the chain."""
    return dg.cut(dg.trace(model, x), name, list(indices), dim=0)


def test_exact_values():
    """The kept rows are the original ones, in order, everywhere."""
    model = chain()
    small = dg.execute(planned(model), model)
    kept = [0, 2, 3, 5]
    assert torch.equal(small[0].weight, model[0].weight[kept])
    assert torch.equal(small[0].bias, model[0].bias[kept])
    assert torch.equal(small[1].running_var, model[1].running_var[kept])
    assert torch.equal(small[3].weight, model[3].weight[:, kept])
    assert torch.equal(small[3].bias, model[3].bias)
    assert (small[0].out_channels, small[1].num_features, small[3].in_channels, small[3].out_channels) == (4, 4, 4, 4)


def test_execute_leaves_the_model_untouched_and_shares_nothing():
    """The old model is bit-identical; writing to the new one does not reach it."""
    model = chain()
    before = testing.snapshot(model)
    small = dg.execute(planned(model), model)
    with torch.no_grad():
        for tensor in (*small.parameters(), *small.buffers()):
            tensor.zero_()
    small[3].out_channels = 77
    assert testing.snapshot(model) == before


def test_execute_in_place_equals_execute():
    """Both ways give the same module; in place returns the map from old to new parameters."""
    model = chain()
    plan, small = planned(model), dg.execute(planned(model), model)
    old = dict(model.named_parameters())
    swapped = dg.execute_(plan, model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), small.state_dict().values(), strict=True))
    assert {id(k): v for k, v in swapped.items()} == {
        id(old[name]): dict(model.named_parameters())[name] for name in ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight")
    }
    assert model[3].bias is old["3.bias"]


def test_parameter_map_pairs_old_and_new():
    """`parameter_map` gives every parameter of the copy for the original one."""
    model = chain()
    small = dg.execute(planned(model), model)
    pairs = dg.parameter_map(model, small)
    assert pairs[model[0].weight] is small[0].weight
    assert len(pairs) == len(list(model.parameters()))


def test_parameter_map_tells_every_missing_name():
    """A model that is no pruned copy is refused, with the names that it lacks."""
    with pytest.raises(dg.errors.MismatchError, match="no pruned copy") as caught:
        dg.parameter_map(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2, bias=False)))
    lacking = ("0.bias", "2.weight", "2.bias")
    assert caught.value.problems == tuple(f"there is no parameter {name!r}" for name in lacking)


@pytest.mark.parametrize("in_place", [False, True])
def test_marks_are_kept(in_place):
    """dtype, requires_grad, training flags, hooks, memory format and gradients stay; gradients are cut alongside."""
    model = chain().double().train()
    model[1].eval()
    model[3].bias.requires_grad_(False)
    model = model.to(memory_format=torch.channels_last)
    calls = []
    model[2].register_forward_hook(lambda *_: calls.append("module"))
    model[0].weight.register_hook(lambda grad: calls.append("tensor"))
    model(X.double()).sum().backward()
    gradient = model[0].weight.grad.clone()
    plan = planned(model, X.double())
    calls.clear()
    small = model if in_place else dg.execute(plan, model)
    if in_place:
        dg.execute_(plan, model)
    assert all(p.dtype == torch.float64 for p in small.parameters())
    assert [m.training for m in small] == [True, False, True, True]
    assert not small[3].bias.requires_grad and small[0].weight.requires_grad
    assert torch.equal(small[0].weight.grad, gradient[[0, 2, 3, 5]])
    assert small[3].weight.is_contiguous(memory_format=torch.channels_last)
    small(X.double()).sum().backward()
    assert calls == ["module", "tensor"]


@pytest.mark.parametrize("in_place", [False, True])
def test_tied_weights_stay_one_tensor(in_place):
    """An embedding and the head that shares its weight are cut once, and stay tied."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.embedding.weight
            self.embedding.weight.requires_grad_(False)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.embedding(tokens)))

    model, tokens = Tied().eval(), torch.tensor([[1, 2, 3]])
    graph = dg.trace(model, tokens)
    assert graph.tensor("embedding.weight").aliases == ("head.weight",)
    plan = dg.cut(graph, "head.weight", [0, 7], dim=1)
    assert plan.kept["head.weight"] == plan.kept["embedding.weight"] == {1: dg.IndexSet.of(range(1, 7))}
    small = model if in_place else dg.execute(plan, model)
    if in_place:
        dg.execute_(plan, model)
    assert small.head.weight is small.embedding.weight
    assert small.head.weight.shape == (20, 6) and not small.head.weight.requires_grad
    assert (small.head.in_features, small.embedding.embedding_dim) == (6, 6)
    assert graph.params == 160 and plan.apply(graph).params == 120


def test_untied_model_is_refused_a_tied_plan():
    """A plan for an untied model does not half-apply to a tied one."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)))

    model, x = Two(), torch.randn(1, 4)
    plan = dg.cut(dg.trace(model, x), "a.weight", [0], dim=0)
    model.b.weight = model.a.weight
    before = testing.snapshot(model)
    with pytest.raises(dg.errors.MismatchError, match=r"'a.weight' and 'b.weight' are one tensor here"):
        dg.execute_(plan, model)
    assert testing.snapshot(model) == before


def test_a_failure_in_the_middle_of_writing_is_undone():
    """If setting an attribute raises after tensors were swapped, everything is put back."""

    class Stubborn(nn.Linear):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "in_features" and getattr(self, "locked", False):
                raise RuntimeError("this attribute is read-only")
            super().__setattr__(name, value)

    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Stubborn(6, 2))
    x = torch.randn(1, 4)
    plan = dg.cut(dg.trace(model, x), "0.weight", [0], dim=0)
    object.__setattr__(model[2], "locked", True)
    before = testing.snapshot(model)
    with pytest.raises(RuntimeError, match="read-only"):
        dg.execute_(plan, model)
    assert testing.snapshot(model) == before
    assert model(x).shape == (1, 2)


def test_a_recurrent_layer_is_put_back_too():
    """The flat weights of an LSTM are those of the old parameters after a failure."""
    model = networks.SequenceClassifier().eval()
    tokens = torch.randint(0, 50, (2, 7))
    graph = dg.trace(model, tokens)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    wrong = attrs.evolve(plan, edits=(*plan.edits, dg.plans.Edit("head.weight.nonsense", 1, 2)))
    expected = model(tokens)
    with pytest.raises(dg.errors.MismatchError, match=r"no attribute 'head.weight.nonsense'"):
        dg.execute_(wrong, model)
    assert torch.equal(model(tokens), expected)
    dg.execute_(plan, model)
    assert model(tokens).shape == expected.shape
    (layer,) = (module for module in model.modules() if isinstance(module, nn.RNNBase))
    assert all(layer.get_parameter(n) is w for n, w in zip(layer._flat_weights_names, layer._flat_weights, strict=True))
    assert all(ref() is w for ref, w in zip(layer._flat_weight_refs, layer._flat_weights, strict=True))


def test_every_mismatch_is_listed():
    """A plan for another model names all that is wrong at once."""
    plan = planned(chain())
    other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Linear(2, 2))
    with pytest.raises(dg.errors.MismatchError) as caught:
        dg.execute(plan, other)
    text = str(caught.value)
    assert "'0.weight': expected size 6 in dimension 0, met shape (5, 3, 3, 3)" in text
    assert "'3.weight': expected size 6 in dimension 1, met shape (2, 2)" in text
    assert "attribute '0.out_channels': expected 6, met 5" in text
    assert "the model has no attribute '3.in_channels'" in text
    assert "Nothing was changed." in text and len(caught.value.problems) >= 8


def test_a_missing_tensor_hides_no_other_mismatch():
    """What comes after it in the plan is listed, too."""
    other = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(6, 4, 3))
    with pytest.raises(dg.errors.MismatchError) as caught:
        dg.execute(planned(chain()), other)
    missing, *others = caught.value.problems
    assert missing == "the model has no parameter or buffer '0.bias'"
    names = ["attribute '1.num_features'", "'1.bias'", "'1.running_mean'", "'1.running_var'", "'1.weight'"]
    assert sorted(problem.partition(":")[0] for problem in others) == sorted(names)


@pytest.mark.parametrize("value", [2, 4, True, 3.0])
def test_an_attribute_of_any_other_value_is_refused(value):
    """A smaller number, a larger one, and what only compares equal to a number."""
    model = Heads()
    plan = dg.cut(dg.trace(model, torch.zeros(1, 4)), "inner.weight", [0, 1], dim=0)
    assert Edit("heads", 3, 2) in plan.edits
    model.heads = value
    with pytest.raises(dg.errors.MismatchError, match=f"attribute 'heads': expected 3, met {value}"):
        dg.execute(plan, model)


class Heads(nn.Module):
    """Three heads of two channels, summed."""

    def __init__(self):
        super().__init__()
        self.heads, self.inner, self.out = 3, nn.Linear(4, 6), nn.Linear(2, 1)

    def forward(self, x):
        """The sum over heads, projected."""
        return self.out(self.inner(x).unflatten(1, (self.heads, -1)).sum(1))


def test_no_collection_begins_while_a_model_is_copied():
    """What a copy allocates is alive at its end: a collection would only walk over it."""
    model, thresholds = chain(), gc.get_threshold()
    model.witness = Witness()
    small = dg.execute(planned(model), model)
    assert small.witness.threshold == 0 and gc.get_threshold() == thresholds and thresholds[0] > 0


class Witness:
    """Notes the collector's threshold when it is copied."""

    threshold = None

    def __deepcopy__(self, memo):
        """A copy that knows when the next collection would begin."""
        twin = Witness()
        twin.threshold = gc.get_threshold()[0]
        return twin


@pytest.mark.parametrize("write", [dg.execute, dg.mask])
def test_a_copy_made_in_inference_mode_has_no_inference_tensors(write):
    """Neither what the plan cuts nor what it only copies, buffers included: autograd refuses them for good."""
    model = chain()
    with torch.inference_mode():
        copied = write(planned(model), model)
    assert not any(tensor.is_inference() for tensor in (*copied.parameters(), *copied.buffers()))


def test_frozen_models_are_pruned():
    """A model without a trainable parameter, traced under no_grad, is pruned like any other."""
    model = chain().requires_grad_(False)
    with torch.no_grad():
        graph = dg.trace(model, X)
    assert graph == dg.trace(chain(), X)
    small = dg.execute(planned(model), model)
    assert small[0].weight.shape[0] == 4 and not any(p.requires_grad for p in small.parameters())


def test_meta_models_are_executed_without_data():
    """On the meta device shapes change and no data is made."""
    with torch.device("meta"):
        model = chain()
    small = dg.execute(planned(model), model)
    assert small[3].weight.is_meta and small[3].weight.shape == (4, 4, 3, 3)


def test_wrappers_are_looked_through():
    """torch.compile and DataParallel wrappers: the module inside is traced, named and executed."""
    model = chain()
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        assert dg.trace(wrapped, X) == dg.trace(model, X)
        small = dg.execute(planned(wrapped), wrapped)
        assert type(small) is nn.Sequential and small[0].out_channels == 4
        assert dg.name_of(wrapped, model[1]) == "1"


def test_deep_copies_and_training_go_on():
    """A pruned model can be copied, saved, loaded and trained by plain torch."""
    model = chain().train()
    small = dg.execute(planned(model), model)
    again = copy.deepcopy(small)
    again.load_state_dict(small.state_dict())
    optimiser = torch.optim.SGD(again.parameters(), lr=0.1)
    again(X).sum().backward()
    optimiser.step()
    assert not torch.equal(again[0].weight, small[0].weight)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_models_are_executed_where_they_are():
    """Parameters stay on the GPU, and the graph is that of the CPU model."""
    model = chain()
    graph = dg.trace(model, X)
    on_gpu = copy.deepcopy(model).cuda()
    assert dg.trace(on_gpu, X.cuda()) == graph
    small = dg.execute(planned(model), on_gpu)
    assert small[0].weight.is_cuda and torch.allclose(small(X.cuda()).cpu(), dg.execute(planned(model), model)(X), atol=1e-4)


def test_a_closure_over_the_model_is_traced():
    """A forward that reaches the real module through a closure meets the same parameters."""
    model = nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.Linear(8, 3)})
    model.forward = lambda x: model["b"](model["a"](x).relu())
    graph = testing.assert_pure(model, torch.randn(2, 4))
    assert graph.group("a.weight", dim=0).members == (("a.weight", 0), ("a.bias", 0), ("b.weight", 1))


class Hoarding(nn.Module):
    """Holds its parameters in a list and in a tuple inside a dict as well, and uses those."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.weights, self.more = [self.a.weight, self.b.weight], {"bias": (self.a.bias,)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(torch.relu(nn.functional.linear(x, self.weights[0], self.more["bias"][0])), self.weights[1])


@pytest.mark.parametrize("in_place", [False, True])
def test_parameters_held_in_containers_follow(in_place):
    """A list or dict of parameters that forward uses holds the new ones: no stale weight stays in use."""
    model, x = Hoarding(), torch.randn(2, 4)
    plan = dg.cut(dg.trace(model, x), "a.weight", [1], dim=0)
    expected = dg.execute(plan, model)(x)
    small = model if in_place else dg.execute(plan, model)
    if in_place:
        dg.execute_(plan, model)
    assert small.weights[0] is small.a.weight and small.more["bias"][0] is small.a.bias
    assert small.weights[0].shape == (7, 4) and torch.equal(small(x), expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_older_weight_norm_is_executed():
    """Its weight is a tensor computed in forward, which deepcopy alone refuses; it is computed anew."""
    model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(2, 4)
    model(x)
    small = dg.execute(dg.cut(dg.trace(model, x), "2.weight", [1], dim=1), model)
    assert small(x).shape == (2, 3) and small[0].weight.shape == (7, 4)
    assert model[0].weight.shape == (8, 4)
