"""What serving engines ask of sizes: presets for `dg.plan`, and a check of what an engine refuses or does more slowly.

A preset is a plain function that returns options of `dg.plan`; `check` tells for each layer what an engine will not take as
it is, after a plan or without one. Both read the same requirements, each with where it stands.

>>> import torch, depgraph as dg
>>> model = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 256))
>>> graph = dg.trace(model, torch.zeros(1, 256))
>>> scores = dg.score(graph, model, dg.Magnitude(p=2))
>>> print(dg.engines.check(graph, "gguf", plan=dg.plan(graph, scores, ratio=0.3)))
gguf(format='k-quants'): 1 finding
  layer     what    size  needs              then
  2.weight  inputs  717   a multiple of 256  falls back: a larger format with blocks of 32, or 16 bits
  inputs: src/llama-quant.cpp in ggml-org/llama.cpp: a row is cut into blocks of 256 (k-quants) or 32
>>> plan = dg.plan(graph, scores, ratio=0.3, **dg.engines.gguf("k-quants"))
>>> print(plan)
<Plan: 1 groups, 3 axes, 2 attributes>
  0.weight:0: 256 of 1024 indices go
>>> print(dg.engines.check(graph, "gguf", plan=plan))
gguf(format='k-quants'): nothing found
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from attrs import frozen

from depgraph.algebra.numbers import is_whole
from depgraph.choosing.isomorphism import signatures
from depgraph.choosing.layer_sizes import LayerAxis, SizedLayer, Sizes
from depgraph.errors import PlanError
from depgraph.graph.arguments import check_graph
from depgraph.graph.branches import STAND_IN
from depgraph.graph.drops import without
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group
from depgraph.plans.plan import Plan, refuse_other_graph

__all__ = ["Finding", "Report", "check", "flash_attention", "gguf", "onnxruntime", "tensorrt_llm", "vllm"]

Effect: TypeAlias = Literal["refused", "falls back", "padded", "slower", "differs"]
"""What an engine does with a size that it can't take as it is; ``differs``: it loads it, and computes something else."""

Options: TypeAlias = dict[str, Any]

_VLLM_HEADS = "vllm/model_executor/models/llama.py in vllm-project/vllm: LlamaAttention asserts it"
_VLLM_SPLIT = "vllm/distributed/utils.py in vllm-project/vllm: divide asserts that ranks get equal parts"
_VLLM_FA = "vllm/v1/attention/backends/flash_attn.py in vllm-project/vllm: supports_head_size"
_MARLIN = "vllm/model_executor/layers/quantization/utils/marlin_utils.py in vllm-project/vllm: verify_marlin_supports_shape"
_FA2 = "README.md in Dao-AILab/flash-attention, and its issues #28 and #277"
_FA3 = "hopper/flash_api.cpp in Dao-AILab/flash-attention: round_up_headdim"
_TRTLLM = "tensorrt_llm/_torch/modules/attention.py in NVIDIA/TensorRT-LLM: Attention asserts it"
_TRTLLM_SPLIT = "tensorrt_llm/_torch/modules/linear.py in NVIDIA/TensorRT-LLM: ranks get equal parts"
_LLAMA_CPP = "src/llama-quant.cpp in ggml-org/llama.cpp: a row is cut into blocks of 256 (k-quants) or 32"
_CONFIGURATION = "the configuration of the model has one number for all layers"
_BRANCHES = "the configuration of the model can't say that a layer has no attention or no MLP"
_TENSOR_CORES = "docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication: dimensions of 16 bytes"
_ONNX_BLOCKS = "docs/ContribOperators.md in microsoft/onnxruntime: MatMulNBits has ceil(K / block_size) blocks"


@frozen
class Finding:
    """A size that an engine does not take as it is.

    Attributes:
        layer: the parameter, attention or group, or the module of a branch.
        what: ``inputs`` or ``outputs`` of a layer, as one rank holds them; ``heads`` of an attention or in a projection;
            ``head dim``; ``equal sizes``, for groups whose sizes differ from those of the same groups in other layers; or
            ``branch``, of size 0, for a residual branch that has left.
        size: what it is, after the plan; not a whole number where ranks can't get equal parts.
        needs: what the engine asks for.
        effect: ``refused``; ``falls back`` to a slower or larger form; ``padded``; ``slower``; or ``differs``: the engine
            loads it, and computes something else.
        why: what happens then.
        source: where the engine says so.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(100, 64), torch.nn.Linear(64, 8)), torch.zeros(1, 100))
    >>> (finding,) = dg.engines.check(graph, "gguf", format="q8_0").findings
    >>> isinstance(finding, dg.engines.Finding), finding.layer, finding.what, finding.size, finding.effect
    (True, '0.weight', 'inputs', 100, 'refused')
    """

    layer: str
    what: str
    size: float
    needs: str
    effect: Effect
    why: str
    source: str


@frozen
class Report:
    """What `check` found. As text it is a table.

    Attributes:
        engine: the engine with its settings, as text.
        findings: in the order of the forward.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(100, 64), torch.nn.Linear(64, 8)), torch.zeros(1, 100))
    >>> report = dg.engines.check(graph, "onnxruntime")
    >>> isinstance(report, dg.engines.Report), len(report.findings)
    (True, 1)
    >>> print(report)
    onnxruntime(multiple=8): 1 finding
      layer     what    size  needs            then
      0.weight  inputs  100   a multiple of 8  slower: tensor cores take other sizes only padded
      inputs: docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication: dimensions of 16 bytes
    """

    engine: str
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        if not self.findings:
            return f"{self.engine}: nothing found"
        rows = [("layer", "what", "size", "needs", "then")]
        rows += [
            (item.layer, item.what, _number(item.size), item.needs, f"{item.effect}: {item.why}") for item in self.findings
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        shown = ["".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False)) + row[4] for row in rows]
        sources = dict.fromkeys((item.what, item.source) for item in self.findings)
        count = f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
        lines = [f"{self.engine}: {count}", *shown, *(f"{what}: {source}" for what, source in sources)]
        return "\n  ".join(lines)


@frozen
class Need:
    """What an engine asks of one kind of sizes: a multiple of a number, perhaps up to a largest one, or one of some sizes."""

    multiple: int
    effect: Effect
    why: str
    source: str
    largest: float = math.inf
    among: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.among:
            return f"one of {', '.join(map(str, self.among))}"
        return f"a multiple of {self.multiple}" + (f" up to {self.largest}" if self.largest < math.inf else "")

    def met(self, size: float) -> bool:
        """Whether a size is one that the engine takes as it is."""
        return size in self.among if self.among else size % self.multiple == 0 and size <= self.largest


@frozen
class Engine:
    """The requirements of an engine.

    Attributes:
        name: with its settings, as text.
        inputs: of the inputs of every layer, as one rank holds them.
        outputs: the same of outputs.
        head_dim: of the width of heads.
        ranks: over how many ranks attentions and inner widths are spread.
        heads: why heads are to be divisible by the ranks.
        split: the same of inner widths.
        stock: whether the engine builds the model from its configuration: layers have equal sizes and all branches, and what
            depends on the width of a head is computed from it.
    """

    name: str
    inputs: Need | None = None
    outputs: Need | None = None
    head_dim: Need | None = None
    ranks: int = 1
    heads: Need | None = None
    split: Need | None = None
    stock: bool = False


def vllm(
    *,
    tensor_parallel: int = 1,
    quantisation: str | None = None,
    attention: str = "flash_attention_2",
    head_dim: int | None = None,
) -> Options:
    """Options of `dg.plan` for a model that vLLM serves from a plain configuration.

    Layers keep equal sizes, heads and inner widths stay divisible by the ranks, and head dims stay whole: vLLM scales its
    attention by the size of a head, and computes rotary frequencies from it. Add ``only=`` or a mapping ``ratio=`` to let
    whole heads go.

    Args:
        tensor_parallel: over how many ranks the model is spread.
        quantisation: ``marlin`` for weights of 4 or 8 bits in its kernels: each rank's inputs are a multiple of 128, its
            outputs of 64.
        attention: ``flash_attention_2`` or ``flash_attention_3``; only `check` asks for it.
        head_dim: how wide a head is. With `quantisation` heads are left whole unless it is known.

    Raises:
        PlanError: a setting out of range.

    >>> import depgraph as dg
    >>> dg.engines.vllm(tensor_parallel=4)["round_to"]
    {'role:channel': 4, 'role:block': 4, 'role:conv_group': 4, 'role:head': 4, 'role:kv_group': 4}
    >>> dg.engines.vllm(tensor_parallel=4, quantisation="marlin", head_dim=64)["round_to"]["role:head"]
    8
    """
    return _options(_vllm(tensor_parallel=tensor_parallel, quantisation=quantisation, attention=attention), head_dim)


def tensorrt_llm(*, tensor_parallel: int = 1, head_dim: int | None = None) -> Options:
    """Options of `dg.plan` for a model that TensorRT-LLM serves from a plain configuration.

    As for `vllm`: layers keep equal sizes, heads and inner widths stay divisible by the ranks, head dims stay whole.

    Args:
        tensor_parallel: over how many ranks the model is spread.
        head_dim: how wide a head is; not needed, and there for the same call as for other engines.

    Raises:
        PlanError: a setting out of range.

    >>> import depgraph as dg
    >>> dg.engines.tensorrt_llm()
    {'ignore': ('role:head_dim',), 'uniform': 'isomorphic', 'round_to': {}}
    """
    return _options(_tensorrt_llm(tensor_parallel=tensor_parallel), head_dim)


def gguf(format: str = "k-quants", *, head_dim: int | None = None) -> Options:
    """Options of `dg.plan` for a model that llama.cpp runs from a GGUF file with its plain architecture.

    Layers keep equal sizes, head dims stay whole, and rows of weights stay divisible by the blocks of the format.

    Args:
        format: ``k-quants`` (blocks of 256: Q2_K to Q6_K and the IQ formats), ``q4_0``, ``q5_0`` or ``q8_0`` (of 32), ``f16``.
        head_dim: how wide a head is. Heads are left whole unless it is known, except for ``f16``.

    Raises:
        PlanError: no such format, or a `head_dim` out of range.

    >>> import depgraph as dg
    >>> options = dg.engines.gguf("k-quants", head_dim=64)
    >>> options["round_to"]["role:channel"], options["round_to"]["role:head"]
    (256, 4)
    """
    return _options(_gguf(format=format), head_dim)


def onnxruntime(*, multiple: int = 8, block_size: int | None = None) -> Options:
    """Options of `dg.plan` for a model that is exported to ONNX: any sizes run, for the file has them layer by layer.

    Args:
        multiple: of what sizes are kept to be fast: 8 for half precision on tensor cores, 4 for single, 16 for 8 bits.
        block_size: of weights in 4 or 8 bits (``MatMulNBits``), whose rows are padded to it.

    Raises:
        PlanError: a setting out of range.

    >>> import depgraph as dg
    >>> dg.engines.onnxruntime(multiple=4)["round_to"]["role:channel"]
    4
    """
    engine = _onnxruntime(multiple=multiple, block_size=block_size)
    options = _options(engine, None)
    options["round_to"]["role:head_dim"] = _common(engine)
    return options


def flash_attention(version: int = 2) -> Options:
    """Options of `dg.plan` for a model of PyTorch that attends by FlashAttention, such as `dg.hf.from_pretrained` loads.

    Args:
        version: 2: head dims stay a multiple of 8, others are padded. 3: of 64, for kernels of 64, 128, 192 and 256.

    Raises:
        PlanError: no such version.

    >>> import depgraph as dg
    >>> dg.engines.flash_attention(3)
    {'round_to': {'role:head_dim': 64}}
    """
    need = _flash_attention(version=version).head_dim
    assert need is not None
    return {"round_to": {"role:head_dim": need.multiple}}


def check(graph: Graph, engine: str, *, plan: Plan | None = None, **settings: Any) -> Report:
    """What an engine will refuse, do more slowly or do otherwise, layer by layer.

    Each projection counts by itself: an engine that joins some of them may take more. The layer that makes what the model
    returns is not asked for its outputs. A size is named also where the original has it.

    Args:
        graph: the traced model.
        engine: ``vllm``, ``tensorrt_llm``, ``gguf``, ``onnxruntime`` or ``flash_attention``.
        plan: a plan for this graph: the sizes after it are checked, whether what goes changes what the engine computes, and
            whether branches leave that the engine's own classes have.
        settings: those of the engine's preset, such as ``tensor_parallel=4``.

    Raises:
        PlanError: no such engine or setting, or something else than a graph.
        MismatchError: the plan was made for another graph.

    >>> import torch, depgraph as dg
    >>> class Block(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.up, self.down = torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)
    ...     def forward(self, x):
    ...         return x + self.down(torch.relu(self.up(x)))
    >>> graph = dg.trace(Block(), torch.zeros(1, 64))
    >>> plan = dg.cut(graph, "up.weight", [5, 6], dim=0)
    >>> [(item.layer, item.what, item.size) for item in dg.engines.check(graph, "vllm", plan=plan, tensor_parallel=4).findings]
    [('up.weight', 'outputs', 126), ('down.weight', 'inputs', 126)]
    >>> dg.engines.check(graph, "vllm", tensor_parallel=4).findings
    ()
    """
    check_graph(graph, "a plan has no layers: dg.engines.check(graph, engine, plan=plan)")
    if plan is not None:
        refuse_other_graph(plan, graph, "Pass the graph that it was made for.")
    needs = _engine(engine, settings)
    if plan is not None:
        graph = without(graph, plan.leaving)
    return Report(needs.name, tuple(dict.fromkeys(_findings(graph, plan, needs))))


def _number(size: float) -> str:
    return str(int(size)) if size == int(size) else f"{size:.2f}"


def _findings(graph: Graph, plan: Plan | None, engine: Engine) -> Iterator[Finding]:
    sizes = Sizes(graph, plan)
    for layer in sizes.layers():
        yield from _layer_findings(layer, engine)
    for attention in sizes.attentions():
        if engine.heads is not None and not engine.heads.met(attention.heads):
            yield _finding(attention.name, "heads", attention.heads, engine.heads)
        for width in dict.fromkeys((attention.head_dim, attention.value_dim)):
            if width and engine.head_dim is not None and not engine.head_dim.met(width):
                yield _finding(attention.name, "head dim", width, engine.head_dim)
    if engine.stock:
        yield from _without_branches(graph)
        yield from _unlike(graph, sizes)
        yield from _changed_head_dims(graph, plan)


def _finding(layer: str, what: str, size: float, need: Need) -> Finding:
    whole = int(size) if size == int(size) else size
    return Finding(layer, what, whole, str(need), need.effect, need.why, need.source)


def _layer_findings(layer: SizedLayer, engine: Engine) -> Iterator[Finding]:
    outputs = None if layer.last else layer.outputs
    for what, axis, need in (("inputs", layer.inputs, engine.inputs), ("outputs", outputs, engine.outputs)):
        if axis is None:
            continue
        yield from _split_findings(layer.name, what, axis, engine)
        size = axis.per_rank(engine.ranks)
        if need is not None and not need.met(size):
            yield _finding(layer.name, what, size, need)


def _split_findings(name: str, what: str, axis: LayerAxis, engine: Engine) -> Iterator[Finding]:
    """What can't be shared out between the ranks: heads, of which several may be repeated, and inner widths."""
    if axis.whole:
        return
    for part in axis.parts:
        shared = engine.ranks % part.heads if part.heads and part.heads < engine.ranks else part.heads % engine.ranks
        if part.heads and shared and engine.heads is not None:
            need = f"a multiple or a divisor of {engine.ranks}"
            yield Finding(name, "heads", part.heads, need, "refused", engine.heads.why, engine.heads.source)
        if not part.heads and engine.split is not None and not engine.split.met(part.size):
            yield Finding(name, what, part.size, str(engine.split), "refused", engine.split.why, engine.split.source)


def _without_branches(graph: Graph) -> Iterator[Finding]:
    """Modules that add nothing, in the places of residual branches: no class of an engine has them."""
    for item in graph.operations:
        if item.module_class == STAND_IN:
            why = "the engine's classes have every branch, and find no weights for this one"
            yield Finding(item.name, "branch", 0, "the whole branch", "refused", why, _BRANCHES)


def _unlike(graph: Graph, sizes: Sizes) -> Iterator[Finding]:
    """Groups that have another size than the first group of the same structure."""
    alike: dict[Any, list[Group]] = {}
    structures = signatures(graph)
    for group in graph.groups:
        alike.setdefault(structures[group.atom], []).append(group)
    for first, *others in alike.values():
        size = sizes.size(first.atom)
        for group in others:
            if sizes.size(group.atom) != size:
                needs, why = f"{size}, as {first.name} has", "the engine gives every layer the same size"
                yield Finding(group.name, "equal sizes", sizes.size(group.atom), needs, "refused", why, _CONFIGURATION)


def _changed_head_dims(graph: Graph, plan: Plan | None) -> Iterator[Finding]:
    """Groups of head dims of which some go: scales and rotary frequencies are computed from the width of a head."""
    for cut in plan.cuts if plan is not None else ():
        group = graph.group_of.get(cut.atom)
        if group is not None and group.role == "head_dim":
            why = "scales and rotary frequencies are computed anew from the width of a head"
            yield Finding(group.name, "head dim", group.size - cut.count, str(group.size), "differs", why, _CONFIGURATION)


def _common(engine: Engine) -> int:
    """The multiple that all widths are kept at, on each rank."""
    return math.lcm(*(need.multiple for need in (engine.inputs, engine.outputs) if need is not None))


def _options(engine: Engine, head_dim: int | None) -> Options:
    if head_dim is not None and not is_whole(head_dim, least=1):
        raise PlanError(f"expected head_dim= to be a whole number of at least 1, met {head_dim!r}.")
    common = _common(engine)
    width, heads = common * engine.ranks, common // math.gcd(common, head_dim or 1) * engine.ranks
    round_to = dict.fromkeys(("role:channel", "role:block", "role:conv_group"), width)
    round_to |= dict.fromkeys(("role:head", "role:kv_group"), heads)
    options: Options = {"ignore": ("role:head_dim",), "uniform": "isomorphic"} if engine.stock else {}
    return options | {"round_to": {role: multiple for role, multiple in round_to.items() if multiple > 1}}


def _settled(name: str, settings: Mapping[str, object]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in settings.items() if value is not None)})"


def _ranks(tensor_parallel: object) -> int:
    if not is_whole(tensor_parallel, least=1):
        raise PlanError(f"expected tensor_parallel= to be a whole number of at least 1, met {tensor_parallel!r}.")
    return tensor_parallel


def _one_of(name: str, value: object, known: Mapping[Any, Any]) -> Any:
    if not isinstance(value, (str, int, type(None))) or value not in known:
        raise PlanError(f"expected {name}= to be one of {', '.join(map(repr, known))}, met {value!r}.")
    return known[value]


def _vllm(*, tensor_parallel: int = 1, quantisation: str | None = None, attention: str = "flash_attention_2") -> Engine:
    ranks = _ranks(tensor_parallel)
    packed = _one_of("quantisation", quantisation, {None: False, "marlin": True})
    name = _settled("vllm", {"tensor_parallel": ranks, "quantisation": quantisation, "attention": attention})
    why = "the kernels of Marlin have no tile for it"
    return Engine(
        name,
        inputs=Need(128, "refused", why, _MARLIN) if packed else None,
        outputs=Need(64, "refused", why, _MARLIN) if packed else None,
        head_dim=_one_of(
            "attention",
            attention,
            {
                "flash_attention_2": Need(8, "falls back", "another backend attends", _VLLM_FA, largest=256),
                "flash_attention_3": _FLASH[3],
            },
        ),
        ranks=ranks,
        heads=Need(ranks, "refused", "each rank holds whole heads", _VLLM_HEADS),
        split=Need(ranks, "refused", "ranks hold equal parts", _VLLM_SPLIT),
        stock=True,
    )


def _tensorrt_llm(*, tensor_parallel: int = 1) -> Engine:
    ranks = _ranks(tensor_parallel)
    return Engine(
        _settled("tensorrt_llm", {"tensor_parallel": ranks}),
        ranks=ranks,
        heads=Need(ranks, "refused", "each rank holds whole heads", _TRTLLM),
        split=Need(ranks, "refused", "ranks hold equal parts", _TRTLLM_SPLIT),
        stock=True,
    )


_BLOCKS = {
    "k-quants": Need(256, "falls back", "a larger format with blocks of 32, or 16 bits", _LLAMA_CPP),
    **dict.fromkeys(("q4_0", "q5_0", "q8_0"), Need(32, "refused", "the conversion ends", _LLAMA_CPP)),
    "f16": None,
}


def _gguf(*, format: str = "k-quants") -> Engine:
    return Engine(_settled("gguf", {"format": format}), inputs=_one_of("format", format, _BLOCKS), stock=True)


def _onnxruntime(*, multiple: int = 8, block_size: int | None = None) -> Engine:
    for key, value in (("multiple", multiple), ("block_size", block_size)):
        if value is not None and not is_whole(value, least=1):
            raise PlanError(f"expected {key}= to be a whole number of at least 1, met {value!r}.")
    fast = Need(multiple, "slower", "tensor cores take other sizes only padded", _TENSOR_CORES)
    blocks = None if block_size is None else Need(block_size, "padded", "the last block is filled up", _ONNX_BLOCKS)
    return Engine(
        _settled("onnxruntime", {"multiple": multiple, "block_size": block_size}), inputs=blocks or fast, outputs=fast
    )


_FLASH = {
    2: Need(8, "padded", "the kernels take multiples of 8", _FA2, largest=256),
    3: Need(64, "padded", "the kernels are of these widths", _FA3, among=(64, 96, 128, 192, 256)),
}


def _flash_attention(*, version: int = 2) -> Engine:
    return Engine(_settled("flash_attention", {"version": version}), head_dim=_one_of("version", version, _FLASH))


_ENGINES: dict[str, Callable[..., Engine]] = {
    "vllm": _vllm,
    "tensorrt_llm": _tensorrt_llm,
    "gguf": _gguf,
    "onnxruntime": _onnxruntime,
    "flash_attention": _flash_attention,
}


def _engine(name: object, settings: Mapping[str, Any]) -> Engine:
    make: Callable[..., Engine] = _one_of("engine", name, _ENGINES)
    known = [*(make.__kwdefaults__ or {})]
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise PlanError(f"{name} has no setting {', '.join(map(repr, unknown))}; it has {', '.join(map(repr, known))}.")
    return make(**settings)
