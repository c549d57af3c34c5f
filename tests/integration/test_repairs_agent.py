"""The whole agent as people start it, told what to do over a real stream: a GPU behind the NVML stand-in, real restarts."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contract import report_pb2 as pb
from contract.codec import outcome_from_wire
from contract.signing import generate, load_signer
from contract.vocabulary import Directive, DirectiveOutcome, OutcomeState
from tests.integration.test_agent_cli import NO_HARDWARE, agent, environment, needs_nvml, running
from tests.nvml.standin import Rising, Scenario, h100_node
from tests.repairs import script
from tests.stream import ack, scripted
from tests.support import until

Fields = Callable[[pb.NodeReport], dict[str, Any]]


class Aggregator:
    """Acknowledges everything, and answers each report with one directive until it is told an outcome."""

    def __init__(self, folder: Path) -> None:
        private, self.public = generate(folder / "keys")
        self._signer = load_signer(private)
        self.reports: list[pb.NodeReport] = []
        self.order: Fields | None = None
        self.port = 0

    async def answer(self, report: pb.NodeReport, context: Any) -> None:
        self.reports.append(report)
        await context.write(ack(report))
        if self.order is None or (fields := self.order(report)) == {}:
            return
        now = time.time()
        usual = {
            "node": "n1",
            "boot_id": report.boot_id,
            "issued_seconds": now,
            "expires_seconds": now + 60,
        }
        signed = self._signer.sign(Directive(**{**usual, **fields}))
        await context.write(pb.Downstream(directive=signed).SerializeToString())

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async with scripted(self.answer) as self.port:
            yield

    def outcome(self, id_: str) -> DirectiveOutcome | None:
        """As the newest report tells it."""
        told = self.reports[-1].outcomes if self.reports else ()
        found = next((each for each in told if each.id == id_), None)
        return outcome_from_wire(found) if found else None

    async def over(self, id_: str) -> DirectiveOutcome:
        def known() -> DirectiveOutcome | None:
            found = self.outcome(id_)
            return found if found and found.state is not OutcomeState.RUNNING else None

        found = await until(known, seconds=30, what=lambda: str(self.reports[-1:])[-2000:])
        assert isinstance(found, DirectiveOutcome)
        return found


@pytest.fixture
def aggregator(tmp_path: Path) -> Aggregator:
    return Aggregator(tmp_path)


def flags(aggregator: Aggregator, folder: Path) -> tuple[str, ...]:
    return (
        *("--node", "n1", "--aggregator", f"127.0.0.1:{aggregator.port}"),
        *("--directive-public-key-file", str(aggregator.public)),
        *("--state-dir", str(folder / "state"), "--report-seconds", "0.2"),
    )


@needs_nvml
@pytest.mark.timeout(60)
async def test_a_gpu_is_reset_while_nobody_holds_it_and_its_counters_prove_it(
    tmp_path: Path, aggregator: Aggregator
) -> None:
    scenario = Scenario(tmp_path / "scenario").set(gpus=h100_node())
    scenario.update(2, energy_millijoules=Rising(50, 100))
    after = (tmp_path / "scenario").read_bytes()
    (tmp_path / "after").write_bytes(after)
    scenario.update(2, energy_millijoules=Rising(8_640_000_000, 71_300))
    subject = ""
    reset = script(
        tmp_path / "reset",
        "import os, psutil, sys\n"
        "agent = psutil.Process(os.getppid())\n"
        "if any('nvml_child' in ' '.join(each.cmdline()) for each in agent.children()):\n"
        "    sys.exit('the device is in use by another client')\n"
        f"os.replace({str(tmp_path / 'after')!r}, {str(scenario.path)!r})\n"
        "print('reset', sys.argv[1])",
    )

    def order(report: pb.NodeReport) -> dict[str, Any]:
        nonlocal subject
        if len(report.gpus) < 8 or "reset-device" not in report.repairs:
            return {}
        subject = f"gpu:{report.gpus[2].pci_bus_id}"
        return {"id": "n1-7-1", "kind": "reset-device", "subject": subject, "code": "xid-48"}

    aggregator.order = order
    async with aggregator.listening():
        allow = ("--allow-repairs", "reset-device", "--reset-command", f"{reset} {{device}}")
        quiet = [*NO_HARDWARE[2:], "--nvidia", "true"]
        async with running(
            *flags(aggregator, tmp_path), *quiet, *allow, env=scenario.env()
        ) as started:
            outcome = await aggregator.over("n1-7-1")
            assert outcome.state is OutcomeState.DONE, outcome
            assert outcome.evidence == f"{subject} answers, and its counters started again"
            assert outcome.output == f"reset {subject.removeprefix('gpu:')}"
            told = [each for each in aggregator.reports if each.outcomes]
            assert told[0].urgent, "that it began did not wait for the rhythm"
            assert len(told[-1].gpus) == 8, "and it is read as before"
            again = len(aggregator.reports) + 5
            await until(lambda: len(aggregator.reports) >= again)
            wanted = 'kind="reset-device",node="n1",state="done"} 1.0'
            await started.eventually("/metrics", lambda text: wanted in text)
            assert await started.stop() == 0
    starts = [line for line in started.log if "directive running" in line]
    assert len(starts) == 1, "however often it was sent"
    assert b"PRIVATE" not in "".join(started.log).encode()


@pytest.mark.timeout(60)
async def test_an_agent_killed_in_the_middle_says_so_and_does_not_begin_again(
    tmp_path: Path, aggregator: Aggregator
) -> None:
    pid_file = tmp_path / "pid"
    endless = script(
        tmp_path / "endless",
        "import os, time\n"
        f"with open({str(pid_file)!r}, 'a') as file: file.write(f'{{os.getpid()}}\\n')\n"
        "time.sleep(600)",
    )
    aggregator.order = lambda report: {"id": "n1-7-2", "kind": "diagnose"}
    async with aggregator.listening():
        given = (*flags(aggregator, tmp_path), *NO_HARDWARE, "--diagnostic-command", endless)
        async with running(*given) as first:
            await until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
            await until(lambda: aggregator.outcome("n1-7-2"))
            await first.stop(signal.SIGKILL)
        os.kill(int(pid_file.read_text()), signal.SIGKILL)  # nobody is left to do it
        async with running(*given) as second:
            outcome = await aggregator.over("n1-7-2")
            await second.stop()
    assert outcome.state is OutcomeState.FAILED
    assert "the agent restarted in the middle" in outcome.evidence
    assert len(pid_file.read_text().splitlines()) == 1


async def test_without_a_key_nobody_is_believed(tmp_path: Path, aggregator: Aggregator) -> None:
    aggregator.order = lambda report: {"id": "n1-7-3", "kind": "clear", "subject": "host"}
    async with aggregator.listening():
        given = ("--node", "n1", "--aggregator", f"127.0.0.1:{aggregator.port}", *NO_HARDWARE)
        async with running(*given, "--report-seconds", "0.2") as started:
            refused = 'fleetmedic_agent_directives_refused_total{node="n1"} 3.0'
            await started.eventually("/metrics", lambda text: refused in text)
            await started.stop()
    assert not aggregator.reports[-1].outcomes
    assert sum("no directive_public_key_file is set" in line for line in started.log) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--allow-repairs", "reboot-node"), "reboot-node needs directive_public_key_file"),
        (("--diagnostic-command", "burn"), "diagnose needs directive_public_key_file"),
        (("--directive-public-key-file", "/nowhere"), "/nowhere cannot be read"),
    ],
)
async def test_a_mistake_in_the_settings_is_told_at_once(more: tuple[str, ...], words: str) -> None:
    status, out, err = await agent("run", *NO_HARDWARE, *more)
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


async def test_an_agent_without_a_key_loads_nothing_for_repairs() -> None:
    code = (
        "import sys, agent.commands; from agent.config import AgentSettings;"
        "from agent.assembly import real_agent;"
        "real_agent(AgentSettings(), 'n1', random=lambda: 0.5, takes_directives=True);"
        "print([name for name in sys.modules if 'cryptography' in name or 'repairs' in name])"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE, env=environment()
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"
