"""The agent as people start it: ``python -m agent``, its settings, its exit and its pages."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.nvml.standin import Scenario, compiler, h100_node
from tests.support import until

needs_nvml = pytest.mark.skipif(compiler() is None, reason="the NVML stand-in needs a C compiler")
TEMPERATURE = "nvmlDeviceGetTemperatureV"
NO_HARDWARE = (
    *("--nvidia", "false", "--ascend", "false", "--kmsg", "", "--sysfs-root", "/nonexistent"),
    *("--mount-types", "", "--pod-resources", ""),
)

Pages = Callable[[str], Any]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without settings of ours."""
    own = ("FLEETMEDIC_", "NODE_NAME")
    return {k: v for k, v in os.environ.items() if not k.startswith(own)} | dict(more or {})


async def start(
    *arguments: str, env: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(env),
    )


async def agent(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of one run to the end."""
    process = await start(*arguments, env=env)
    try:
        out, err = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Running:
    """``agent run`` with its HTTP page on a port that the kernel chose."""

    def __init__(self, process: asyncio.subprocess.Process, http: aiohttp.ClientSession) -> None:
        self.process = process
        self._http = http
        self._port = 0
        self.log: list[str] = []

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(line.decode())
            if found := re.search(r'"port": (\d+)', self.log[-1]):
                self._port = int(found[1])

    async def page(self, path: str) -> tuple[int, str]:
        await until(lambda: self._port, seconds=20, what=lambda: self.log)
        url = f"http://127.0.0.1:{self._port}{path}"
        async with self._http.get(url, timeout=aiohttp.ClientTimeout(5)) as response:
            return response.status, await response.text()

    async def sources(self) -> dict[str, str]:
        """Source → state, as a scrape shows it."""
        _, text = await self.page("/snapshot")
        return {each["name"]: each["state"] for each in json.loads(text)["snapshot"]["sources"]}

    async def eventually(self, path: str, wanted: Callable[[str], Any]) -> str:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 20
        while True:
            _, text = await self.page(path)
            if wanted(text):
                return text
            assert loop.time() < deadline, text[-3000:]
            await asyncio.sleep(0.02)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 5)


@asynccontextmanager
async def running(*arguments: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    listen = ("--http-listen", "127.0.0.1:0", "--log-format", "json", "--sample-seconds", "0.05")
    process = await start("run", *listen, *arguments, env=env)
    async with aiohttp.ClientSession() as http:
        found = Running(process, http)
        reading = asyncio.create_task(found.read_log())
        try:
            yield found
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading


async def test_a_snapshot_without_any_hardware() -> None:
    status, out, err = await agent("snapshot", *NO_HARDWARE, "--node", "n1")
    assert status == 0, err
    content = json.loads(out)
    assert content["findings"] == []
    shot = content["snapshot"]
    assert (shot["node"], shot["gpus"], shot["rdma_ports"]) == ("n1", [], [])
    assert shot["host"]["memory_total_bytes"] > 0
    states = {source["name"]: source["state"] for source in shot["sources"]}
    assert states == {"host": "ok", "pci": "absent", "rdma": "absent"}


async def test_a_snapshot_with_what_every_machine_is_asked() -> None:
    """No flags at all: whatever this machine has or lacks, there is an answer."""
    status, out, err = await agent("snapshot", env={"NODE_NAME": "from-kubernetes"})
    assert status == 0, err
    content = json.loads(out)["snapshot"]
    assert content["node"] == "from-kubernetes"
    states = {source["name"]: source["state"] for source in content["sources"]}
    everything = {"host", "mounts", "pci", "nvidia", "ascend", "rdma", "kmsg", "pods"}
    assert set(states) == everything
    assert states["host"] == "ok"


async def test_the_node_and_the_state_of_each_source_have_words() -> None:
    _, out, _ = await agent("snapshot", *NO_HARDWARE)
    (rdma,) = [each for each in json.loads(out)["snapshot"]["sources"] if each["name"] == "rdma"]
    assert "no RDMA adapters under /nonexistent" in rdma["reason"]


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("sample_seconds", "0", "allowed: >= 0.05 and <= 60"),
        ("event_buffer", "many", "allowed: >= 10 and <= 100000"),
        ("log_level", "loud", "one of debug, info, warning, error"),
        ("nvidia", "maybe", "expected bool"),
        ("http_listen", "nowhere", "address:port, like 0.0.0.0:9402"),
        ("aggregator", "host:port", "address:port, like 0.0.0.0:9402"),
    ],
)
async def test_a_bad_value_exits_2_and_says_where_it_came_from(
    tmp_path: Path, setting: str, value: str, allowed: str
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(f"{setting}: {value}\n")
    variable, flag = f"FLEETMEDIC_AGENT_{setting.upper()}", f"--{setting.replace('_', '-')}"
    results = await asyncio.gather(
        agent("snapshot", flag, value),
        agent("snapshot", env={variable: value}),
        agent("snapshot", "--config", str(file)),
    )
    for (status, out, err), origin in zip(results, (flag, variable, str(file)), strict=True):
        assert (status, out) == (2, "")
        assert err.count("\n") == 1  # one line, no traceback
        for part in (origin, setting, value.strip("'"), allowed):
            assert part in err


async def test_an_unknown_key_in_the_file_suggests_the_near_name(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("sample_second: 2\n")
    status, _, err = await agent("run", env={"FLEETMEDIC_AGENT_CONFIG": str(file)})
    assert status == 2
    assert "unknown setting 'sample_second'; did you mean 'sample_seconds'?" in err
    assert str(file) in err


async def test_a_command_that_is_none_and_help() -> None:
    (status, _, err), (helped, out, _) = await asyncio.gather(agent("heal"), agent("run", "--help"))
    assert status == 2
    assert "heal" in err
    assert helped == 0
    assert "FLEETMEDIC_AGENT_SAMPLE_SECONDS" in out


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf"])
async def test_a_recording_of_no_length_exits_2(seconds: str) -> None:
    status, out, err = await agent("record", "--seconds", seconds)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    for part in ("--seconds", seconds, "allowed: >= 0 and <= 604800"):
        assert part in err


async def test_metrics_health_and_snapshot_are_served() -> None:
    async with running(*NO_HARDWARE, "--node", "n1") as node:
        # The page answers before the first look is done, and then names no source yet.
        text = await node.eventually("/metrics", lambda text: 'source="host"' in text)
        assert text.endswith("\n")
        assert (await node.page("/healthz"))[0] == 200
        assert await node.sources() == {"host": "ok", "pci": "absent", "rdma": "absent"}
        assert (await node.page("/none"))[0] == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_0_within_seconds(number: signal.Signals) -> None:
    # The aggregator is one that is not there.
    async with running(*NO_HARDWARE, "--aggregator", "127.0.0.1:1") as node:
        await node.page("/healthz")
        assert await node.stop(number) == 0
    assert any("agent stopped" in line for line in node.log)
    assert not any("Traceback" in line for line in node.log)


async def test_a_line_in_the_kernel_log_is_a_finding(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kmsg")
    more = ("--nvidia", "false", "--kmsg", str(tmp_path / "kmsg"))
    async with running(*more) as node:
        await node.page("/healthz")
        line = b"NVRM: Xid (PCI:0000:3b:00): 48, pid=1, DBE\n"
        await asyncio.to_thread((tmp_path / "kmsg").write_bytes, line)
        text = await node.eventually("/snapshot", lambda text: json.loads(text)["findings"])
        (finding,) = json.loads(text)["findings"]
        assert (finding["code"], finding["subject"]) == ("xid-48", "gpu:0000:3b:00.0")
        assert finding["severity"] == "fatal"


async def test_a_port_that_is_taken_ends_it_with_1_and_its_name() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        taken = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        status, _, err = await agent("run", *NO_HARDWARE, "--http-listen", taken)
    assert status == 1
    assert taken.rpartition(":")[2] in err
    assert "Traceback" not in err


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(tmp_path / "scenario").set(gpus=h100_node(busy=True))


@needs_nvml
async def test_a_snapshot_shows_eight_gpus(scenario: Scenario) -> None:
    scenario.update(3, temperature_celsius=95)
    status, out, err = await agent("snapshot", "--hold-seconds", "0", env=scenario.env())
    assert status == 0, err
    content = json.loads(out)
    gpus = content["snapshot"]["gpus"]
    assert [gpu["index"] for gpu in gpus] == list(range(8))
    assert gpus[3]["temperature_celsius"] == 95
    assert [(each["code"], each["subject"]) for each in content["findings"]] == [
        ("gpu-too-hot", f"gpu:{gpus[3]['pci_bus_id']}")
    ]


@needs_nvml
async def test_a_hang_stops_neither_the_metrics_nor_the_other_sources(
    scenario: Scenario, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "kmsg")
    more = ("--kmsg", str(tmp_path / "kmsg"), "--sysfs-root", "/nonexistent", "--hold-seconds", "0")
    async with running(*more, env=scenario.env()) as node:
        await node.eventually("/snapshot", lambda text: len(json.loads(text)["snapshot"]["gpus"]))
        scenario.hang(TEMPERATURE, gpu=2)
        text = await node.eventually("/snapshot", lambda text: "nvidia-stuck" in text)
        before = json.loads(text)["snapshot"]
        line = b"NVRM: Xid (PCI:0000:3b:00): 48, pid=1, DBE\n"
        await asyncio.to_thread((tmp_path / "kmsg").write_bytes, line)
        text = await node.eventually("/snapshot", lambda text: "xid-48" in text)
        await node.eventually(
            "/snapshot",
            lambda text: json.loads(text)["snapshot"]["taken_seconds"] > before["taken_seconds"],
        )
        states = await node.sources()
        assert states.pop("nvidia") == "stuck"
        assert set(states.values()) <= {"ok", "absent"}
        codes = {each["code"]: each for each in json.loads(text)["findings"]}
        assert codes.keys() == {"nvidia-stuck", "xid-48"}  # and no GPU is called lost
        assert TEMPERATURE in codes["nvidia-stuck"]["evidence"]
        status, metrics = await node.page("/metrics")
        assert status == 200
        assert "fleetmedic_" in metrics
        assert (await node.page("/healthz"))[0] == 200
        scenario.unhang()
        await node.eventually("/snapshot", lambda text: json.loads(text)["snapshot"]["gpus"])
        scenario.hang("*")
        assert await node.stop() == 0
