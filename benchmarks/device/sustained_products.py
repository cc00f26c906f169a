"""Products for a moment and for seconds: what a GPU's power limit leaves of its rate. ``python sustained_products.py``

Prints CSV. Needs PyTorch with CUDA and nvidia-smi; about three minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import time

import torch

SECONDS, COOLING_S, WINDOW_FLOP = 12.0, 5.0, 30e12
SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 16384, 16384), (8192, 4608, 6144), (16384, 12288, 3072))


def clock_and_power() -> str:
    """SM clock and board power just after a window; the GPU is idle for a moment, its clock still the loaded one."""
    command = [shutil.which("nvidia-smi") or "nvidia-smi", "--query-gpu=clocks.sm,power.draw", "-i", "0"]
    command.append("--format=csv,noheader,nounits")
    found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return ",".join(part.strip() for part in found.stdout.strip().split(","))


def main() -> None:
    """Print TFLOP/s, clock and power over time, of random numbers and of zeros."""
    print("m,n,k,data,window_start_s,tflop_per_s,sm_mhz,power_w")
    for m, n, k in SHAPES:
        for data, made in (("normal", torch.randn), ("zeros", torch.zeros)):
            a, b = made(m, k, device="cuda").bfloat16(), made(k, n, device="cuda").bfloat16()
            c = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
            torch.mm(a, b, out=c)
            torch.cuda.synchronize()
            time.sleep(COOLING_S)
            flop, start, windows = 2.0 * m * n * k, time.perf_counter(), 0
            calls = max(1, int(WINDOW_FLOP / flop))
            while (begin := time.perf_counter()) - start < SECONDS:
                for _ in range(calls):
                    torch.mm(a, b, out=c)
                torch.cuda.synchronize()
                rate = calls * flop / (time.perf_counter() - begin) / 1e12
                if windows < 3 or windows % 20 == 0:
                    print(f"{m},{n},{k},{data},{begin - start:.2f},{rate:.1f},{clock_and_power()}", flush=True)
                windows += 1


if __name__ == "__main__":
    main()
