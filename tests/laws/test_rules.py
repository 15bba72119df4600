"""Every rule of the operator table is proven against the real operator: it couples neither too little nor too much."""

import math

import pytest
import torch
from hypothesis import given, settings
from torch.utils import _pytree as pytree

from depgraph.rules import RULES, Traits
from depgraph.testing.invocations import Invocation, solved
from depgraph.testing.probing import Mixed, probe
from depgraph.tracing.custom_rules import rule_table
from tests.laws import samples, samples_choosing, samples_kernels, samples_layers, samples_math, samples_moving
from tests.laws.drawing import Draw, call, draws, exists

pytestmark = pytest.mark.models

SAMPLES = {
    **samples.POINTWISE_ROWS, **samples.HAND_ROWS, **samples.REDUCTION_ROWS, **samples_moving.SHAPE_ROWS,
    **samples_moving.JOINING_ROWS, **samples_moving.INDEXING_ROWS, **samples_layers.LAYER_ROWS, **samples_layers.CELL_ROWS,
    **samples_layers.WINDOW_ROWS, **samples_kernels.COPY_ROWS, **samples_kernels.LIST_ROWS, **samples_kernels.KERNEL_ROWS,
    **samples_math.LOSS_ROWS, **samples_math.LINEAR_ROWS, **samples_math.SELECTION_ROWS,
}  # fmt: skip
for _name, _forms in samples_choosing.CHOOSING_ROWS.items():
    SAMPLES[_name] = [*SAMPLES.get(_name, ()), *_forms]
ABSENT = {name for name in SAMPLES if not name.startswith("higher_order.") and not exists(name)}
"""Operators that this torch has not; the one that the suite is written for has all."""

ROWS = {name: forms for name, forms in SAMPLES.items() if name not in ABSENT}

TABLE = rule_table(RULES)

_AVERAGE = "it divides by the number of positions"
_NORMAL = "it normalises across them"
_ORDER = "its result is one of the positions"
_NUMBERED = {"multi_margin_loss", "multilabel_margin_loss", "multilabel_margin_loss_forward"}
_BATCH_NORMS = (
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_batch_norm_impl_index"),
    *("_batch_norm_with_update", "_batch_norm_with_update_functional"),
)
_CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
_ATTENTIONS = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math")
TREATMENTS = {
    **dict.fromkeys(("mean", "var", "std", "var_mean", "std_mean"), (None, _AVERAGE)),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax"), (None, _NORMAL)),
    **dict.fromkeys(("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"), (None, _NORMAL)),
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface", "renorm", "_masked_softmax"), (None, _NORMAL)),
    "scaled_dot_product_attention": (None, "a softmax runs across the keys"),
    "median": (None, _ORDER),
    "aminmax": (None, "what is neutral to the least is not to the greatest"),
    **dict.fromkeys(("amax", "max", "argmax", "topk"), (-math.inf, _ORDER)),
    **dict.fromkeys(("amin", "min", "argmin"), (math.inf, _ORDER)),
    **dict.fromkeys(("nanmean", "nanmedian"), (math.nan, "it passes over what is not a number")),
    **dict.fromkeys(("prod", "all"), (1.0, "it multiplies them")),
    "logsumexp": (-math.inf, "it adds their exponentials"),
    **dict.fromkeys(("sum", "nansum", "norm", "linalg_vector_norm", "count_nonzero", "any"), (0.0, "it adds them")),
    **dict.fromkeys(("_foreach_norm", "_foreach_powsum", "linalg__powsum"), (0.0, "it adds them")),
    "_foreach_max": (-math.inf, _ORDER),
    "_aminmax": (None, "what is neutral to the least is not to the greatest"),
    **dict.fromkeys(samples_math.LOSS_ROWS.keys() - _NUMBERED, (None, _AVERAGE)),
    **dict.fromkeys(("histc", "histogram", "bincount"), (None, "it counts them")),
    "_is_all_true": (1.0, "it multiplies them"),
    "embedding_renorm": (None, _NORMAL),
    **dict.fromkeys(("native_group_norm", "native_layer_norm", "_fused_rms_norm", "batch_norm_update_stats"), (None, _NORMAL)),
    **dict.fromkeys(_BATCH_NORMS, (None, _NORMAL)),
    **dict.fromkeys(_CELLS, (0.0, "hidden units feed each other")),
    **dict.fromkeys(_ATTENTIONS, (None, "a softmax runs across the keys")),
    **dict.fromkeys(samples_math.OBSERVERS, (None, "a scale follows the least and the largest of them")),
    "_native_multi_head_attention": (None, "a softmax runs across the keys"),
    "_transformer_encoder_layer_fwd": (None, _NORMAL),
    "_transform_bias_rescale_qkv": (None, "it divides the queries by the root of their width"),
    "mkldnn_rnn_layer": (0.0, "hidden units feed each other"),
}
"""How removals along mixed axes are compared: the neutral element (None: there is none, shapes alone are compared), and why."""


STATED_ONLY = {
    **dict.fromkeys(("equal", "allclose", "_is_any_true"), "one index less does not change the answer for drawn data"),
    **dict.fromkeys(sorted(_NUMBERED), "its samples return a loss for each row; a mean mixes rows"),
}
"""Operators that state mixed axes along which no sample shows that they mix, and why they do so."""


def named():
    """The operators of the table, without the namespace of ATen."""
    return {rule.removeprefix("aten.") for rule in RULES}


_POSITIONS = "positions are no channels, whatever the window"
PINS_BY_CHOICE = {
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "view_copy", "_reshape_copy"), "without elements no runs of axes can be matched"
    ),
    **dict.fromkeys(("tensor_split",), "parts of unequal size, or outside of the axis"),
    **dict.fromkeys(("slice", "slice_copy"), "an empty slice, or one of every k positions with a remainder"),
    **dict.fromkeys(("index",), "a mask, of which only the data tells what it takes"),
    **dict.fromkeys(
        ("masked_select", "masked_scatter", "unique_dim", "unique_dim_consecutive"), "what is chosen, the data tell"
    ),
    **dict.fromkeys(("ormqr", "linalg_lstsq"), "a matrix as a whole"),
    "higher_order.flex_attention": "positions are masked in blocks, whatever the mask",
    "_unsafe_masked_index_put_accumulate": "what is zero adds nothing, wherever it is written",
    "take_along_dim": "positions of all elements in a row",
    "scatter_reduce": "what is written to a position depends on the reduction",
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback"), _POSITIONS),
}
"""Operators whose rule pins an axis of which every index could go, and why it does."""

LEFT_OUT = {
    "contiguous": "it is passed over: its result counts as its operand",
    "_assert_async": "it returns nothing",
    "_linalg_check_errors": "it returns nothing",
    "_assert_tensor_metadata": "it returns nothing",
    "sym_size": "it returns sizes, which the trace follows by themselves",
    "is_nonzero": "it takes a tensor without axes",
    "_grouped_mm": "its kernel takes aligned bfloat16 only, whose axes cannot lose single indices",
    "fliplr": "a call of flip",
    "flipud": "a call of flip",
}
"""Operators of the table that are not probed, and why."""

_ELSEWHERE = """
    _fused_dropout _masked_scale record_stream cudnn_convolution cudnn_convolution_transpose cudnn_convolution_relu
    cudnn_convolution_add_relu miopen_convolution miopen_convolution_transpose miopen_convolution_relu
    miopen_convolution_add_relu miopen_depthwise_convolution _mps_convolution _mps_convolution_transpose _conv_depthwise2d
    conv_depthwise3d cudnn_batch_norm miopen_batch_norm batch_norm_elemt batch_norm_stats batch_norm_gather_stats
    batch_norm_gather_stats_with_counts _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention
    _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math_for_mps _flash_attention_forward
    _flash_attention_forward_no_dropout_inplace _efficient_attention_forward _cudnn_attention_forward _lstm_mps
    _thnn_fused_lstm_cell _thnn_fused_gru_cell _cudnn_rnn miopen_rnn cudnn_grid_sampler cudnn_affine_grid_generator
    mkldnn_linear _mkldnn_reshape _mkldnn_transpose mkldnn_max_pool2d mkldnn_max_pool3d mkldnn_adaptive_avg_pool2d int_repr
    qscheme q_scale q_zero_point q_per_channel_axis quantized_batch_norm quantized_max_pool1d quantized_max_pool2d
    quantized_max_pool3d _nnz _dimI _dimV _nested_get_min_seqlen _nested_get_max_seqlen native_norm
"""
_ANSWERS = """
    _assert_scalar _functional_assert_async _functional_assert_scalar sym_constrain_range sym_constrain_range_for_size
    _functional_sym_constrain_range _functional_sym_constrain_range_for_size _has_same_storage_numel is_same_size is_set_to
    is_pinned is_coalesced _fused_sdp_choice _print dense_dim sparse_dim hash_tensor _make_dep_token nonzero_numpy
"""
_ABSTRACT = {
    "convolution_overrideable": lambda d: call("convolution_overrideable", d.tensor(2, 3, 5), d.tensor(4, 3, 3), None,
        [1], [0], [1], False, [0], 1),
    "_scaled_dot_product_fused_attention_overrideable": lambda d: call(
        "_scaled_dot_product_fused_attention_overrideable", *(d.tensor(2, 3, 4, 5) for _ in range(3))),
}  # fmt: skip
"""Operators that raise where no other backend gives them a kernel."""
LEFT_OUT |= {
    **dict.fromkeys(_ELSEWHERE.split(), "it has no kernel for plain tensors on the CPU"),
    **dict.fromkeys(_ANSWERS.split(), "its answer has no axes"),
    **dict.fromkeys(
        ("quantize_per_tensor", "quantize_per_tensor_dynamic", "quantize_per_channel"), "it makes quantised storage"
    ),
    "_pin_memory": "it needs an accelerator",
    **{name: "its compiled kernel does not load beside every build of torch" for name in named() if "torchvision" in name},
    **dict.fromkeys(_ABSTRACT, "it is for other backends to implement"),
    **({} if samples_kernels.NNPACK else {"_nnpack_spatial_convolution": "NNPACK is not there"}),
}

_OPAQUE = {name.removeprefix("aten.") for name, rule in RULES.items() if rule.type == "UNKNOWN"}
"""Rules that pin all that a call touches: nothing can go, so nothing can go wrong."""

UNCHECKED = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "its kernel crashes on weights of other sizes"),
    **dict.fromkeys(_BATCH_NORMS, "its kernel reads beyond weights that are too few"),
    "_native_batch_norm_legit_no_training": "its kernel reads beyond weights that are too few",
    "_batch_norm_no_update": "its kernel reads beyond weights that are too few",
    "batch_norm_update_stats": "its kernel reads beyond statistics that are too few",
    "lu_unpack": "its kernel reads beyond pivots that are too few",
    "_transform_bias_rescale_qkv": "its kernel reads beyond biases that are too few",
    "mkldnn_rnn_layer": "its kernel crashes on weights of other sizes",
    "_cholesky_solve_helper": "its kernel reads beyond matrices that are too small",
    "slow_conv_transpose3d": "its kernel crashes on weights of other sizes",
    "_scaled_dot_product_flash_attention_for_cpu": "its kernel reads beyond values that are too few",
    **dict.fromkeys(samples_math.OBSERVERS, "its kernel reads beyond states that are too few"),
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface"), "its kernel reads beyond magnitudes that are too few"),
}
"""Operators that are not called on operands whose sizes disagree, so that only soundness is probed, and why."""


def mixed(name, sample):
    """How the sample's mixed axes are treated."""
    if name in samples.RANDOM or sample.over is None:
        return (Mixed(),)
    return (Mixed(sample.over, TREATMENTS[name][0]),) if sample.over else ()


def found(name, sample):
    """What probing a sample of an operator finds."""
    treated, checked = mixed(name, sample), name not in UNCHECKED
    return probe(sample.function, sample.args, sample.kwargs, mixed=treated, checked=checked, chosen=sample.chosen)


def seeded(name, seeds):
    """Findings on samples of each form of an operator."""
    for form in ROWS[name]:
        for seed in range(seeds):
            yield found(name, form(Draw.seeded(seed)))


_NOT_RECORDED = {"copy", "detach", "lift_fresh"}
"""Samples of which a form calls another operator (copy_), or none: what detach_ and lift_fresh give is their operand."""


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=max(settings.default.max_examples // 20, 1))
@given(draws())
def test_rules_hold(name, d):
    """Each form of the operator, on drawn shapes and arguments, bears out what the rule couples and pins."""
    for form in ROWS[name]:
        sample = form(d)
        findings = found(name, sample)
        assert {f"aten.{name}", name} & set(findings.ops) or name in _NOT_RECORDED, f"{sample} called {findings.ops}"
        assert not findings.refuted, f"{sample}: " + "; ".join(findings.refuted)
        if findings.needless and name not in PINS_BY_CHOICE:
            # one draw may happen to allow what others do not: a maximum that comes first, a mask that holds everywhere
            by_chance = any(not found(name, form(Draw.seeded(seed))).needless for seed in range(8))
            assert by_chance, f"{sample}: " + "; ".join(findings.needless)


def test_every_rule_is_probed_or_left_out():
    """A new rule needs a sample, or a reason not to have one."""
    assert named() == set(SAMPLES) | set(LEFT_OUT) | _OPAQUE
    assert not set(SAMPLES) & (set(LEFT_OUT) | _OPAQUE)
    assert all(ROWS.values())


@pytest.mark.parametrize("name", TREATMENTS)
def test_treatments_are_needed(name):
    """An operator with a treatment does mix positions: what is left changes when one goes."""
    assert any(findings.mixed for findings in seeded(name, 40))


def states_mixing(sample):
    """Whether the rules name an axis that is mixed and free; only of such can probing tell whether it is."""
    solution = solved(Invocation.of(sample.function, sample.args, sample.kwargs, sample.chosen), TABLE)
    return solution.mixed is not None and not solution.mixed <= solution.pins.keys()


def test_stated_mixing_is_seen():
    """An operator that states mixed axes does mix, or is listed with its reason; a listed one is never seen to."""
    unseen = set()
    for name in ROWS:
        stated, rule = False, RULES.get(f"aten.{name}", RULES.get(name))
        if isinstance(rule.traits, Traits):
            assert not rule.traits.mixes, "a constant cannot name the axes of a call"
            continue
        samples_of_it = (form(Draw.seeded(seed)) for form in ROWS[name] for seed in range(6))
        for sample in filter(states_mixing, samples_of_it):
            treated = mixed(name, sample)
            findings = probe(sample.function, sample.args, sample.kwargs, mixed=treated, checked=False, chosen=sample.chosen)
            stated = stated or findings.stated
            if findings.seen:
                break
        else:
            unseen |= {name} if stated else set()
    assert unseen == set(STATED_ONLY)


UNINITIALISED = {
    **{name: "its memory is as it was" for name in ROWS if "empty" in name},
    "mkldnn_rnn_layer": "its last result is room for its backward",
}
"""Operators whose results differ from call to call, whatever the seed, and why."""


def drawn(name, sample, seed):
    """What the call returns under a seed, in evaluation where it is a dropout of some kind; its operands stay."""
    operator = getattr(sample.function, "default", sample.function)
    names = [argument.name for argument in operator._schema.arguments] if hasattr(operator, "_schema") else []
    flags = {names.index(flag) for flag in ("train", "training") if flag in names and ("drop" in name or "rrelu" in name)}
    args = [False if place in flags else arg for place, arg in enumerate(sample.args)]
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, dict(sample.kwargs)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [x for x in pytree.tree_leaves(sample.function(*args, **kwargs)) if isinstance(x, torch.Tensor)]


def test_operators_that_draw_state_it():
    """What an operator returns in evaluation depends on the seed exactly where its traits say so."""
    for name in sorted(ROWS.keys() - UNINITIALISED.keys()):
        traits, seen = RULES.get(f"aten.{name}", RULES.get(name)).traits, False
        for form in ROWS[name]:
            sample = form(Draw.seeded(0))
            pairs = zip(drawn(name, sample, 1), drawn(name, sample, 2), strict=True)
            seen |= not all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in pairs)
        stated = isinstance(traits, Traits) and traits.draws
        assert seen == stated, f"{name} {'draws in evaluation' if seen else 'draws nothing'}; its traits say otherwise"


@pytest.mark.parametrize("name", PINS_BY_CHOICE)
def test_pins_by_choice_are_chosen(name):
    """An operator listed as pinning more than it must does so."""
    assert any(findings.needless for findings in seeded(name, 40))


@pytest.mark.parametrize("name", _ABSTRACT)
def test_operators_for_other_backends_raise(name):
    """What is left out because other backends implement it cannot be called here, though it is registered."""
    sample = _ABSTRACT[name](Draw.seeded(0))
    with pytest.raises(RuntimeError, match="not implemented"):
        sample.function(*sample.args)


@pytest.mark.parametrize("name", _ELSEWHERE.split())
def test_kernels_of_other_devices_are_elsewhere(name):
    """What is left out because it has no kernel on the CPU has none."""
    packet = getattr(torch.ops.aten, name)
    kernels = [getattr(packet, overload).name() for overload in packet.overloads() if "out" not in overload]
    keys = ("CPU", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    assert not any(torch._C._dispatch_has_kernel_for_dispatch_key(kernel, key) for kernel in kernels for key in keys)


def test_unchecked_operators_exist():
    """The list of operators that are not called on disagreeing operands holds no stale entry."""
    assert set(UNCHECKED) <= set(ROWS)
