"""Prune models that are spread over ranks, measure each rank's memory, and compare with one process; writes docs/sharded.md.

Run it with ``tox run -e sharded``, or ``python docs/benchmarks/sharded.py`` from the root of a clone: the ranks are processes
of this machine, which talk through gloo. ``--only 2`` runs the cases of two ranks anew, ``--page``
writes the page anew from docs/benchmarks/sharded.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module  # noqa: E402

import depgraph as dg  # noqa: E402
from depgraph.execution.shards import Layout, whole  # noqa: E402

RECORDS, PAGE = ROOT / "docs/benchmarks/sharded.json", ROOT / "docs/sharded.md"
CASES = (("fully_shard", 2), ("fully_shard", 4), ("tensor parallelism", 2), ("tensor parallelism", 4), ("both", 4))
COLUMNS, ROWS = ("q", "k", "v", "gate", "up"), ("o", "down")
LLAMA_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
LLAMA_ROWS = ("self_attn.o_proj", "mlp.down_proj")
FIXED = {"MALLOC_MMAP_THRESHOLD_": str(2**18), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""Memory that is freed goes back to the system, whatever was freed before."""


class Block(nn.Module):
    """A block of a language model as Llama's, without its positions."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.dim = width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, self.dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def meshes(kind: str, ranks: int) -> tuple[Any, Any]:
    """The mesh of tensor parallelism and that of fully_shard, where there are such."""
    if kind == "both":
        mesh = dist.init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("data", "tensor"))
        return mesh["tensor"], mesh["data"]
    mesh = dist.init_device_mesh("cpu", (ranks,))
    return (mesh, None) if kind == "tensor parallelism" else (None, mesh)


def spread(model: nn.Module, blocks: Any, kind: str, ranks: int, columns: Any, rows: Any) -> Any:
    """Spread a model over ranks; the mesh that divides batches, if there is one."""
    tensor, data = meshes(kind, ranks)
    styles = {**{name: ColwiseParallel() for name in columns}, **{name: RowwiseParallel() for name in rows}}
    for block in blocks:
        if tensor is not None:
            parallelize_module(block, tensor, styles)
        if data is not None:
            fully_shard(block, mesh=data)
    if data is not None:
        fully_shard(model, mesh=data)
    return data


def runs(tensor: torch.Tensor) -> list[tuple[int, int]]:
    """What this rank holds of each dimension."""
    if not isinstance(tensor, DTensor):
        return [(0, size) for size in tensor.shape]
    return Layout.of(tensor).held(tensor.shape, tuple(tensor.device_mesh.get_coordinate()))


def values(shape: Any, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """A number for each element of a matrix, which its place alone gives."""
    return ((rows[:, None] * shape[1] + columns) % 65_521).float()


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def memory(name: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure(kind: str, ranks: int) -> dict[str, Any]:
    """Sizes and peak memory of one rank, and how many of its elements are not those of the pruned whole."""
    with torch.device("meta"):
        blocks = [Block(1024, 16, 2816) for _ in range(8)]
        model = nn.Sequential(nn.Embedding(16_000, 1024), *blocks, nn.Linear(1024, 16_000, bias=False))
    graph = dg.trace(model, torch.zeros(1, 4, dtype=torch.long, device="meta"))
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.4, round_to=ranks)
    spread(model, blocks, kind, ranks, COLUMNS, ROWS)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            places = [torch.arange(*run) for run in runs(parameter)]
            local(parameter).copy_(values(parameter.shape, *places))
    sizes = {name: parameter.shape for name, parameter in model.named_parameters()}
    before = sum(local(parameter).nbytes for parameter in model.parameters())
    Path("/proc/self/clear_refs").write_text("5")
    resident, start = memory("VmRSS"), time.perf_counter()
    dg.execute_(plan, model)
    seconds, peak = time.perf_counter() - start, memory("VmHWM") - resident
    wrong = 0
    for name, parameter in model.named_parameters():
        kept = [torch.tensor(list(plan.kept.get(name, {}).get(dim, range(size)))) for dim, size in enumerate(sizes[name])]
        places = [indices[slice(*run)] for indices, run in zip(kept, runs(parameter), strict=True)]
        wrong += int((local(parameter) != values(sizes[name], *places)).sum())
    return {
        "whole": 4 * sum(shape.numel() for shape in sizes.values()),
        "largest": 4 * max(shape.numel() for shape in sizes.values()),
        "before": before,
        "after": sum(local(parameter).nbytes for parameter in model.parameters()),
        "peak": peak,
        "seconds": seconds,
        "wrong": wrong,
    }


def compare(kind: str, ranks: int) -> dict[str, Any]:
    """A small Llama of transformers: how many tensors differ from one process's, and by how much after steps of Adam."""
    from tests.zoo import transformers

    def made() -> Any:
        torch.manual_seed(0)
        config = transformers().LlamaConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=4,
            vocab_size=99,
        )
        return transformers().LlamaForCausalLM(config).eval()

    alone, model = made(), made()
    x = torch.randint(0, 99, (4, 8))
    graph = dg.trace(alone, x)
    plan = dg.plan(graph, dg.score(graph, alone, dg.Magnitude(p=2)), ratio=0.4, round_to=4)
    data = spread(model, model.model.layers, kind, ranks, LLAMA_COLUMNS, LLAMA_ROWS)
    mine = x if data is None else x.chunk(data.size())[data.get_local_rank()]
    same_graph = dg.trace(model, x) == graph
    pair = [(model, mine, adam(model)), (alone, x, adam(alone))]
    for each in pair:
        step(*each)
    alone.load_state_dict({name: whole(tensor) for name, tensor in model.state_dict().items()})
    states = [dg.optimizers.carry_state(plan, each, optimizer) for each, _, optimizer in pair]
    dg.execute_(plan, model)
    small = dg.execute(plan, alone)
    pruned = {name: whole(tensor) for name, tensor in model.state_dict().items()}
    differing = sum(not torch.equal(pruned[name], tensor) for name, tensor in small.state_dict().items())
    pair = [(model, mine, adam(model)), (small, x, adam(small))]
    for (_, _, optimizer), state in zip(pair, states, strict=True):
        optimizer.load_state_dict(state)
    for each in pair * 3:
        step(*each)
    after = {name: whole(tensor) for name, tensor in model.state_dict().items()}
    distance = max(float((after[name] - tensor).abs().max()) for name, tensor in small.state_dict().items())
    return {"same graph": same_graph, "tensors": len(pruned), "differing": differing, "distance": distance}


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def step(model: Any, x: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(x, labels=x).loss.backward()
    optimizer.step()


WORK = {"measure": measure, "compare": compare}


def of_rank(work: str, kind: str, ranks: int, rank: int, folder: str) -> None:
    """What one rank does; it prints what it has found."""
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks, timeout=limit)
    print(json.dumps(WORK[work](kind, ranks)))
    dist.destroy_process_group()


def on_ranks(work: str, kind: str, ranks: int) -> Iterator[dict[str, Any]]:
    """What each rank finds, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            __file__,
            "--work",
            work,
            "--kind",
            kind,
            "--ranks",
            str(ranks),
            "--folder",
            folder,
            "--rank",
        ]
        processes = [
            subprocess.Popen([*command, str(rank)], cwd=ROOT, env={**os.environ, **FIXED}, stdout=subprocess.PIPE, text=True)
            for rank in range(ranks)
        ]
        outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{work} of {kind} on {ranks} ranks has failed")
    yield from (json.loads(output.splitlines()[-1]) for output in outputs)


def page(records: dict[str, Any]) -> str:
    """The page of what was found."""
    mib = 2**20
    measured, compared = records["measured"], records["compared"]
    first = measured[0]
    beyond = max((item["peak"] - item["after"]) / item["largest"] for item in measured)
    lines = [
        "# Models that are spread over ranks",
        "",
        "Written by `tox run -e sharded` (`docs/benchmarks/sharded.py`), never by hand. The ranks are processes of one machine "
        f"and talk through gloo. torch {records['torch']}; {records['cpus']} CPUs.",
        "",
        "## Memory of each rank",
        "",
        f"`dg.execute_` of a language model of {first['whole'] / mib:.0f} MiB, whose largest parameter has "
        f"{first['largest'] / mib:.0f} MiB, made on the `meta` device and spread there, so that no rank holds the whole; the "
        "plan takes 40 % of every group. *Most above it*: the most memory that the process had meanwhile, beyond what it had "
        "before. That is the new shard, which stays beside the old one until all is there, and what is sent and received of "
        f"one parameter. Without the new shard it came to {beyond:.2f} times the largest parameter at most. *Wrong*: elements "
        "that are not those of the pruned whole, of all shards. The rank with the largest peak of each row.",
        "",
        "| | ranks | shard before, MiB | new shard, MiB | most above it, MiB | without the new shard, MiB | seconds | wrong |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {item['kind']} | {item['ranks']} | {item['before'] / mib:.0f} | {item['after'] / mib:.0f} "
            f"| {item['peak'] / mib:.0f} | {(item['peak'] - item['after']) / mib:.0f} | {item['seconds']:.2f} "
            f"| {item['wrong']} |"
            for item in measured
        ),
        "",
        "## The same as in one process",
        "",
        "A small Llama of transformers takes a step of Adam and is pruned, on ranks and in one process; state of the optimizer "
        "comes along, and three more steps follow. *Farthest*: the largest difference of two weights after them; ranks add up "
        "gradients in another order.",
        "",
        "| | ranks | same graph | tensors | differing once pruned | farthest after training on |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
        *(
            f"| {item['kind']} | {item['ranks']} | {'yes' if item['same graph'] else 'no'} | {item['tensors']} | "
            f"{item['differing']} | {item['distance']:.1e} |"
            for item in compared
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run all cases, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="cases of so many ranks; the others stay as they were")
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    for name in ("work", "kind", "folder"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in ("ranks", "rank"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        of_rank(options.work, options.kind, options.ranks, options.rank, options.folder)
        return
    for kind, ranks in CASES if not options.page else ():
        if options.only in (None, str(ranks)):
            records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {"measured": [], "compared": []}
            records |= {"torch": version("torch"), "cpus": os.cpu_count()}
            found = list(on_ranks("measure", kind, ranks))
            worst = max(found, key=lambda item: int(item["peak"]))
            measured = {"kind": kind, "ranks": ranks, **worst, "wrong": sum(item["wrong"] for item in found)}
            compared = {"kind": kind, "ranks": ranks, **next(on_ranks("compare", kind, ranks))}
            for name, item in (("measured", measured), ("compared", compared)):
                others = [other for other in records[name] if (other["kind"], other["ranks"]) != (kind, ranks)]
                records[name] = sorted([*others, item], key=lambda item: CASES.index((item["kind"], item["ranks"])))
            RECORDS.write_text(json.dumps(records, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RECORDS.read_text())))


if __name__ == "__main__":
    main()
