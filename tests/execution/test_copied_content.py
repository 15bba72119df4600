"""What `execute` copies beside parameters: tensors that a forward left, formats of memory, parameters that share memory."""

import dataclasses
from collections import OrderedDict, defaultdict, deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import depgraph as dg

X = torch.randn(3, 4)


@dataclasses.dataclass(slots=True)
class Slotted:
    x: torch.Tensor


@dataclasses.dataclass
class Plain:
    x: object


class Own:
    """An object of the user's own."""

    def __init__(self, x):
        self.inside = {"x": [x]}


KEEPERS = {
    "tensor": lambda x: x,
    "list": lambda x: [x],
    "six deep": lambda x: [({"a": [[(x,)]]},)],
    "dict": lambda x: {("a", 1): x},
    "OrderedDict": lambda x: OrderedDict(a=x),
    "defaultdict": lambda x: defaultdict(list, a=[x]),
    "deque": lambda x: deque([x], maxlen=2),
    "set": lambda x: {x},
    "dataclass": lambda x: Plain([x]),
    "slots": lambda x: Slotted(x),
    "namespace": lambda x: SimpleNamespace(x=x),
    "own object": Own,
    "module in a list": lambda x: [Keeps("list").keep(x)],
}


def tensors_in(content):
    """The tensors in it, by a walk of its own."""
    if isinstance(content, torch.Tensor):
        return [content]
    if isinstance(content, dict):
        content = list(content.values())
    elif isinstance(content, Slotted):
        content = [content.x]
    elif isinstance(content, nn.Module):
        content = [content.kept]
    elif hasattr(content, "__dict__"):
        content = list(vars(content).values())
    return [tensor for item in content for tensor in tensors_in(item)]


class Keeps(nn.Module):
    """Keeps a tensor of each forward, as auxiliary losses and features for distillation are kept."""

    def __init__(self, how):
        super().__init__()
        self.how, self.kept = how, None
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def keep(self, x):
        self.kept = KEEPERS[self.how](x)
        return self

    def forward(self, x):
        h = self.a(x).relu()
        self.keep(h)
        return self.b(h)


@pytest.mark.parametrize("how", KEEPERS)
@pytest.mark.parametrize("copied", [dg.execute, dg.mask])
def test_tensors_that_a_forward_left_are_copied(how, copied):
    """Wherever they are kept: with their numbers and without their history. The model keeps its own."""
    model = Keeps(how)
    model(X).sum().backward()
    (kept,) = tensors_in(model.kept)
    plan = dg.cut(dg.trace(model, X), "a.weight", [1], dim=0)
    small = copied(plan, model)
    (copy,) = tensors_in(small.kept)
    assert type(small.kept) is type(model.kept) and copy is not kept and torch.equal(copy, kept)
    assert copy.is_leaf and not copy.requires_grad and kept.grad_fn is not None
    assert tensors_in(model.kept) == [kept] or tensors_in(model.kept)[0] is kept
    small(X).sum().backward()


def test_leaves_keep_requires_grad_and_gradient():
    model = Keeps("list")
    model.learnt = [torch.ones(3, requires_grad=True), torch.zeros(3)]
    model.learnt[0].sum().backward()
    small = dg.execute(dg.cut(dg.trace(model, X), "a.weight", [1], dim=0), model)
    assert [tensor.requires_grad for tensor in small.learnt] == [True, False]
    assert small.learnt[0] is not model.learnt[0] and small.learnt[0].grad.tolist() == [1.0] * 3


@pytest.mark.parametrize("how", ["tensor", "list", "dict", "OrderedDict", "defaultdict", "deque", "set"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_parameter_in_a_container_is_the_new_one(how, in_place):
    """A module's own list of parameters that a step of its own reads does not go on with the old ones."""
    model = Keeps(how).keep(None)
    model.also = KEEPERS[how](model.a.weight)
    before, plan = model.also, dg.cut(dg.trace(model, X), "a.weight", [1], dim=0)
    if in_place:
        dg.execute_(plan, model)
        small = model
    else:
        small = dg.execute(plan, model)
    assert tensors_in(small.also)[0] is small.a.weight and type(small.also) is type(before)
    assert getattr(small.also, "maxlen", None) == getattr(before, "maxlen", None)
    assert tensors_in(before)[0].shape == (8, 4), "the container that the user may hold is not written to"


@pytest.mark.parametrize("write", [dg.execute, dg.execute_])
@pytest.mark.parametrize(
    "layer, order", [(nn.Conv2d, torch.channels_last), (nn.Conv3d, torch.channels_last_3d)], ids=["2d", "3d"]
)
def test_memory_formats_are_kept(write, layer, order):
    """Of weights and gradients; what is laid out plainly stays so."""
    dims = 2 if layer is nn.Conv2d else 3
    for kept in (order, torch.contiguous_format):
        model = nn.Sequential(layer(3, 8, 3, padding=1), layer(8, 4, 3)).to(memory_format=kept)
        x = torch.randn(1, 3, *[8] * dims)
        model(x).sum().backward()
        plan = dg.cut(dg.trace(model, x), "0.weight", [1], dim=0)
        result = write(plan, model)
        small = result if isinstance(result, nn.Module) else model
        for tensor in (small[0].weight, small[1].weight, small[1].weight.grad):
            assert tensor.is_contiguous(memory_format=kept)
            assert tensor.is_contiguous() == (kept is torch.contiguous_format)


class Two(nn.Module):
    """Two layers of one shape beside each other, and one that no plan reaches."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)
        self.d, self.e = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.e(self.d(self.c(self.a(x).relu() + self.b(x))))


@pytest.mark.parametrize("use", [dg.execute, dg.execute_, dg.mask, dg.mask_])
def test_parameters_that_share_memory_are_not_parted(use):
    """Two parameters over the same numbers would train apart after the cut: told by name, with the way out."""
    model = Two()
    plan = dg.cut(dg.trace(model, X), "a.weight", [1], dim=0)
    model.b.weight = nn.Parameter(model.a.weight.detach()[:])
    with pytest.raises(
        dg.errors.MismatchError, match=r"'a\.weight' and 'b\.weight' are two parameters that share memory"
    ) as caught:
        use(plan, model)
    assert len(caught.value.problems) == 1 and model.b.weight.shape == (8, 4)
    model.b.weight = model.a.weight
    plan = dg.cut(dg.trace(model, X), "a.weight", [1], dim=0)
    use(plan, model)


def test_shared_memory_that_no_plan_reaches_is_shared_in_the_copy():
    model = Two()
    plan = dg.cut(dg.trace(model, X), "a.weight", [1], dim=0)
    model.e.weight = nn.Parameter(model.d.weight.detach().t())
    small = dg.execute(plan, model)
    with torch.no_grad():
        small.d.weight[0, 1] = 7.0
    assert small.e.weight[1, 0].item() == 7.0 and model.e.weight[1, 0].item() != 7.0
    assert small.e.weight.stride() == (1, 2)


@pytest.mark.parametrize("along", [0, 1])
def test_parts_of_one_buffer_are_no_ties(along):
    """Flat buffers of optimizers, and columns side by side, share a storage and no number: each becomes a tensor of its own."""
    model = Two()
    plan = dg.cut(dg.trace(model, X), "a.weight", [1], dim=0)
    expected = dg.execute(plan, model)(X)
    flat = torch.cat([model.a.weight.detach(), model.b.weight.detach()], along)
    model.a.weight, model.b.weight = (nn.Parameter(part) for part in flat.chunk(2, along))
    assert model.a.weight.untyped_storage().data_ptr() == model.b.weight.untyped_storage().data_ptr()
    small = dg.execute(plan, model)
    assert torch.equal(small(X), expected)
    assert small.a.weight.untyped_storage().data_ptr() != small.b.weight.untyped_storage().data_ptr()
