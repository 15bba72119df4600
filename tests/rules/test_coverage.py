"""How much of ATen the operator table covers: every operator that real models reach, and a number for all the others."""

import pytest
import torch

from depgraph.graph.records import OpType
from depgraph.rules import RULES
from depgraph.tracing.recorder import _SKIPPED

pytestmark = pytest.mark.models

REACHED = """
    view hardsigmoid t upsample_bilinear2d addmm roll convolution _adaptive_avg_pool2d add lift_fresh mean repeat mul
    _safe_softmax transpose clamp_min empty sum native_batch_norm squeeze native_layer_norm masked_fill cat
    native_group_norm expand ge gelu exp relu_ clamp _unsafe_view gather permute hardswish_ clone gt unsqueeze fill_
    _scaled_dot_product_flash_attention_for_cpu new_zeros mm lt slice log max_pool2d_with_indices minimum add_
    zeros_like bmm abs index full_like detach upsample_nearest2d sigmoid bitwise_not _softmax hardtanh _to_copy baddbmm
    relu im2col embedding _weight_norm_interface arange copy_ alias zero_ select sqrt sub full unbind hardswish where
    amax div rsub ne upsample_bicubic2d scalar_tensor max bitwise_and _fft_c2c pow view_as_real new_ones hardtanh_ eq
    unfold le leaky_relu_ cumsum reflection_pad2d constant_pad_nd _upsample_bilinear2d_aa neg rand as_strided_ sort
    avg_pool2d softplus split col2im cos div_ sin addcmul silu_ argmax silu mkldnn_rnn_layer split_with_sizes
    logical_and rsqrt index_select ones flip stack maximum tanh ones_like zeros triu linalg_vector_norm _grouped_mm
    nonzero view_as_complex as_strided
"""
"""The operators that 256 models of timm, torchvision and transformers reach in one forward, and some known to occur."""

LEFT_OUT = {
    "operators by which torch tests itself": ("_test_", "_foobar"),
    "asked for a number, of which nothing is an axis": ("_local_scalar_dense",),
    "gradients, which no forward computes": ("backward", "_jvp"),
}
"""Families of operators without a rule, by parts of their names, with the reason."""


def plain(name):
    """The name under which the table holds an operator: that of its pure form."""
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def decomposes(schema):
    """Whether PyTorch gives an overload as a composition of others; None where it has no kernel to look at."""
    name = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
    except RuntimeError:
        return None


def takes_tensors(schemas):
    """Whether any overload takes or returns a tensor."""
    return any("Tensor" in str(item.type) for schema in schemas for item in (*schema.arguments, *schema.returns))


def coverage():
    """Names of ATen's operators on tensors by what the tracer does with them: a rule, a rule that pins, decomposed, nothing."""
    schemas = {}
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        if namespace == "aten" and decomposes(schema) is not None:
            schemas.setdefault(name, []).append(schema)
    found = {"ruled": set(), "pinned": set(), "decomposed": set(), "none": set()}
    for name, overloads in schemas.items():
        if not takes_tensors(overloads):
            continue
        rule = RULES.get(f"aten.{plain(name)}")
        if rule is not None:
            found["pinned" if rule.type == "UNKNOWN" else "ruled"].add(name)
        elif all(decomposes(overload) for overload in overloads):
            found["decomposed"].add(name)
        else:
            found["none"].add(name)
    return found


@pytest.mark.parametrize("name", REACHED.split())
def test_what_models_reach(name):
    """It has a rule that does more than pin, is skipped, or is decomposed."""
    operator = f"aten.{plain(name)}"
    if operator in RULES:
        assert RULES[operator].type != "UNKNOWN" or name in {"as_strided", "as_strided_"}
    else:
        assert operator in _SKIPPED or all(map(decomposes, torch._C._jit_get_schemas_for_operator(f"aten::{name}")))


def test_every_operator_of_aten():
    """Nothing is left out but the families that are named here."""
    left = {
        name
        for name in coverage()["none"]
        if not any(part in name for parts in LEFT_OUT.values() for part in parts)
    }  # fmt: skip
    assert left == set()


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="another torch has another number of operators")
def test_the_number_of_operators():
    """Coverage is a number that is known: it grows, and no rule comes to pin what another one did not."""
    found = {kind: len(names) for kind, names in coverage().items()}
    assert found["ruled"] >= 964 and found["pinned"] <= 180
    assert found["ruled"] + found["pinned"] + found["decomposed"] == 1437


def test_a_lost_rule_shows(monkeypatch):
    """Negative control: without its rule an operator that does not decompose is found."""
    monkeypatch.setattr("tests.rules.test_coverage.RULES", {name: rule for name, rule in RULES.items() if name != "aten.gelu"})
    assert {"gelu", "gelu_"} <= coverage()["none"]


def test_types_of_rules():
    """Every rule gives its node a type that there is."""
    assert {rule.type for rule in RULES.values()} <= set(OpType.__members__)


def test_no_family_takes_an_operator_of_another():
    """One operator, one rule: the families do not overlap."""
    from depgraph.rules import _FAMILIES

    assert sum(len(family.RULES) for family in _FAMILIES) == len(RULES)
