"""What the card itself can: copies, matrix products, launches. Everything else is read against these."""

import torch

from gpu_parts.setting import Report, Setting
from gpu_parts.timing import by_turns, captured, milliseconds


def run(setting: Setting, report: Report) -> None:
    copies(setting, report)
    products(setting, report)
    launches(setting, report)


def copies(setting: Setting, report: Report) -> None:
    count = 2**20 if setting.small else 2**28  # 1 GiB, far beyond any cache
    source = torch.randn(count, device=setting.device)
    target = torch.empty_like(source)
    timing = by_turns({"copy": lambda: target.copy_(source)}, setting.device, rounds=setting.rounds(15), calls=3)
    report.rate("copy on the device, bytes read and written", timing["copy"], 2 * 4 * count / 1e9, "GB/s")


def products(setting: Setting, report: Report) -> None:
    side = 128 if setting.small else 8192
    for name, dtype, precision in (
        ("bfloat16", torch.bfloat16, "highest"),
        ("tf32", torch.float32, "high"),
        ("float32", torch.float32, "highest"),
    ):
        torch.set_float32_matmul_precision(precision)
        left, right = (torch.randn(side, side, device=setting.device, dtype=dtype) for _ in range(2))
        product = torch.empty(side, side, device=setting.device, dtype=dtype)

        def multiply(left: torch.Tensor = left, right: torch.Tensor = right, product: torch.Tensor = product) -> None:
            torch.matmul(left, right, out=product)

        timing = by_turns({name: multiply}, setting.device, rounds=setting.rounds(9), calls=2)
        report.rate(f"matrix product of {side}, {name}", timing[name], 2 * side**3 / 1e12, "TFLOP/s")
    torch.set_float32_matmul_precision("highest")


def launches(setting: Setting, report: Report) -> None:
    one = torch.zeros(1, device=setting.device)
    calls = 20 if setting.small else 1000

    def add() -> None:
        for _ in range(calls):
            one.add_(1)

    add()
    times = [1000 * milliseconds(add, setting.device) / calls for _ in range(setting.rounds(9))]
    report.values("one small operation of torch, called eagerly", times, "us")
    if setting.device.type == "cuda":
        graph, _ = captured(add)
        times = [1000 * milliseconds(graph.replay, setting.device) / calls for _ in range(setting.rounds(9))]
        report.values("the same in a CUDA graph", times, "us")
    else:
        report.note("no CUDA graph without a GPU")
