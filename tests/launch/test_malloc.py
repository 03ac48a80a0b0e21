"""Memory of freed tensors is kept, seen by the page faults of making large tensors again and again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from support.project import PROJECT

FAULTS = """
import resource
import torch
from fer.launch.malloc import give_back_freed_memory, keep_freed_memory

def faults():
    torch.ones(128, 2**20)  # the largest of a step
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for again in range(4):
        torch.ones(16, 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
keep_freed_memory()
kept = faults()
give_back_freed_memory()
print(kept, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="changes nothing with another C library")
def test_tensors_are_made_of_memory_that_is_there() -> None:
    command = [sys.executable, "-c", FAULTS]
    kept, given_back = map(int, subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.split())
    # Four tensors of 64 MiB: 65,536 pages, or 128 where the system uses large ones.
    assert kept < 64 < given_back
