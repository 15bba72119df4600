"""Processes that work together through gloo."""

import subprocess
import sys

import pytest
import torch


def printed_by_ranks(code, *args, count=2, seconds=120):
    """What each rank prints that runs this code, which is given its rank and the arguments. All must end well."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this build of torch has no gloo")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(count)
    ]
    try:
        printed = [rank.communicate(timeout=seconds) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * count, printed
    return [out for out, _ in printed]
