"""Kept indices are those of Torch-Pruning at equal weights, criterion and ratio; docs/criteria.md says where not, and why."""

import functools
import warnings
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.algebra.spaces import atoms
from tests import zoo
from tests.zoo.vision import classifier

pytestmark = pytest.mark.models

if find_spec("torchvision"):
    zoo.torchvision()  # before Torch-Pruning, which imports it
tp = pytest.importorskip("torch_pruning", reason="Torch-Pruning is not installed; it is what we compare with")

CONV, LINEAR, BN, LN = dg.OpType.CONV, dg.OpType.LINEAR, dg.OpType.BN, dg.OpType.LN
SEEN = {CONV, LINEAR, BN, LN}
RATIO = 0.5


def entropy(model, x):
    """A loss for Taylor."""
    return nn.functional.cross_entropy(model(x), torch.arange(len(x)))


PAIRS = {
    "l1": (lambda: tp.importance.GroupMagnitudeImportance(p=1), lambda x: dg.Magnitude(p=1, types=SEEN)),
    "l2": (lambda: tp.importance.GroupMagnitudeImportance(p=2), lambda x: dg.Magnitude(p=2, types=SEEN)),
    "l2 bias": (lambda: tp.importance.GroupMagnitudeImportance(p=2, bias=True), lambda x: dg.Magnitude(types=SEEN, bias=True)),
    "bn scale": (lambda: tp.importance.BNScaleImportance(), lambda x: dg.criteria.BNScale()),
    "lamp": (lambda: tp.importance.LAMPImportance(), lambda x: dg.criteria.LAMP(types=SEEN)),
    "fpgm": (lambda: tp.importance.FPGMImportance(), lambda x: dg.criteria.FPGM(p=2, types={CONV, LINEAR})),
    "taylor": (
        lambda: tp.importance.GroupTaylorImportance(),
        lambda x: dg.criteria.Taylor([x], entropy, types={CONV, LINEAR, LN}),
    ),
    "vector taylor": (
        lambda: tp.importance.GroupTaylorImportance(multivariable=True),
        lambda x: dg.criteria.Taylor([x], entropy, multivariable=True, types={CONV, LINEAR, LN}),
    ),
}  # fmt: skip
HEADS = {"resnet18": "fc", "vgg16_bn": "classifier.6", "mobilenet_v2": "classifier.1", "densenet121": "classifier"}
FLATTENED = {"fpgm", "vector taylor"}
"""Criteria for which we see the columns behind a flatten as one vector."""


class Peer:
    """Torch-Pruning's pruner for one model, of which only the choice of indices is used: nothing is removed."""

    def __init__(self, model, example, ignored):
        self.names = {module: name for name, module in model.named_modules()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.pruner = tp.pruner.BasePruner(
                model, example, importance=None, pruning_ratio=RATIO, in_channel_groups={}, out_channel_groups={}, num_heads={},
                ignored_layers=[model.get_submodule(name) for name in ignored],
            )  # fmt: skip
        every = self.pruner.DG.get_all_groups
        options = {"ignored_layers": self.pruner.ignored_layers, "root_module_types": self.pruner.root_module_types}
        self.groups = list(every(**options))
        self.pruner.DG.get_all_groups = lambda **options: iter(self.groups)

    def removed(self, importance):
        """(parameter, dim) to the indices that it would remove, for every weight that it would touch."""
        self.pruner.importance = importance
        self.pruner.reset()
        found = {}
        for group in self.pruner.step(interactive=True):
            for dependency, indices in group:
                module = dependency.target.module
                if getattr(module, "weight", None) is not None:
                    found.setdefault(self._axis(module, dependency.handler), set()).update(indices)
        return found

    def scores(self, importance):
        """The parameter axis of the first layer of each group to the importances of the group."""
        return {self._axis(group[0].dep.target.module, group[0].dep.handler): importance(group) for group in self.groups}

    def _axis(self, module, handler):
        inner = not self.pruner.DG.is_out_channel_pruning_fn(handler) or isinstance(module, nn.Embedding)
        depthwise = getattr(module, "groups", 1) > 1
        return f"{self.names[module]}.weight", int(inner and module.weight.ndim > 1 and not depthwise)


def narrow_vgg():
    """VGG-16 whose linear layers have some hundred features: of 120 million weights scores take seconds, and show no more."""
    models = zoo.torchvision().models
    torch.manual_seed(0)
    with torch.device("meta"):
        model = models.vgg16_bn()
    model.features = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=True)
    model.classifier[0], model.classifier[3], model.classifier[6] = (
        nn.Linear(25088, 256),
        nn.Linear(256, 192),
        nn.Linear(192, 1000),
    )
    model.classifier[1] = model.classifier[4] = nn.LeakyReLU()  # units of which no sample is active have no gradient, and tie
    return model.eval()


@functools.cache
def subject(name):
    """A classifier with scales that differ, its input, its graph, and Torch-Pruning's view of it."""
    model = narrow_vgg() if name == "vgg16_bn" else classifier(name)
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    x = torch.randn(2, 3, 32 if name == "vgg16_bn" else 64, 32 if name == "vgg16_bn" else 64)
    return model, x, dg.trace(model, x), Peer(model, x, [HEADS[name]])


def assert_equal(graph, plan, found, scores):
    """Every axis that the peer would cut, with the indices that our plan removes there; of equal scores either may go."""
    assert found
    for (name, dim), indices in found.items():
        tensor = graph.tensor(name)
        kept = plan.kept.get(tensor.name, {}).get(dim, range(tensor.shape[dim]))
        removed = set(range(tensor.shape[dim])) - set(kept)
        assert len(removed) == len(indices), (name, dim)
        if removed != indices:
            values = scores[graph.group(name, dim).name]
            assert len({values[index] for index in removed ^ indices}) == 1, (name, dim)


@pytest.mark.parametrize("criterion", PAIRS)
@pytest.mark.parametrize("name", HEADS)
def test_classifiers(name, criterion):
    """Each of its groups loses the same indices in every layer, and no other group does."""
    if name == "vgg16_bn" and criterion in FLATTENED:
        pytest.skip("we see the 49 columns of a channel behind its flatten as one vector; see test_flattened_columns")
    model, x, graph, peer = subject(name)
    theirs, ours = (make() if number == 0 else make(x) for number, make in enumerate(PAIRS[criterion]))
    if "taylor" in criterion:
        entropy(model, x).backward()
    found = peer.removed(theirs)
    model.zero_grad()
    scores = dg.score(graph, model, ours)
    everything = {**dg.score(graph, model, dg.criteria.Random(0)), **scores}
    plan = dg.plan(graph, everything, ratio=dict.fromkeys(scores, RATIO))
    assert_equal(graph, plan, found, scores)
    cut = {graph.group_of[atom].name for axis, dim in found for atom in atoms(graph.axis(axis, dim)) if atom in graph.group_of}
    assert cut == {name for name in scores if RATIO * graph.groups_by_name[name].size >= 1}


def test_the_comparison_can_fail():
    """Without its choice of layers, or with another exponent, other indices go."""
    model, _, graph, peer = subject("mobilenet_v2")
    found = peer.removed(tp.importance.GroupMagnitudeImportance(p=2))
    for other in (dg.Magnitude(p=2), dg.Magnitude(p=1, types=SEEN), dg.Magnitude(types=SEEN, reduction="first")):
        scores = dg.score(graph, model, other)
        with pytest.raises(AssertionError):
            assert_equal(graph, dg.plan(graph, scores, ratio=RATIO), found, scores)


def test_flattened_columns():
    """Behind a flatten the peer compares columns one by one; with one column for each channel it does as we do."""
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
        nn.Linear(10, 4),
    )
    x = torch.randn(2, 3, 6, 6)
    graph, peer = dg.trace(model.eval(), x), Peer(model, x, ["6"])
    entropy(model, x).backward()
    for criterion in FLATTENED:
        theirs, ours = PAIRS[criterion]
        scores = dg.score(graph, model, ours(x))
        assert_equal(graph, dg.plan(graph, scores, ratio=RATIO), peer.removed(theirs()), scores)


@pytest.mark.parametrize("reduction", ["sum", "mean", "max", "prod", "first", "gate"])
@pytest.mark.parametrize("normaliser", ["none", "sum", "mean", "max", "standardisation", "gaussian", "lamp"])
def test_reductions_and_normalisers_give_its_numbers(reduction, normaliser):
    """The importances themselves, in the groups whose members both of us read in one order: inside of the blocks."""
    model, _, graph, peer = subject("resnet18")
    called = {"none": None, "standardisation": "standarization"}.get(normaliser, normaliser)
    found = peer.scores(tp.importance.GroupMagnitudeImportance(p=2, group_reduction=reduction, normalizer=called))
    options = {"types": SEEN, "reduction": reduction, "normaliser": normaliser}
    scores, compared = dg.score(graph, model, dg.Magnitude(p=2, **options)), 0
    for (name, dim), values in found.items():
        if ".conv1." in name:
            mine = scores[graph.group(name, dim).name]
            assert mine == pytest.approx(values.tolist(), rel=1e-4, abs=1e-4 * float(values.abs().max())), name
            compared += 1
    assert compared == 8


@pytest.mark.parametrize("criterion", ["l1", "l2", "lamp", "fpgm"])
@pytest.mark.needs("transformers")
def test_gpt2(criterion):
    """Embedding and inner widths; its linear layers are given as such, for it does not know those of GPT-2, nor the split."""
    transformers = zoo.transformers()
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 100, "n_positions": 32}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False, **sizes)).eval()
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, transformers.pytorch_utils.Conv1D):
                setattr(module, name, nn.Linear(*layer.weight.shape))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    tokens = {"input_ids": torch.randint(0, 100, (2, 12))}
    graph = dg.trace(model, kwargs=tokens)
    peer = Peer(model, tokens, ["lm_head", *(f"transformer.h.{layer}.attn.c_attn" for layer in range(2))])
    theirs, ours = PAIRS[criterion]
    found = peer.removed(theirs())
    scores = dg.score(graph, model, ours(None))
    plan = dg.plan(graph, scores, ratio=RATIO)
    assert_equal(graph, plan, found, scores)
    assert len(found) == 20 and ("transformer.wte.weight", 1) in found and ("transformer.h.1.mlp.c_fc.weight", 0) in found
