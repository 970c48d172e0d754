"""Freed memory stays in a process that trains on CPU until `return_freed_memory`."""

import os
import subprocess
import sys

import pytest
import torch

_SCRIPT = """
import resource
from psychocounsel.model.cpu import prepare_process, return_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (40, 3, 70):
        b"x" * (megabytes << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) >> 10

faults()
print(faults())
prepare_process()
faults()
print(faults())
print(resident())
return_freed_memory()
print(resident())
"""


@pytest.mark.slow
def test_freed_memory_is_used_again_and_can_be_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    usual, kept, before, after = map(int, done.stdout.split())
    assert usual > 1000, "each time new pages"
    assert kept < 50
    assert after < before - 60, "megabytes"


_PRODUCTS = """
import sys
import torch
from psychocounsel.model.cpu import prepare_process, product, return_freed_memory

def resident():
    return_freed_memory()
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

dtype = getattr(torch, sys.argv[2])
prepare_process(dtype if sys.argv[1] == "few" else None)
rows, weight = torch.randn(4096, 64, dtype=dtype), torch.randn(64, 64, dtype=dtype)
product(rows[:8], weight)
before = resident()
for count in range(32, 4096, 32):
    for width in (32, 48, 64):
        product(rows[:count], weight[:width])
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_few_compiled_products_are_kept(dtype: str) -> None:
    # An earlier test that trains in this process sets the variables for all child processes.
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_CACHE_CAPACITY")}
    every, few = (
        int(
            subprocess.run(
                [sys.executable, "-c", _PRODUCTS, how, dtype], env=plain, capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("every", "few")
    )
    assert every > 20_000, "kilobytes, of 381 shapes"
    assert few < 0.7 * every
