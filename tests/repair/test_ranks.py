"""Several processes with their own batches make one repair."""

import torch

import depgraph as dg
from tests.ranks import printed_by_ranks
from tests.repair.networks import ConvNet, settled

RANK = """
import datetime, sys
import torch, torch.distributed as dist
import depgraph as dg
from tests.repair import test_ranks as here
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60)
)
model, plan, batches = here.subject()
wrapped = torch.nn.parallel.DistributedDataParallel(model)
for mode in ("independent", "sequential"):
    torch.save(dict(dg.refit(plan, wrapped, batches[rank], mode=mode, **here.OPTIONS).values), f"{folder}/{mode}{rank}.pt")
dist.destroy_process_group()
"""

OPTIONS = {"dtype": torch.float64, "holdout": 0.25, "rows_per_input": 1e9}


def subject():
    """A network, a plan, and the batches of two ranks."""
    torch.manual_seed(0)
    model = settled(ConvNet(6), torch.randn(32, 2, 5, 5)).double()
    x = torch.randn(64, 2, 5, 5, dtype=torch.float64)
    return model, dg.cut(dg.trace(model, x[:1]), "conv1.weight", [1, 4], dim=0), ([x[:32]], [x[32:]])


def test_ranks_make_one_repair(tmp_path):
    """That of one process with the samples of both: those that either fits to first, then those that either holds out."""
    printed_by_ranks(RANK, tmp_path)
    model, plan, ((one,), (two,)) = subject()
    ordered = [torch.cat([one[:24], two[:24]]), torch.cat([one[24:], two[24:]])]
    for mode in ("independent", "sequential"):
        alone = dg.refit(plan, model, ordered, mode=mode, **OPTIONS)
        first, second = (torch.load(tmp_path / f"{mode}{rank}.pt") for rank in range(2))
        own = dg.refit(plan, model, [one], mode=mode, **OPTIONS)
        assert alone.values and alone.values.keys() == first.keys() == second.keys()
        for name, values in alone.values.items():
            assert torch.equal(first[name], second[name]), name
            assert torch.allclose(values, first[name], rtol=1e-6, atol=1e-9), name
        assert any(not torch.allclose(values, first[name]) for name, values in own.values.items()), (
            "one rank alone fits another"
        )
