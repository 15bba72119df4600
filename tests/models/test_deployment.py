"""What users do after pruning: blocks are fused and classifiers exchanged, by methods that read what forward does not."""

import pytest
import torch

import depgraph as dg
from tests.zoo import torchvision

pytestmark = pytest.mark.models


def pruned(name, size):
    """A model of timm, its plan, and the same plan with all the edits that it lists."""
    torchvision()
    import timm

    torch.manual_seed(0)
    options = {"img_size": size} if name.startswith(("vit", "xcit", "swin")) else {}
    model = timm.create_model(name, num_classes=7, **options).eval()
    for module in model.modules():  # outputs of a size that can be compared
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    graph = dg.trace(model, torch.randn(1, 3, size, size))
    plan = edited = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    for attribute in plan.unread:
        (new,) = attribute.sizes
        edited = edited.edit(attribute.path, new)
    assert edited.problems == () and edited.apply(graph) == plan.apply(graph)
    return model, plan, edited


@pytest.mark.parametrize(
    ("name", "fails"),
    [
        ("fastvit_t8", RuntimeError), ("mobileone_s0", ZeroDivisionError), ("repvgg_a0", None), ("repvit_m0_9", None),
        ("repghostnet_050", None),
    ],
)  # fmt: skip
def test_reparametrisation(name, fails):
    """The fused model computes what the pruned one does; two families need the edits for it."""
    model, plan, edited = pruned(name, 64)
    from timm.utils.model import reparameterize_model

    if fails is not None:
        with pytest.raises(fails):
            reparameterize_model(dg.execute(plan, model))
    small, x = dg.execute(edited, model), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        fused, small = reparameterize_model(small).double(), small.double()  # some make their new layers in single precision
        assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in small.parameters())
        torch.testing.assert_close(fused(x), small(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64), ("vit_tiny_patch16_224", 64), ("test_convnext", 64), ("test_efficientnet", 64), ("densenet121", 64),
        ("regnetx_002", 64), ("mobilenetv3_small_050", 64), ("xcit_nano_12_p16_224", 64),
    ],
)  # fmt: skip
def test_a_classifier_is_exchanged(name, size):
    """`reset_classifier` makes a layer for the widths that are left; without the edits it does not."""
    model, plan, edited = pruned(name, size)
    x = torch.randn(2, 3, size, size)
    without, small = dg.execute(plan, model), dg.execute(edited, model)
    with pytest.raises((RuntimeError, AssertionError)):
        without.reset_classifier(3)
        without(x)
    small.reset_classifier(3)
    assert small(x).shape == (2, 3)
    assert small.num_features < model.num_features
