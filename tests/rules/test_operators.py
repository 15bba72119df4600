"""Every operator of the table, in a tiny network: the laws hold, and the groups are exactly the expected ones.

A case states the spaces of two axes, the producer's outputs and the consumer's inputs: ``a4 + b4 -> b4 + a4``. A letter and a
size is a group, a bare number is pinned. So coupling that is missing, too wide, or given up on, shows in the text.
"""

import string

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import depgraph as dg
from depgraph import testing
from depgraph.algebra.spaces import Atom, Product, Reversed
from depgraph.plans.making import plan_of
from depgraph.rules import RULES
from depgraph.solving.statements import Equal, Rule

pytestmark = pytest.mark.models

CONVOLUTION = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
SHAPES = {1: (2, 3, 6), 2: (2, 3, 6, 6), 3: (2, 3, 4, 4, 4)}
ROWS, TOKENS, SEQUENCE, IMAGE, VOLUME = (2, 4), (2, 5, 4), *SHAPES.values()
ENDS = ("first.weight", 0), ("last.weight", 1)


class Around(nn.Module):
    """A producer of channels, the operator under test, and a consumer: convolutions for (batch, 3, ...), else linear."""

    def __init__(self, operator, shape=IMAGE, channels=8):
        super().__init__()
        linear = len(shape) == 2 or shape == TOKENS
        self.first = nn.Linear(shape[-1], channels) if linear else CONVOLUTION[len(shape)](3, channels, 1)
        self.operator = operator
        with torch.no_grad():
            made = operator(self.first(torch.randn(shape)))
        linear = linear or made.ndim == 2
        self.last = nn.Linear(made.shape[-1], 2) if linear else CONVOLUTION[made.ndim](made.shape[1], 2, 1)

    def forward(self, x):
        return self.last(self.operator(self.first(x)))


def layout(graph, *axes):
    """The spaces of some axes as text; groups are lettered in reading order."""
    letters = {}

    def text(space, top=True):
        if isinstance(space, Atom):
            if space not in graph.group_of:
                return str(space.size)
            return letters.setdefault(space, string.ascii_lowercase[len(letters)]) + str(space.size)
        if isinstance(space, Reversed):
            return "~" + text(space.atom)
        if isinstance(space, Product):
            inner = " x ".join(text(factor, False) for factor in space.factors) or "1"
        else:
            inner = " + ".join(text(part, False) for part in space.parts)
        return inner if top or inner == "1" else f"({inner})"

    return " -> ".join(text(graph.axis(name, dim)) for name, dim in axes)


def single_cuts(graph):
    """For each group a plan that removes one index; balanced groups lose one each, at different places."""
    together = {atom: balance.atoms for balance in graph.balances for atom in balance.atoms}
    for classes in dict.fromkeys(together.get(group.atom, (group.atom,)) for group in graph.groups):
        if all(atom.size > 1 for atom in classes):
            yield plan_of(graph, {atom: dg.IndexSet.of([(3 * k + 1) % atom.size]) for k, atom in enumerate(classes)})


def lawful(model, *inputs, masking=True):
    """The laws for a plan of all groups at once, then for one index of each group alone. Returns the graph.

    Without `masking` law 6 is left out, for models in which a zeroed channel is by nature not the same as none.
    """
    model.eval()
    graph = testing.assert_pure(model, inputs)
    if masking:
        testing.assert_lawful(model, inputs)
    for plan in single_cuts(graph):
        small = testing.assert_square(graph, plan, model, inputs)
        testing.assert_round_trip(graph, plan)
        testing.assert_atomic(plan, model)
        testing.assert_cost(plan.apply(graph), small, inputs)
        if masking:
            testing.assert_zero_channels(graph, plan, model, inputs)
    return graph


def reasons(graph, *axes):
    """Why the axes, or parts of them, are pinned."""
    return " ".join(pinned.reason for pinned in graph.pinned if (pinned.tensor, pinned.dim) in axes)


def check(operator, expected, shape=IMAGE, channels=8, why=()):
    """The laws around an operator, the expected layout, and the expected words in the reasons of what is pinned."""
    graph = lawful(Around(operator, shape, channels), torch.randn(shape))
    assert layout(graph, *ENDS) == expected
    told = reasons(graph, *ENDS)
    for words in [why] if isinstance(why, str) else why:
        assert words in told
    return graph


def cases(table):
    """Rows of (name, operator, expected layout, ...) as parameters with the name as id; a row's further items are options."""
    return pytest.mark.parametrize(
        ("operator", "expected", "options"),
        [pytest.param(row[1], row[2], row[3] if len(row) > 3 else {}, id=row[0]) for row in table],
    )


def halves(x):
    """The two halves of the channels."""
    return x.chunk(2, 1)


def swapped(parts):
    """The parts in the opposite order, joined."""
    return torch.cat(list(parts)[::-1], 1)


def shuffled(x, groups):
    """Channels in `groups` blocks, read block by block within each place."""
    batch, channels, *space = x.shape
    return x.view(batch, groups, channels // groups, *space).transpose(1, 2).reshape(batch, channels, *space)


def on(shape, **options):
    """Options of a case: the input's shape, and what `check` takes."""
    return {"shape": shape, **options}


def why(*words, **options):
    """Options of a case: what the reasons of its pinned axes must say."""
    return {"why": words, **options}


# --- convolutions, linear layers, normalisations -----------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize(
    ("transposed", "options", "expected"),
    [
        (False, {}, "a8 -> a8 -> b12 -> b12"),
        (False, {"padding": "same"}, "a8 -> a8 -> b12 -> b12"),
        (False, {"groups": 2}, "a2 x b4 -> b4 -> a2 x c6 -> a2 x c6"),
        (True, {}, "a8 -> a8 -> b12 -> b12"),
        (True, {"groups": 2}, "a2 x b4 -> a2 x b4 -> c6 -> a2 x c6"),
    ],
)
def test_convolutions(d, transposed, options, expected):
    """Convolutions, plain or transposed, tie their input and output channels, in blocks where they have groups."""
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d) if transposed else tuple(CONVOLUTION.values())
    plain = tuple(CONVOLUTION.values())[d - 1]
    model = nn.Sequential(plain(3, 8, 1), kind[d - 1](8, 12, 3, **options), plain(12, 2, 1))
    graph = lawful(model, torch.randn(SHAPES[d]))
    inner, outer = (0, 1) if transposed else (1, 0)
    assert layout(graph, ("0.weight", 0), ("1.weight", inner), ("1.weight", outer), ("2.weight", 1)) == expected
    assert "kernel axis" in reasons(graph, ("1.weight", 2))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_depthwise_convolutions(d):
    """A depthwise convolution with a multiplier is a product of its input channels and the multiplier."""
    plain = tuple(CONVOLUTION.values())[d - 1]
    model = nn.Sequential(plain(3, 8, 1), plain(8, 16, 3, groups=8), plain(16, 2, 1))
    graph = lawful(model, torch.randn(SHAPES[d]))
    assert layout(graph, ("0.weight", 0), ("1.weight", 0), ("2.weight", 1)) == "a8 -> a8 x b2 -> a8 x b2"
    assert graph.node("1").type is dg.OpType.DEPTHWISE_CONV


def test_an_unbatched_convolution():
    """Channels are found by their place from the end, so an input without batch dimension does as well."""
    graph = lawful(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), torch.randn(3, 4, 4))
    assert graph.group("0.weight", 0).members == (("0.weight", 0), ("0.bias", 0), ("1.weight", 1))


STATISTICS = ("weight", "bias", "running_mean", "running_var")
AFFINE = ("weight", "bias")


@pytest.mark.parametrize(
    ("norm", "held", "shape", "expected"),
    [
        (lambda: nn.BatchNorm1d(8), STATISTICS, ROWS, "a8"),
        (lambda: nn.BatchNorm1d(8), STATISTICS, SEQUENCE, "a8"),
        (lambda: nn.BatchNorm2d(8), STATISTICS, IMAGE, "a8"),
        (lambda: nn.BatchNorm3d(8), STATISTICS, VOLUME, "a8"),
        (lambda: nn.BatchNorm2d(8, affine=False), STATISTICS[2:], IMAGE, "a8"),
        (lambda: nn.LayerNorm(8), AFFINE, TOKENS, "a8"),
        (lambda: nn.RMSNorm(8), AFFINE[:1], TOKENS, "a8"),
        (lambda: nn.GroupNorm(2, 8), AFFINE, IMAGE, "a2 x b4"),
        (lambda: nn.GroupNorm(1, 8), AFFINE, IMAGE, "a8"),
        (lambda: nn.GroupNorm(8, 8), AFFINE, IMAGE, "a8"),
        (lambda: nn.PReLU(8), ("weight",), IMAGE, "a8"),
        (lambda: nn.PReLU(), (), IMAGE, "a8"),
    ],
)
def test_normalisations(norm, held, shape, expected):
    """The parameters and statistics of a normalisation range over the channels that they scale."""
    model = Around(norm(), shape)
    graph = lawful(model, torch.randn(shape))
    owned = tuple((f"operator.{name}", 0) for name in held)
    assert layout(graph, *ENDS, *owned) == " -> ".join([expected] * (2 + len(held)))


@pytest.mark.parametrize(
    ("norm", "held", "shape"),
    [
        (lambda: nn.InstanceNorm1d(8), (), SEQUENCE),
        (lambda: nn.InstanceNorm2d(8, affine=True), AFFINE, IMAGE),
        (lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True), STATISTICS, IMAGE),
        (lambda: nn.InstanceNorm3d(8, track_running_stats=True), STATISTICS[2:], VOLUME),
    ],
)
def test_instance_normalisations(norm, held, shape):
    """InstanceNorm ties its parameters and statistics, where it has any, to the channels."""
    test_normalisations(norm, held, shape, "a8")


def test_layer_norm_over_two_axes():
    """A LayerNorm over tokens and features ties both axes of its weight; the tokens are those of the input."""
    graph = lawful(Around(nn.LayerNorm((5, 8)), TOKENS), torch.randn(TOKENS))
    assert layout(graph, ("operator.weight", 0), ("operator.weight", 1), *ENDS) == "5 -> a8 -> a8 -> a8"


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_embeddings(kind):
    """The width of an embedding is prunable, its vocabulary is not."""
    graph = lawful(nn.Sequential(kind(10, 8), nn.Linear(8, 2)), torch.randint(0, 10, (2, 5)))
    assert layout(graph, ("0.weight", 0), ("0.weight", 1), ("1.weight", 1)) == "10 -> a8 -> a8"
    assert "vocabulary" in reasons(graph, ("0.weight", 0))


# --- pooling and resampling --------------------------------------------------------------------------------------------------

POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("name", POOLS)
def test_pools(name, d):
    """Pooling passes the channels on."""
    pool = getattr(F, f"{name}{d}d")
    check(lambda x: pool(x, 2), "a8 -> a8", SHAPES[d])


@cases([
    *((mode, lambda x, mode=mode: F.interpolate(x, scale_factor=2, mode=mode), "a8 -> a8")
      for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")),
    ("linear", lambda x: F.interpolate(x, scale_factor=2, mode="linear"), "a8 -> a8", on(SEQUENCE)),
    ("trilinear", lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"), "a8 -> a8", on(VOLUME)),
    ("to a size", lambda x: F.interpolate(x, size=(3, 3)), "a8 -> a8"),
    ("antialias", lambda x: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True), "a8 -> a8"),
    ("lp_pool", lambda x: F.lp_pool2d(x, 2.0, 2), "a8 -> a8"),
    ("max_unpool", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), "a8 -> a8"),
    ("grid_sample", lambda x: F.grid_sample(x, x.new_zeros(2, 5, 5, 2), align_corners=False), "a8 -> a8"),
    ("unfold", lambda x: F.unfold(x, 2).mean(-1), "a8 -> a8 x 4", why("kernel positions of aten.im2col")),
    ("fold", lambda x: F.fold(F.unfold(x, 2), (6, 6), 2), "a8 -> a8"),
    ("windows in space", lambda x: x.unfold(2, 2, 1).mean(-1), "a8 -> a8"),
    ("windows of channels", lambda x: x.unfold(1, 2, 2).mean(-1), "8 -> 4", why("aten.unfold")),
    ("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), "a2 x 4 -> a2", why("aten.pixel_shuffle")),
    ("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), "a8 -> a8 x 4", why("aten.pixel_unshuffle")),
    ("channel_shuffle", lambda x: F.channel_shuffle(x, 2), "2 x a4 -> a4 x 2", why("literal 2 (aten.channel_shuffle")),
])  # fmt: skip
def test_windows(operator, expected, options):
    """Resampling passes channels; what moves pixels into channels is a product with a pinned block."""
    check(operator, expected, **options)


# --- joins and cuts ----------------------------------------------------------------------------------------------------------


@cases([
    ("cat", lambda x: torch.cat([x, x.relu()], 1), "a8 -> a8 + a8"),
    ("cat in space", lambda x: torch.cat([x, x.relu()], -1), "a8 -> a8"),
    ("hstack", lambda x: torch.hstack([x, x.relu()]), "a8 -> a8 + a8"),
    ("stack and sum", lambda x: torch.stack([x, x.relu()], 1).sum(1), "a8 -> a8"),
    ("stack and flatten", lambda x: torch.stack([x, x.relu()], 2).flatten(1, 2), "a8 -> a8 x 2", why("aten.stack joins")),
    ("split by shape", lambda x: swapped(x.split(x.shape[1] // 2, 1)), "a4 + b4 -> b4 + a4"),
    ("split by a literal", lambda x: swapped(x.split(4, 1)), "4 + 4 -> 4 + 4", why("literal 4 (aten.split")),
    ("split by literals", lambda x: swapped(x.split([3, 5], 1)), "3 + 5 -> 5 + 3", why("literal 5 (aten.split_with_sizes")),
    ("split by a literal and the rest", lambda x: swapped(x.split([3, x.shape[1] - 3], 1)), "3 + a5 -> a5 + 3",
     why("literal 3")),
    ("split with a remainder", lambda x: swapped(x.split(3, 1)), "3 + 3 + 2 -> 2 + 3 + 3", why("leaves a remainder")),
    ("chunk", lambda x: swapped(x.chunk(2, 1)), "a4 + b4 -> b4 + a4"),
    ("chunk and add", lambda x: sum(x.chunk(2, 1)), "a4 + a4 -> a4"),
    ("chunk unequally", lambda x: swapped(x.chunk(3, 1)), "3 + 3 + 2 -> 2 + 3 + 3", why("into unequal parts (aten.chunk")),
    ("tensor_split", lambda x: swapped(x.tensor_split(2, 1)), "a4 + b4 -> b4 + a4"),
    ("tensor_split at", lambda x: swapped(x.tensor_split([3, -2], 1)), "3 + a3 + 2 -> 2 + a3 + 3", why("aten.tensor_split")),
    ("unbind", lambda x: x.unflatten(1, (2, -1)).unbind(1)[0], "2 x a4 -> a4", why("aten.unbind")),
    ("glu", lambda x: F.glu(x, 1), "a4 + a4 -> a4"),
    ("x[:, :3]", lambda x: x[:, :3], "3 + a5 -> 3", why("literal 3 (aten.slice")),
    ("x[:, 3:]", lambda x: x[:, 3:], "3 + a5 -> a5", why("literal 3 (aten.slice")),
    ("x[:, -3:]", lambda x: x[:, -3:], "a5 + 3 -> 3", why("literal 3 (aten.slice")),
    ("x[:, :-3]", lambda x: x[:, :-3], "a5 + 3 -> a5", why("literal 3 (aten.slice")),
    ("x[:, 2:5]", lambda x: x[:, 2:5], "2 + 3 + a3 -> 3", why("literal 2 (aten.slice", "literal 5 (aten.slice")),
    ("x[:, ::2]", lambda x: x[:, ::2], "a4 x 2 -> a4", why("one of every 2 positions (aten.slice")),
    ("x[:, 1::2]", lambda x: x[:, 1::2], "a4 x 2 -> a4", why("one of every 2 positions (aten.slice")),
    ("x[:, ::3]", lambda x: x[:, ::3], "8 -> 3", why("3 does not divide evenly (aten.slice")),
    ("x[:, :6:2]", lambda x: x[:, :6:2], "8 -> 3", why("2 does not divide evenly (aten.slice")),
    ("x[..., 0]", lambda x: x[..., 0].mean(-1), "a8 -> a8"),
    ("select", lambda x: x + x.select(1, 2)[:, None], "8 -> 8", why("aten.select takes a fixed position")),
    ("narrow", lambda x: x.narrow(1, 2, 3), "2 + 3 + a3 -> 3", why("literal 2 (aten.narrow", "literal 3 (aten.narrow")),
    ("rotate and add", lambda x: x + torch.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]], 1), "a4 + a4 -> a4 + a4"),
    ("pad channels", lambda x: F.pad(x, (0, 0, 0, 0, 3, 2)), "a8 -> 3 + a8 + 2", why("3 (aten.pad", "2 (aten.pad")),
    ("pad by shape", lambda x: F.pad(x, (0, 0, 0, 0, 0, x.shape[1])), "a8 -> a8 + a8"),
    ("pad off channels", lambda x: F.pad(x, (0, 0, 0, 0, -1, 2)), "8 -> 9", why("aten.pad copies or drops")),
    *((f"pad space, {mode}", lambda x, mode=mode: F.pad(x, (1, 2, 1, 0), mode=mode), "a8 -> a8")
      for mode in ("constant", "reflect", "replicate", "circular")),
    ("pad features, reflect", lambda x: F.pad(x, (1, 1), mode="reflect"), "8 -> 10", on(TOKENS, why="aten.pad copies")),
    ("flip channels", lambda x: x.flip(1), "a8 -> ~a8"),
    ("flip and add", lambda x: x + x.flip(1), "a4 + ~a4 -> a4 + ~a4"),
    ("flip a half", lambda x: torch.cat([x[:, :3], x[:, 3:].flip(1)], 1), "3 + a5 -> 3 + ~a5"),
    ("flip twice", lambda x: x.flip(1).relu().flip(1), "a8 -> a8"),
    ("flip before flatten", lambda x: x.flip(1, 2).flatten(1), "a8 -> ~a8 x 6 x 6"),
    ("shuffle, then chunk", lambda x: shuffled(x, 2).chunk(2, 1)[0], "2 x (a2 + b2) -> a2 x 2"),
    ("shuffle by 3, then by 2", lambda x: shuffled(shuffled(x, 3), 2), "3 x 2 x a2 -> a2 x 3 x 2", on(IMAGE, channels=12)),
    ("shuffle 2 x 3 twice", lambda x: shuffled(shuffled(x, 2), 2), "2 x 3 -> 3 x 2", on(IMAGE, channels=6, why="do not nest")),
    ("flip space", lambda x: x.flip(2, 3), "a8 -> a8"),
    ("roll channels", lambda x: x.roll(2, 1), "a6 + 2 -> 2 + a6", why("literal 2 (aten.roll")),
    ("roll channels back", lambda x: x.roll(-2, 1), "2 + a6 -> a6 + 2", why("literal 2 (aten.roll")),
    ("roll by too much", lambda x: x.roll(10, 1), "8 -> 8", why("aten.roll turns it by more than its size")),
    ("roll space", lambda x: x.roll((1, 2), (2, 3)), "a8 -> a8"),
    ("roll all", lambda x: x.roll(1), "8 -> 8", on(ROWS, why="aten.roll moves positions across axes")),
])  # fmt: skip
def test_joins_and_cuts(operator, expected, options):
    """What is laid end to end or cut apart is a sum; a literal pins the part that it names and no other."""
    check(operator, expected, **options)


# --- views, permutations, repetitions ----------------------------------------------------------------------------------------


@cases([
    ("view", lambda x: x.view(x.shape[0], -1), "a8 -> a8 x 6 x 6"),
    ("reshape", lambda x: x.reshape(x.size(0), x.size(1), -1).mean(-1), "a8 -> a8"),
    ("reshape to a literal", lambda x: x.reshape(2, 8, 36).mean(-1), "8 -> 8", why("literal 8 (aten.reshape")),
    ("view_as", lambda x: x.view_as(x.relu()), "a8 -> a8"),
    ("flatten", lambda x: x.flatten(1), "a8 -> a8 x 6 x 6"),
    ("flatten tokens", lambda x: x.flatten(2).transpose(1, 2).mean(1), "a8 -> a8"),
    ("unflatten", lambda x: x.unflatten(1, (2, -1)).sum(1), "2 x a4 -> a4", why("literal 2 (aten.unflatten")),
    ("unflatten inside", lambda x: x.unflatten(1, (-1, 4)).sum(1), "a2 x 4 -> 4", why("literal 4 (aten.unflatten")),
    ("permute", lambda x: x.permute(0, 2, 3, 1).mean((1, 2)), "a8 -> a8"),
    ("transpose", lambda x: x.transpose(1, 3).mean((1, 2)), "a8 -> a8"),
    ("movedim", lambda x: x.movedim(1, -1).mean((1, 2)), "a8 -> a8"),
    ("swapaxes", lambda x: x.swapaxes(1, 3).relu().swapaxes(1, 3), "a8 -> a8"),
    (".T", lambda x: x.T.relu().T, "a8 -> a8", on(ROWS)),
    (".mT", lambda x: x.mT.mean(-1), "a8 -> a8", on(TOKENS)),
    ("transpose_", lambda x: x.relu().transpose_(1, 2).relu_().mean(-1), "a8 -> a8", on(TOKENS)),
    ("squeeze", lambda x: x.mean((2, 3), keepdim=True).squeeze(), "a8 -> a8"),
    ("squeeze axes", lambda x: x.mean((2, 3), keepdim=True).squeeze((2, 3)), "a8 -> a8"),
    ("unsqueeze", lambda x: x.unsqueeze(-1).relu().squeeze(-1), "a8 -> a8", on(ROWS)),
    ("expand space", lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 5, 5), "a8 -> a8"),
    ("expand channels", lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1), "a8 -> 4", why("literal 4 (aten.expand")),
    ("expand_as", lambda x: x.mean(1, keepdim=True).expand_as(x), "a8 -> a8"),
    ("expand anew", lambda x: x[:, None].expand(-1, 3, -1, -1, -1).flatten(1, 2), "a8 -> 3 x a8", why("3 (aten.expand")),
    ("repeat", lambda x: x.repeat(1, 2, 1, 1), "a8 -> 2 x a8", why("literal 2 (aten.repeat")),
    ("tile", lambda x: x.tile(1, 2, 1, 1), "a8 -> 2 x a8", why("literal 2 (aten.repeat")),
    ("repeat anew", lambda x: x.repeat(3, 1, 1).mean(0), "a8 -> a8", on(ROWS)),
    ("repeat_interleave", lambda x: x.repeat_interleave(2, 1), "a8 -> a8 x 2", why("literal 2 (aten.repeat_interleave")),
    ("shuffle by views", lambda x: x.view(x.shape[0], 2, -1, 6, 6).transpose(1, 2).flatten(1, 2), "2 x a4 -> a4 x 2"),
    ("complex", lambda x: torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)))).flatten(-2), "a4 x 2 -> a4 x 2",
     on(TOKENS, why="aten.view_as_complex")),
    ("as_strided", lambda x: x.as_strided((2, 8), (8, 1)), "8 -> 8", on(ROWS, why="aten.as_strided reads memory by strides")),
])  # fmt: skip
def test_rearrangements(operator, expected, options):
    """Views match products of axes, permutations pass the same spaces on, repetitions are products with a new space."""
    check(operator, expected, **options)


# --- matrix products ---------------------------------------------------------------------------------------------------------


@cases([
    ("mm", lambda x: x.mm(x.t()).mm(x), "a8 -> a8", on(ROWS)),
    ("addmm", lambda x: torch.addmm(x, x @ x.T, x), "a8 -> a8", on(ROWS)),
    ("addmm of a row", lambda x: torch.addmm(x[0], x @ x.T, x), "a8 -> a8", on(ROWS)),
    ("bmm", lambda x: x.bmm(x.mT).bmm(x), "a8 -> a8", on(TOKENS)),
    ("baddbmm", lambda x: torch.baddbmm(x, x.bmm(x.mT), x), "a8 -> a8", on(TOKENS)),
    ("dot", lambda x: x * (x[0] @ x[0]), "a8 -> a8", on(ROWS)),
    ("1d @ 2d", lambda x: x.mean(1) @ x + x, "a8 -> a8", on(ROWS)),
    ("2d @ 1d", lambda x: x + (x @ x[0])[:, None], "a8 -> a8", on(ROWS)),
    ("3d @ 1d", lambda x: x + (x @ x[0, 0])[..., None], "a8 -> a8", on(TOKENS)),
    ("2d @ 3d", lambda x: (x[0] @ x.mT) @ x, "a8 -> a8", on(TOKENS)),
    ("3d @ 2d", lambda x: x @ (x[0].T @ x[0]), "a8 -> a8", on(TOKENS)),
    ("3d @ 3d", lambda x: x @ x.mT @ x, "a8 -> a8", on(TOKENS)),
    ("4d @ 3d", lambda x: (x.permute(0, 2, 3, 1) @ x[:1, :, 0] @ x[:1, :, 0].mT).permute(0, 3, 1, 2), "a8 -> a8"),
    ("4d @ 4d", lambda x: x @ x.mT @ x, "a8 -> a8"),
    ("head", lambda x: x + torch.outer(x[:, 0], x[0]), "8 -> 8", on(ROWS, why="aten.select")),
    ("einsum", lambda x: torch.einsum("bij,bkj->bik", x, x) @ x, "a8 -> a8", on(TOKENS)),
    ("einsum over channels", lambda x: torch.einsum("bihw,bjhw->bij", x, x) @ x.flatten(2), "a8 -> a8"),
    ("einsum with dots", lambda x: torch.einsum("...ij,...kj->...ik", x, x) @ x, "a8 -> a8"),
    ("einsum with broadcast dots", lambda x: torch.einsum("...ij,kj->...ik", x, x[0]) @ x, "a8 -> a8", on(TOKENS)),
    ("einsum without output", lambda x: torch.einsum("bij,bkj", x, x).sum(-1) @ x, "a8 -> a8", on(TOKENS)),
    ("einsum of three", lambda x: torch.einsum("bij,bkj,bkl->bil", x, x, x), "a8 -> a8", on(TOKENS)),
    ("einsum of four", lambda x: torch.einsum("bij,bkj,bkl,bml->bim", x, x, x, x) @ x, "a8 -> a8", on(TOKENS)),
    ("einsum, one summed before", lambda x: torch.einsum("bij,bk->bik", x, x[:, 0]), "a8 -> a8", on(TOKENS)),
    ("einsum, element-wise", lambda x: torch.einsum("bij,bij->bij", x, x), "a8 -> a8", on(TOKENS)),
    ("einsum of a diagonal", lambda x: torch.einsum("bii->bi", x @ x.mT) @ x[0], "a8 -> a8", on(TOKENS)),
])  # fmt: skip
def test_matrix_products(operator, expected, options):
    """Contracted, batch and free axes of a product go where its letters say, and its cost is what PyTorch counts."""
    check(operator, expected, **options)


def heads(x, count):
    """(batch, tokens, features) as (batch, heads, tokens, head size)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def merged(x):
    """The inverse of `heads`."""
    return x.transpose(1, 2).flatten(-2)


def packed(x):
    """Self-attention of two heads over queries, keys and values that one layer made."""
    q, k, v = x.view(2, 5, 3, 2, -1).permute(2, 0, 3, 1, 4)
    return merged(F.scaled_dot_product_attention(q, k, v))


def grouped_queries(x):
    """Attention of four query heads over two heads of keys and values."""
    wide = x.shape[-1] // 3 * 2
    q, k = heads(x[..., :wide], 4), heads(x[..., wide:], 2)
    return merged(F.scaled_dot_product_attention(q, k, k, enable_gqa=True))


@cases([
    ("plain", lambda x: F.scaled_dot_product_attention(x, x, x), "a8 -> a8"),
    ("mask", lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=x.new_zeros(5, 5)), "a8 -> a8"),
    ("causal", lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), "a8 -> a8"),
    ("heads", lambda x: merged(F.scaled_dot_product_attention(*[heads(x, 2)] * 3)), "2 x a4 -> 2 x a4"),
    ("packed", packed, "3 x 2 x a4 -> 2 x a4", {"channels": 24}),
    ("grouped queries", grouped_queries, "(2 x 2 x a4) + (2 x a4) -> 2 x 2 x a4", {"channels": 24}),
])  # fmt: skip
def test_attention(operator, expected, options):
    """Queries and keys share their features, values give the output; query heads are a product over key heads."""
    check(operator, expected, TOKENS, **options)


# --- reductions --------------------------------------------------------------------------------------------------------------

REDUCTIONS = ("mean", "sum", "amax", "amin", "var", "std", "norm", "logsumexp", "nansum")


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, keepdim):
    """A reduction over space passes the channels; one over the channels takes any number of them."""
    reduce = getattr(torch, name)
    check(lambda x: reduce(x, dim=(2, 3), keepdim=keepdim), "a8 -> a8")
    check(lambda x: x + (reduce(x, dim=1, keepdim=True) if keepdim else reduce(x, dim=1)[:, None]), "a8 -> a8")


@cases([
    ("prod", lambda x: x.prod(2).prod(2), "a8 -> a8"),
    ("max over space", lambda x: x.max(2).values.max(2)[0], "a8 -> a8"),
    ("max over channels", lambda x: x + x.max(1, keepdim=True).values, "a8 -> a8"),
    ("largest channel", lambda x: x + x.max(1, keepdim=True).indices, "8 -> 8", why("aten.add computes with the numbers")),
    ("median over space", lambda x: x.median(2).values.median(2).values, "a8 -> a8"),
    ("argmax over space", lambda x: x + x.flatten(2).argmax(-1)[..., None, None], "a8 -> a8"),
    ("argmax over channels", lambda x: x + x.argmax(1, keepdim=True), "8 -> 8", why("aten.add computes with the numbers")),
    ("argmax of all", lambda x: x + x.argmax(), "8 -> 8", why("aten.argmax")),
    ("kthvalue", lambda x: x + x.kthvalue(1, dim=1, keepdim=True)[0], "8 -> 8", why("aten.kthvalue returns positions of it")),
    ("aminmax", lambda x: x + torch.aminmax(x, dim=1, keepdim=True)[0], "a8 -> a8"),
    ("var_mean", lambda x: x + torch.var_mean(x, (1,), keepdim=True)[0], "a8 -> a8"),
    ("max of all", lambda x: x + x.max(), "a8 -> a8"),
    ("mean of all", lambda x: x + x.mean(), "a8 -> a8"),
    ("normalize", lambda x: F.normalize(x, dim=1), "a8 -> a8"),
    ("cosine similarity", lambda x: x * F.cosine_similarity(x, x.relu(), 1)[:, None], "a8 -> a8"),
    ("softmax over channels", lambda x: x.softmax(1), "a8 -> a8"),
    ("softmax over space", lambda x: x.softmax(-1), "a8 -> a8"),
    ("log_softmax", lambda x: x.log_softmax(1), "a8 -> a8"),
    ("layer_norm of a literal", lambda x: F.layer_norm(x, (8,)), "8 -> 8", on(TOKENS, why="literal 8 (aten.layer_norm")),
    ("layer_norm of a shape", lambda x: F.layer_norm(x, x.shape[-1:]), "a8 -> a8", on(TOKENS)),
    ("rms_norm of a shape", lambda x: F.rms_norm(x, (x.shape[-1],)), "a8 -> a8", on(TOKENS)),
    ("group_norm", lambda x: F.group_norm(x, 2), "2 x a4 -> 2 x a4", why("literal 2 (aten.group_norm")),
    ("instance_norm", lambda x: F.instance_norm(x), "a8 -> a8"),
    ("local_response_norm", lambda x: F.local_response_norm(x, 3), "8 -> 8", why("aten.avg_pool3d")),
])  # fmt: skip
def test_more_reductions(operator, expected, options):
    """Positions in a reduced axis pin it; values do not."""
    check(operator, expected, **options)


# --- element-wise, in place, and by index ------------------------------------------------------------------------------------


@cases([
    ("relu_", lambda x: x.relu_(), "a8 -> a8"),
    ("add_, mul_, clamp_", lambda x: x.add_(1).mul_(2).clamp_(0), "a8 -> a8"),
    ("add_ of a tensor", lambda x: x.sigmoid().add_(x), "a8 -> a8"),
    ("where", lambda x: torch.where(x > 0, x, 0.1 * x), "a8 -> a8"),
    ("masked_fill", lambda x: x.masked_fill(x > 0, 0.0), "a8 -> a8"),
    ("clamp", lambda x: x.clamp(-1, 1), "a8 -> a8"),
    ("clamp by a tensor", lambda x: torch.clamp(x, min=0.5 * x), "a8 -> a8"),
    ("addcmul", lambda x: torch.addcmul(x, x, x), "a8 -> a8"),
    ("lerp", lambda x: torch.lerp(x, x.relu(), 0.5), "a8 -> a8"),
    ("halves multiplied", lambda x: torch.mul(*halves(x)), "a4 + a4 -> a4"),
    ("maximum of halves", lambda x: torch.maximum(*halves(x)), "a4 + a4 -> a4"),
    ("max of halves", lambda x: torch.max(*halves(x)), "a4 + a4 -> a4"),
    ("to the type of", lambda x: halves(x)[0].type_as(halves(x)[1]), "a4 + b4 -> a4"),
    ("dropout", lambda x: F.dropout2d(F.dropout(x, training=False), training=False), "a8 -> a8"),
    ("tril of space", lambda x: x.tril(), "a8 -> a8"),
    ("tril of features", lambda x: x.tril(), "8 -> 8", on(TOKENS, why="aten.tril depends on its positions")),
    ("cumsum over space", lambda x: x.cumsum(2), "a8 -> a8"),
    ("cumsum over channels", lambda x: x.cumsum(1), "8 -> 8", why("aten.cumsum runs along it")),
    ("counted positions", lambda x: x * torch.ones_like(x).cumsum(1), "8 -> 8", why("aten.cumsum runs along it")),
    ("sort space", lambda x: x.sort(2).values, "a8 -> a8"),
    ("sort channels", lambda x: x.sort(1).values, "8 -> 8", why("aten.sort runs along it")),
    ("topk of space", lambda x: x.flatten(2).topk(2)[0].mean(-1), "a8 -> a8"),
    ("topk of channels", lambda x: x.topk(2, 1)[0], "a8 -> 2", why("aten.topk orders it by the data")),
])  # fmt: skip
def test_elementwise(operator, expected, options):
    """Axes of equal size are equal, a size-1 axis says nothing, and what depends on order pins it."""
    check(operator, expected, **options)


@cases([
    ("gather in space", lambda x: x.gather(2, torch.zeros_like(x).long()), "a8 -> a8"),
    ("gather channels", lambda x: x.gather(1, torch.zeros_like(x).long()), "8 -> 8", why("aten.gather takes positions of it")),
    ("take_along_dim", lambda x: torch.take_along_dim(x, x.argsort(2), 2), "a8 -> a8"),
    ("index_select in space", lambda x: x.index_select(2, torch.tensor([0, 2])), "a8 -> a8"),
    ("index_select channels", lambda x: x.index_select(1, torch.tensor([0, 2])), "8 -> 2", why("aten.index_select")),
    ("index channels", lambda x: x[:, [0, 2, 1]], "8 -> 3", why("aten.index takes positions of it")),
    ("index space", lambda x: x[:, :, torch.tensor([0, 2]), torch.tensor([0, 1])].mean(-1), "a8 -> a8"),
    ("index around channels", lambda x: x[torch.tensor([0, 1]), :, torch.tensor([0, 1])].mean(-1), "a8 -> a8"),
    ("index by a table", lambda x: x[:, :, torch.tensor([[0, 2], [1, 1]])].mean((2, 3)), "a8 -> a8"),
    ("scatter in space", lambda x: torch.zeros_like(x).scatter(2, torch.zeros_like(x).long(), x), "a8 -> a8"),
    ("scatter_add in space", lambda x: torch.zeros_like(x).scatter_add_(2, torch.zeros_like(x).long(), x), "a8 -> a8"),
    ("scatter channels", lambda x: torch.zeros_like(x).scatter(1, x.long() * 0, x), "8 -> 8", why("aten.scatter")),
    ("index_add", lambda x: torch.zeros_like(x).index_add_(0, torch.tensor([0, 1]), x), "a8 -> a8"),
    ("index_add of channels", lambda x: torch.zeros_like(x).index_add(1, torch.arange(8), x), "8 -> 8", why("aten.index_add")),
    ("index_copy", lambda x: torch.zeros_like(x).index_copy(2, torch.arange(6), x), "a8 -> a8"),
    ("index_fill", lambda x: x.index_fill(2, torch.tensor([0]), 0.0), "a8 -> a8"),
])  # fmt: skip
def test_indexing(operator, expected, options):
    """Positions that the data gives pin the axis they index; the other axes pass."""
    check(operator, expected, **options)


def add_to_two(x):
    """Write through a view of the first two channels."""
    x = x.clone()
    x[:, :2] += 1
    return x


def copy_half(x):
    """Write half of the channels into the other half's place."""
    y = torch.zeros_like(x)
    y[:, : x.shape[1] // 2] = halves(x)[1]
    return y


def fill_double(x):
    """Write into a buffer of twice as many channels."""
    y = x.new_zeros(x.shape[0], 2 * x.shape[1], 6, 6)
    y[:, : x.shape[1]] = x
    return y


def write_channels(x):
    """Write to channels that a tensor names."""
    y = x.clone()
    y[:, torch.tensor([0, 2])] = 0
    return y


def write_rows(x):
    """Write to rows that a tensor names."""
    y = x.clone()
    y[:, :, torch.tensor([0, 1])] = x[:, :, 2:4]
    return y


def write_masked(x):
    """Write where a mask says."""
    y = x.clone()
    y[x > 0] = 0
    return y


@cases([
    ("through a view", add_to_two, "2 + a6 -> 2 + a6", why("literal 2 (aten.slice")),
    ("half", copy_half, "a4 + a4 -> a4 + a4"),
    ("into a larger one", fill_double, "a8 -> a8 + b8"),
    ("channels", write_channels, "8 -> 8", why("aten.index_put writes to positions of it")),
    ("rows", write_rows, "a8 -> a8"),
    ("masked", write_masked, "a8 -> a8"),
])  # fmt: skip
def test_writes(operator, expected, options):
    """A write in place, through a view or by index states the same equations as the pure operator."""
    check(operator, expected, **options)


# --- layers of torch that are made of operators, parametrisations, parameters of one's own ------------------------------------


class Attention(nn.Module):
    """A projection, an `nn.MultiheadAttention`, a classifier."""

    def __init__(self, weights=False, **options):
        super().__init__()
        self.weights = weights
        self.first = nn.Linear(4, 8)
        self.attention = nn.MultiheadAttention(8, 2, **{"batch_first": True, **options})
        wide = "kdim" in options
        self.key = nn.Linear(4, options["kdim"]) if wide else None
        self.value = nn.Linear(4, options["vdim"]) if wide else None
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        y = self.first(x)
        k, v = (self.key(x), self.value(x)) if self.key else (y, y)
        return self.last(self.attention(y, k, v, need_weights=self.weights)[0])


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({}, {"first.weight:0[0]", "first.weight:0[1]", "attention.out_proj.weight:0"}),
        ({"batch_first": False}, {"first.weight:0[0]", "first.weight:0[1]", "attention.out_proj.weight:0"}),
        ({"weights": True}, {"first.weight:0[0]", "first.weight:0[1]", "attention.out_proj.weight:0"}),
        ({"add_bias_kv": True}, {"first.weight:0[0]", "first.weight:0[1]", "attention.out_proj.weight:0"}),
        (
            {"kdim": 6, "vdim": 10},
            {
                *("first.weight:0[0]", "first.weight:0[1]", "attention.out_proj.weight:0"),
                *("attention.k_proj_weight:1", "attention.v_proj_weight:1"),
            },
        ),
    ],
)
def test_multihead_attention(options, groups):
    """Heads and head sizes are groups of their own, and so are the outputs, keys and values where they are free."""
    graph = lawful(Attention(**options), torch.randn(TOKENS), masking=not options.get("weights"))
    assert set(graph.groups_by_name) == groups
    assert layout(graph, ("attention.out_proj.weight", 1)) == "a2 x b4"
    assert graph.groups_by_name["first.weight:0[0]"].role == "head"


@pytest.mark.parametrize("options", [{}, {"batch_first": False}, {"norm_first": True}])
def test_transformer_encoder_layers(options):
    """The residual stream is heads by head size everywhere, and the inner width is a group of its own."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, **{"batch_first": True, **options})
    graph = lawful(Around(layer, TOKENS), torch.randn(TOKENS))
    stream = ("operator.norm2.weight", 0), ("operator.self_attn.out_proj.weight", 1)
    assert layout(graph, *ENDS, *stream) == " -> ".join(["a2 x b4"] * 4)
    inner = (("operator.linear1.weight", 0), ("operator.linear1.bias", 0), ("operator.linear2.weight", 1))
    assert graph.group("operator.linear1.weight", 0).members == inner


def test_transformer_encoders():
    """Copies of a layer that share their tuples of sizes follow one by one."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    graph = lawful(Around(encoder, TOKENS), torch.randn(TOKENS))
    assert layout(graph, *ENDS, ("operator.layers.1.norm1.weight", 0)) == " -> ".join(["a2 x b4"] * 3)


def test_weight_normalisation():
    """A weight that is made of a direction and a length is cut in both. A zero direction has no length, hence no masking."""
    model = nn.Sequential(weight_norm(nn.Conv2d(3, 8, 3)), weight_norm(nn.Conv2d(8, 6, 1)), nn.Conv2d(6, 2, 1))
    graph = lawful(model, torch.randn(IMAGE), masking=False)
    length, direction = (f"{{}}.parametrizations.weight.original{k}" for k in (0, 1))
    assert graph.group(direction.format(1), 1).members == (
        ("0.bias", 0),
        (length.format(0), 0),
        (direction.format(0), 0),
        (direction.format(1), 1),
    )
    assert layout(graph, (length.format(1), 0), (direction.format(1), 0), ("2.weight", 1)) == "a6 -> a6 -> a6"


def test_spectral_normalisation():
    """The singular vectors are cut with the axes of the weight that they belong to."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), spectral_norm(nn.Conv2d(8, 6, 3)), nn.Conv2d(6, 2, 1))
    graph = lawful(model, torch.randn(IMAGE))
    u, v, weight = (f"1.parametrizations.weight.{name}" for name in ("0._u", "0._v", "original"))
    assert layout(graph, (weight, 0), (u, 0), ("2.weight", 1)) == "a6 -> a6 -> a6"
    assert layout(graph, ("0.weight", 0), (weight, 1), (v, 0)) == "a8 -> a8 -> a8 x 3 x 3"


class Reused(nn.Module):
    """One layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.twice(self.twice(self.first(x)).relu()))


def test_reused_modules():
    """A layer that runs twice has the same space on both sides."""
    graph = lawful(Reused(), torch.randn(ROWS))
    (group,) = graph.groups
    assert {("first.weight", 0), ("twice.weight", 0), ("twice.weight", 1), ("last.weight", 1)} <= set(group.members)


class Unwrapped(nn.Module):
    """Parameters that no layer holds: a scale, a matrix, a shift, a table of positions."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(6, 2)
        self.scale, self.matrix, self.shift = (nn.Parameter(torch.randn(shape)) for shape in ((8,), (8, 6), (1, 6)))
        self.positions = nn.Parameter(torch.randn(1, 5, 6))

    def forward(self, x):
        return self.last(self.first(x) * self.scale @ self.matrix + self.shift + self.positions)


def test_unwrapped_parameters():
    """Parameters of one's own in add, mul and matmul are tensors with axes like any other."""
    graph = lawful(Unwrapped(), torch.randn(TOKENS))
    assert layout(graph, ("first.weight", 0), ("scale", 0), ("matrix", 0)) == "a8 -> a8 -> a8"
    assert layout(graph, ("matrix", 1), ("shift", 1), ("positions", 2), ("last.weight", 1)) == "a6 -> a6 -> a6 -> a6"
    assert layout(graph, ("positions", 1)) == "5"


class Ordered(nn.Module):
    """Channels are picked in an order that a buffer holds."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(4, 2)
        self.register_buffer("order", torch.tensor([3, 1, 5, 0]))

    def forward(self, x):
        return self.last(self.first(x)[..., self.order])


def test_an_order_in_a_buffer():
    """A buffer of positions pins the axis it points into, and can itself lose entries."""
    graph = lawful(Ordered(), torch.randn(TOKENS))
    assert layout(graph, ("first.weight", 0), ("order", 0), ("last.weight", 1)) == "8 -> a4 -> a4"


# --- operators without a rule ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halved():
    """An operator of one's own that halves every element; the table has no rule for it."""

    @torch.library.custom_op("depgraph_tests::halved", mutates_args=())
    def operator(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    operator.register_fake(torch.empty_like)
    return lambda x: operator(x)


def test_an_unknown_operator_pins_what_it_touches(halved):
    """Nothing is assumed about an operator without a rule: its axes are pinned, and the reason names it."""
    model = Around(halved)
    graph = testing.assert_pure(model, torch.randn(IMAGE))
    testing.assert_lawful(model, torch.randn(IMAGE))
    assert graph.groups == ()
    pinned = {(pinned.tensor, pinned.dim) for pinned in graph.pinned if "no rule for depgraph_tests.halved" in pinned.reason}
    assert pinned == {("first.weight", 0), ("first.bias", 0), ("last.weight", 1)}


def test_a_rule_of_ones_own_makes_it_prunable(halved):
    """With a rule that passes every axis on, the channels around the operator are a group."""
    rule = Rule(lambda call: [Equal(*axes) for axes in zip(call["x"].axes, call.out.axes, strict=True)], "CUSTOMIZED")
    model = Around(halved).eval()
    x = torch.randn(IMAGE)
    graph = dg.trace(model, x, rules=RULES | {"depgraph_tests.halved": rule})
    assert layout(graph, *ENDS) == "a8 -> a8"
    assert graph.node("halved").type is dg.OpType.CUSTOMIZED
    small = dg.execute(dg.cut(graph, "first.weight", [2, 5], dim=0), model)
    assert small(x).shape == model(x).shape


def test_a_rule_that_does_not_fit_pins():
    """A rule that equates unequal sizes, or fails, is not believed: the axes of the call are pinned with the reason."""
    wrong = Rule(lambda call: [Equal(call["self"][1], call.out[2])])
    failing = Rule(lambda call: [Equal(call["nothing"][1], call.out[2])])
    model, x = Around(torch.relu), torch.randn(IMAGE)
    for rule, told in ((wrong, "equates sizes 8 and 6"), (failing, "does not fit this call (TypeError")):
        graph = dg.trace(model, x, rules=RULES | {"aten.relu": rule})
        assert graph.groups == ()
        assert f"the rule for aten.relu {told}" in reasons(graph, *ENDS)


def test_a_needed_equation_that_is_missing_is_refuted():
    """Negative control: without the equation of the channels, pruning breaks the model, and the laws see it."""
    deaf = Rule(lambda call: ())
    model, x = Around(torch.relu), torch.randn(IMAGE)
    graph = dg.trace(model, x, rules=RULES | {"aten.relu": deaf})
    assert layout(graph, *ENDS) == "a8 -> b8"
    plan = dg.cut(graph, "first.weight", [0], dim=0)
    with pytest.raises(RuntimeError, match="expected input"):
        testing.assert_square(graph, plan, model, x)
