"""Processes that work together through gloo."""

import subprocess
import sys

import pytest
import torch

_END = """
import os as _os, sys as _sys
_sys.stdout.flush()
_os._exit(0)
"""


def printed_by_ranks(code, *args, count=2, seconds=120):
    """What each rank prints that runs this code, which is given its rank and the arguments. All must end well.

    A rank ends when the code does: the threads of gloo, which a wrapper of the model may still hold, can abort a process that
    is taken down in order.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this build of torch has no gloo")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code + _END, str(rank), *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
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
