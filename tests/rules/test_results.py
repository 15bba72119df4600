"""Losses, lists of tensors, `out=` arguments, draws and quantisation: laws and layouts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.rules.test_operators import IMAGE, ROWS, Around, cases, check, lawful, layout, reasons, why

aten = torch.ops.aten
HARD, ONES = torch.tensor([0, 1, 2]), torch.ones(3, 6)


class Loss(nn.Module):
    """A model that returns its loss."""

    def __init__(self, loss):
        super().__init__()
        self.a, self.b, self.loss = nn.Linear(4, 8), nn.Linear(8, 6), loss

    def forward(self, x):
        return self.loss(self.b(torch.relu(self.a(x))))


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: F.cross_entropy(z, HARD),
        lambda z: F.cross_entropy(z, HARD, torch.ones(6, dtype=z.dtype)),
        lambda z: F.cross_entropy(z, ONES.to(z.dtype) / 6, label_smoothing=0.1),
        lambda z: F.cross_entropy(z, HARD, reduction="none"),
        lambda z: F.nll_loss(F.log_softmax(z, 1), HARD),
        lambda z: F.mse_loss(z, ONES.to(z.dtype)),
        lambda z: F.binary_cross_entropy(z.sigmoid(), ONES.to(z.dtype)),
        lambda z: F.binary_cross_entropy_with_logits(z, ONES.to(z.dtype), pos_weight=torch.ones(6, dtype=z.dtype)),
        lambda z: F.soft_margin_loss(z, ONES.to(z.dtype)),
        lambda z: F.multi_margin_loss(z, HARD),
        lambda z: F.multilabel_margin_loss(z, torch.zeros(3, 6, dtype=torch.long)),
        lambda z: F.multilabel_soft_margin_loss(z, ONES.to(z.dtype)),
        lambda z: F.hinge_embedding_loss(z, ONES.to(z.dtype)),
        lambda z: F.poisson_nll_loss(z, ONES.to(z.dtype)),
    ],
)
def test_losses_against_targets(loss):
    """Targets keep the classes; the width before them is a group."""
    graph = lawful(Loss(loss), torch.randn(3, 4), masking=False)
    assert layout(graph, ("a.weight", 0), ("b.weight", 1), ("b.weight", 0)) == "a8 -> a8 -> 6"


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: F.mse_loss(z, z.relu()),
        lambda z: F.l1_loss(z, 2 * z),
        lambda z: F.smooth_l1_loss(z, 2 * z, reduction="none").sum(),
        lambda z: F.huber_loss(z, 2 * z),
        lambda z: F.kl_div(z.log_softmax(1), z.softmax(1), reduction="batchmean"),
        lambda z: F.triplet_margin_loss(z, 2 * z, 3 * z),
        lambda z: F.cosine_embedding_loss(z, 2 * z, torch.ones(3, dtype=z.dtype)),
        lambda z: F.gaussian_nll_loss(z, 2 * z, z.exp()),
    ],
)
def test_losses_between_features(loss):
    """Features that are compared with each other are a group: nothing numbers them."""
    graph = lawful(Loss(loss), torch.randn(3, 4), masking=False)
    assert layout(graph, ("a.weight", 0), ("b.weight", 1), ("b.weight", 0)) == "a8 -> a8 -> b6"


def test_losses_that_tie():
    """Negative control: halves that a loss compares lose the same indices, and other halves would not."""
    graph = lawful(Loss(lambda z: F.mse_loss(*z.chunk(2, 1))), torch.randn(3, 4), masking=False)
    assert layout(graph, ("b.weight", 0)) == "a3 + a3"


def test_ctc():
    """Time and classes are aligned with targets."""

    def loss(z):
        y = z[:, None].expand(3, 2, 6).log_softmax(-1)
        return F.ctc_loss(y, torch.ones(2, 2, dtype=torch.long), torch.tensor([3, 3]), torch.tensor([2, 2]))

    graph = lawful(Loss(loss), torch.randn(3, 4), masking=False)
    assert layout(graph, ("a.weight", 0), ("b.weight", 0)) == "a8 -> 6"


def test_losses_of_images():
    """Class scores by pixel."""

    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)

        def forward(self, x):
            return F.cross_entropy(self.b(self.a(x)), torch.zeros(2, 6, 6, dtype=torch.long))

    graph = lawful(Segmenter(), torch.randn(IMAGE), masking=False)
    assert layout(graph, ("a.weight", 0), ("b.weight", 1), ("b.weight", 0)) == "a8 -> a8 -> 5"


def in_place(x):
    """Lists that are written to."""
    y = x.clone()
    torch._foreach_add_([y], [x])
    torch._foreach_mul_([y], 2.0)
    return y


def halves_in_place(x):
    """Halves of the channels as lists: one is added to the other."""
    a, b = x.chunk(2, 1)
    a = a.clone()
    torch._foreach_add_([a], [b])
    return a


@cases([
    *((name, lambda x, name=name: getattr(torch, f"_foreach_{name}")([x, x.relu()], [x, x])[1], "a8 -> a8", {})
      for name in ("add", "sub", "mul", "maximum", "minimum")),
    *((name, lambda x, name=name: getattr(torch, f"_foreach_{name}")([x])[0], "a8 -> a8", {})
      for name in ("exp", "abs", "neg", "sigmoid", "tanh", "round")),
    ("addcmul", lambda x: torch._foreach_addcmul([x], [x], [x])[0], "a8 -> a8"),
    ("lerp", lambda x: torch._foreach_lerp([x], [x.relu()], 0.5)[0], "a8 -> a8"),
    ("norm", lambda x: x * torch._foreach_norm([x, x])[0], "a8 -> a8"),
    ("in place", in_place, "a8 -> a8"),
    ("halves in place", halves_in_place, "a4 + a4 -> a4"),
])  # fmt: skip
def test_lists(operator, expected, options):
    """The k-th tensors of lists match element by element, whether the operator returns lists or writes to them."""
    check(operator, expected, **options)


def result(function, make=lambda x: x.new_empty(0)):
    """An operator that writes to a tensor of its own."""

    def operator(x):
        made = make(x)
        function(x, made)
        return made

    return operator


def out_view(x):
    """The result goes to a part of another tensor."""
    y = x.clone()
    torch.add(x[:, : x.shape[1] // 2], 1, out=y[:, : x.shape[1] // 2])
    return y


def two_results(x):
    """Values and positions."""
    values, positions = x.new_empty(0), torch.empty(0, dtype=torch.long)
    torch.max(x, 2, keepdim=True, out=(values, positions))
    return x * values


@cases([
    ("add", result(lambda x, y: torch.add(x, x, out=y)), "a8 -> a8"),
    ("of the same shape", result(lambda x, y: torch.mul(x, 2.0, out=y), torch.empty_like), "a8 -> a8"),
    ("of a literal shape", result(lambda x, y: torch.mul(x, 2.0, out=y), lambda x: x.new_empty(2, 8, 6, 6)), "8 -> 8",
     why("literal 8 (aten.new_empty")),
    ("cat", result(lambda x, y: torch.cat([x, x], 1, out=y)), "a8 -> a8 + a8"),
    ("matmul", lambda x: x * result(lambda x, y: torch.matmul(x, x.transpose(-1, -2), out=y))(x).mean(), "a8 -> a8"),
    ("bmm", lambda x: x * result(lambda x, y: torch.bmm(x[0], x[1], out=y))(x).mean(), "a8 -> a8"),
    ("mean", lambda x: x * result(lambda x, y: torch.mean(x, 2, keepdim=True, out=y))(x), "a8 -> a8"),
    ("pool", result(lambda x, y: torch._C._nn.avg_pool2d(x, 2, out=y)), "a8 -> a8"),
    ("two results", two_results, "a8 -> a8"),
    ("a view", out_view, "a4 + b4 -> a4 + b4"),
    ("clamp", result(lambda x, y: torch.clamp(x, 0, 1, out=y)), "a8 -> a8"),
    ("gather", result(lambda x, y: torch.gather(x, 2, torch.zeros_like(x).long(), out=y)), "a8 -> a8"),
])  # fmt: skip
def test_out_arguments(operator, expected, options):
    """What `out=` names is the result and no operand, whatever shape it had before."""
    check(operator, expected, **options)


@cases([
    ("bernoulli_", lambda x: x * torch.empty_like(x).bernoulli_(1.0), "a8 -> a8"),
    ("rand_like", lambda x: x + 0 * torch.rand_like(x), "a8 -> a8"),
    ("normal around a tensor", lambda x: x + 0 * torch.normal(x, 1.0), "a8 -> a8"),
    ("normal of a literal size", lambda x: x + 0 * torch.normal(0.0, 1.0, (8, 1, 1)), "8 -> 8", why("literal 8 (aten.normal")),
    ("normal of a shape", lambda x: x + 0 * torch.normal(0.0, 1.0, (x.shape[1], 1, 1)), "a8 -> a8"),
    ("poisson", lambda x: x + 0 * torch.poisson(x.abs()), "a8 -> a8"),
    ("dropouts", lambda x: F.feature_alpha_dropout(F.alpha_dropout(x, training=False), training=False), "a8 -> a8"),
    ("frexp", lambda x: torch.frexp(x)[0], "a8 -> a8"),
    ("renorm", lambda x: torch.renorm(x, 2, 0, 1.0), "a8 -> a8"),
    ("logsigmoid", F.logsigmoid, "a8 -> a8"),
    ("special", lambda x: torch.special.i0e(torch.special.erfcx(x)) + torch.special.entr(x.abs()), "a8 -> a8"),
    ("masked softmax", lambda x: aten._masked_softmax(x, torch.zeros_like(x, dtype=torch.bool), 2), "a8 -> a8"),
    ("a copy of a view", lambda x: aten.permute_copy(aten.expand_copy(x, x.shape), [0, 1, 3, 2]), "a8 -> a8"),
    ("affine grid", lambda x: F.grid_sample(
        x, F.affine_grid(torch.eye(2, 3, dtype=x.dtype).expand(2, 2, 3), [2, 8, 5, 5], align_corners=False),
        align_corners=False), "a8 -> a8"),
])  # fmt: skip
def test_draws_and_the_rest(operator, expected, options):
    """Draws have the shape of the tensor or of the sizes that they are told; special functions are element-wise."""
    check(operator, expected, **options)


class Quantised(nn.Module):
    """Rounds by scales, one for each channel, and back."""

    def __init__(self, real):
        super().__init__()
        self.real = real
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("scale", torch.full((8,), 0.1))
        self.register_buffer("zero", torch.zeros(8))

    def forward(self, x):
        y = self.first(x)
        if self.real:
            y = torch.quantize_per_channel(y, self.scale, self.zero, 1, torch.qint8).dequantize()
        else:
            y = torch.fake_quantize_per_channel_affine(y, self.scale, self.zero, 1, -128, 127)
        return self.last(y)


@pytest.mark.parametrize("real", [False, True])
def test_quantisation_by_channel(real):
    """Scales and zero points range over the channels that they belong to."""
    graph = lawful(Quantised(real), torch.randn(IMAGE), masking=False)
    assert layout(graph, ("first.weight", 0), ("scale", 0), ("zero", 0), ("last.weight", 1)) == " -> ".join(["a8"] * 4)


def test_quantisation_as_a_whole():
    """One scale for all says nothing about channels."""
    model = Around(lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize())
    graph = lawful(model, torch.randn(IMAGE), masking=False)
    assert layout(graph, ("first.weight", 0), ("last.weight", 1)) == "a8 -> a8"


def test_training_steps_are_no_forward():
    """A step of an optimizer inside of forward keeps what it touches, and the reason says why."""

    class Trained(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
            for name in ("a", "b"):
                self.register_buffer(name, torch.zeros(8))
            self.register_buffer("step", torch.zeros(()))

        def forward(self, x):
            y = self.first(x)
            z = y.mean(0)
            torch._fused_adam_(
                [z], [z.clone()], [self.a.clone()], [self.b.clone()], [], [self.step.clone()],
                lr=0.1, beta1=0.9, beta2=0.9, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
            )  # fmt: skip
            return self.last(y + z)

    graph = lawful(Trained(), torch.randn(ROWS))
    assert layout(graph, ("first.weight", 0)) == "8"
    assert "is a step of training" in reasons(graph, ("first.weight", 0), ("a", 0))
