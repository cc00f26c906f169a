"""NCCL through torch.distributed on the GPUs of one host: ``torchrun --nproc_per_node N nccl.py FILE`` writes a CSV.

Medians of five rounds by CUDA events; ``bytes`` is the whole buffer of a rank. Multicast is off (NCCL_NVLS_ENABLE=0).
"""

import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("NCCL_NVLS_ENABLE", "0")

import torch
import torch.distributed as dist

SIZES = [2**power for power in range(10, 31, 2)]
LARGE = 2**26


def microseconds(call, times):
    """Of one call, the median of five rounds of so many."""
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    dist.barrier()
    rounds = []
    for _ in range(5):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            call()
        stop.record()
        torch.cuda.synchronize()
        rounds.append(start.elapsed_time(stop) / times * 1e3)
    return statistics.median(rounds)


def calls(size, world):
    """Every operation on buffers of a size, BF16."""
    whole = torch.randn(size // 2, device="cuda").to(torch.bfloat16)
    other, part = torch.empty_like(whole), torch.empty(size // 2 // world, device="cuda", dtype=torch.bfloat16)
    return {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: dist.all_gather_into_tensor(other, part),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
        "all_to_all": lambda: dist.all_to_all_single(other, whole),
        "broadcast": lambda: dist.broadcast(whole, 0),
    }


def main():
    dist.init_process_group("nccl")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.cuda.set_device(rank)
    rows = ["op,world,bytes,us"]
    for size in SIZES:
        for op, call in calls(size, world).items():
            rows.append(f"{op},{world},{size},{microseconds(call, 20 if size < LARGE else 8):.2f}")
    if rank == 0:
        Path(sys.argv[1]).write_text("\n".join(rows) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
