"""What an agent costs its node: CPU share of one core and resident memory, children included.

8 GPUs through the real pynvml over the stand-in library, 8 RDMA ports in a sysfs tree, one sample a second, a report
to a real intake every five. The floor is the least a Python program with the same libraries could do: one process with gRPC and aiohttp loaded that
sleeps, and one that asks NVML for five values of each GPU once a second.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from aggregator.intake import Intake, IntakeServer, trust_claim
from aggregator.stats import AggregatorStats
from bench.figures import report
from tests.nvml.standin import Scenario, h100_node

MIB = 1 << 20

FLOOR_PARENT = "import asyncio, grpc.aio, aiohttp.web; asyncio.run(asyncio.Event().wait())"
FLOOR_CHILD = """
import time, pynvml as n
n.nvmlInit()
handles = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
while True:
    for h in handles:
        n.nvmlDeviceGetTemperature(h, 0); n.nvmlDeviceGetPowerUsage(h)
        n.nvmlDeviceGetUtilizationRates(h); n.nvmlDeviceGetMemoryInfo(h)
        n.nvmlDeviceGetComputeRunningProcesses(h)
    time.sleep(1)
"""


def write_sysfs(root: Path, ports: int = 8) -> None:
    """An InfiniBand tree as the kernel shows it."""
    for number in range(ports):
        port = root / "class" / "infiniband" / f"mlx5_{number}" / "ports" / "1"
        (port / "counters").mkdir(parents=True)
        for name, text in {
            "state": "4: ACTIVE",
            "phys_state": "5: LinkUp",
            "rate": "400 Gb/sec (4X NDR)",
            "link_layer": "InfiniBand",
            "counters/link_downed": "0",
            "counters/port_rcv_data": "123456789",
            "counters/port_xmit_data": "987654321",
        }.items():
            (port / name).write_text(text + "\n")


def usage(process: psutil.Process) -> tuple[float, float]:
    """(CPU seconds so far, resident bytes now) of a process and all its children."""
    family = [process, *process.children(recursive=True)]
    seconds = sum(sum(each.cpu_times()[:2]) for each in family)
    return seconds, sum(each.memory_info().rss for each in family)


async def main(seconds: float = 60.0) -> dict[str, bool]:
    """Measure for this long, print, and say which aims were met."""
    intake = Intake(
        accept=lambda message: None,
        gone=lambda node: None,
        knows=lambda node: True,
        authenticate=trust_claim,
        stats=AggregatorStats(),
    )
    with tempfile.TemporaryDirectory() as name:
        async with IntakeServer(intake, "127.0.0.1:0") as server:
            return await _run(Path(name), seconds, server.port)


async def _run(folder: Path, seconds: float, grpc_port: int) -> dict[str, bool]:
    write_sysfs(folder / "sys")
    os.mkfifo(folder / "kmsg")
    nvml = Scenario(folder / "nvml.scenario").set(gpus=h100_node(8, busy=True))
    environment = {**os.environ, **nvml.env(check_milliseconds=20)}
    commands = [
        [
            *("-m", "agent", "run", "--node", "bench", "--log-level", "error"),
            *("--http-listen", "127.0.0.1:0", "--kmsg", str(folder / "kmsg")),
            *("--sysfs-root", str(folder / "sys"), "--aggregator", f"127.0.0.1:{grpc_port}"),
        ],
        ["-c", FLOOR_PARENT],
        ["-c", FLOOR_CHILD],
    ]
    children = [
        await asyncio.create_subprocess_exec(sys.executable, *command, env=environment)
        for command in commands
    ]
    try:
        return await _measure([psutil.Process(each.pid) for each in children], seconds)
    finally:
        for child in children:
            child.terminate()
        await asyncio.gather(*(child.wait() for child in children))


async def _measure(processes: list[psutil.Process], seconds: float) -> dict[str, bool]:
    await asyncio.sleep(min(10.0, seconds / 4))  # start-up is not the steady state
    before, started = [usage(each) for each in processes], time.monotonic()
    while (left := seconds - (time.monotonic() - started)) > 0:
        await asyncio.sleep(min(30.0, left))
        print(f"  agent cost: {time.monotonic() - started:.0f} of {seconds:.0f} s", file=sys.stderr)
    elapsed, after = time.monotonic() - started, [usage(each) for each in processes]
    cpu = [(b[0] - a[0]) / elapsed * 100 for a, b in zip(before, after, strict=True)]
    memory = [each[1] / MIB for each in after]
    floor_cpu, floor_memory = cpu[1] + cpu[2], memory[1] + memory[2]
    return report(
        "agent-cost",
        text=f"{cpu[0]:.2f} % of one core and {memory[0]:.1f} MiB resident after {elapsed:.0f} s of samples; "
        f"floor {floor_cpu:.2f} % and {floor_memory:.1f} MiB",
        ratio=memory[0] / floor_memory,
        aims={"under 2 % of one core": cpu[0] < 2, "under 80 MiB": memory[0] < 80},
        cpu_percent=round(cpu[0], 3),
        resident_mib=round(memory[0], 1),
        resident_mib_at_start=round(before[0][1] / MIB, 1),
        floor_cpu_percent=round(floor_cpu, 3),
        floor_resident_mib=round(floor_memory, 1),
        cpu_ratio=round(cpu[0] / max(floor_cpu, 0.001), 2),
        seconds=round(elapsed),
    )


if __name__ == "__main__":
    asyncio.run(main())
