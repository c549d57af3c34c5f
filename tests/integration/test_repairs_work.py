"""What each repair runs and what proves it, and commands that hang, flood, vanish or leave others behind."""

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from agent.repairs import process
from agent.repairs.release import ReleasableSource
from agent.snapshot import Gpu
from agent.snapshot.pods import PodDevices
from agent.sources import Reading, SourceFailingError
from contract.vocabulary import OutcomeState, SourceState
from tests.repairs import GPU, Bench, script
from tests.support import gpu, snapshot, source, until


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class Nvidia:
    """A driver's client: while it is open, no GPU is reset."""

    name = "nvidia"

    def __init__(self, expected: tuple[Gpu, ...], told: list[str]) -> None:
        self._told = told
        told.append(f"opened with {len(expected)}")

    async def read(self) -> Reading:
        return Reading(gpus=(gpu(0), gpu(1)))

    async def close(self) -> None:
        self._told.append("closed")


def releasable(told: list[str]) -> ReleasableSource:
    return ReleasableSource(lambda gpus: Nvidia(tuple(gpus), told))


class TestReset:
    async def test_the_driver_is_let_go_of_while_it_runs_and_opened_again(
        self, bench: Bench
    ) -> None:
        told: list[str] = []
        bench.nvidia = releasable(told)
        await bench.nvidia.read()
        bench.settings["evidence_limit_seconds"] = 10.0
        async with bench.running() as repairs:
            repairs.take(bench.signed(kind="reset-device"))
            await until(lambda: "opened with 2" in told)
            assert bench.runs() == ["reset 0000:1b:00.0"]
            bench.came(energy_joules_total=9_001.0)  # a reading from before, which was late
            await asyncio.sleep(0)
            running = bench.outcome()
            assert running is not None
            assert running.state is OutcomeState.RUNNING
            bench.came(energy_joules_total=3.0)
            outcome = await bench.over()
        assert outcome.state is OutcomeState.DONE
        assert outcome.evidence == f"{GPU} answers, and its counters started again"
        assert told == ["opened with 0", "closed", "opened with 2"]
        (event,) = bench.events
        assert (event.kind, event.subject, event.time_seconds) == ("reset", GPU, bench.now)

    async def test_a_command_that_succeeds_proves_nothing_and_ends_no_finding(
        self, bench: Bench
    ) -> None:
        bench.nvidia = releasable([])
        async with bench.running():
            outcome = await bench.done(kind="reset-device")
        assert outcome.state is OutcomeState.FAILED
        assert outcome.evidence == "the command succeeded, but no snapshot since"
        assert bench.events == []

    async def test_a_command_that_fails_opens_the_driver_again(self, bench: Bench) -> None:
        told: list[str] = []
        bench.nvidia = releasable(told)
        busy = script(bench.folder / "busy", "print('GPU is in use by another client'); exit(19)")
        async with bench.running(reset_command=f"{busy} {{device}}"):
            outcome = await bench.done(kind="reset-device")
        assert outcome.state is OutcomeState.FAILED
        assert outcome.evidence == f"reset of {GPU}: it ended with status 19"
        assert outcome.output == "GPU is in use by another client"
        assert told == ["opened with 0", "closed", "opened with 0"]

    async def test_a_pod_that_came_meanwhile_is_not_reset_under(self, bench: Bench) -> None:
        """Between the decision and the command stands a write to the disk."""

        class Slow(Nvidia):
            async def close(self) -> None:
                bench.came(process_count=1)

        bench.nvidia = ReleasableSource(lambda gpus: Slow(tuple(gpus), []))
        async with bench.running():
            outcome = await bench.done(kind="reset-device")
        assert (outcome.state, outcome.evidence) == (
            OutcomeState.REFUSED,
            f"1 processes use {GPU}",
        )
        assert bench.runs() == []

    async def test_an_agent_that_does_not_read_them_resets_none(self, bench: Bench) -> None:
        async with bench.running():
            outcome = await bench.done(kind="reset-device")
        assert outcome.state is OutcomeState.REFUSED
        assert bench.runs() == []

    async def test_who_reads_meanwhile_is_told_why_there_is_nothing(self) -> None:
        source = releasable([])
        async with source.released("gpu:x is reset"):
            with pytest.raises(SourceFailingError, match="let go of while gpu:x is reset"):
                await source.read()
        assert len((await source.read()).gpus) == 2
        await source.close()


class Hurried(Nvidia):
    """While it is let go of, a pod comes; the tick that sees it knows no GPU any more."""

    bench: Bench

    async def close(self) -> None:
        came = PodDevices(
            namespace="ml", pod="late", resource="nvidia.com/gpu", device_ids=("GPU-0",)
        )
        self.bench.snapshot = snapshot(
            sources=(source("nvidia", SourceState.FAILING), source("pods")), gpus=(), pods=(came,)
        )
        await super().close()


async def test_a_pod_that_comes_while_the_driver_is_let_go_of_is_not_reset_under(
    bench: Bench,
) -> None:
    Hurried.bench = bench
    bench.nvidia = ReleasableSource(lambda gpus: Hurried(tuple(gpus), []))
    async with bench.running():
        outcome = await bench.done(kind="reset-device")
    assert outcome.state is OutcomeState.REFUSED
    assert "is held by ml/late" in outcome.evidence
    assert bench.runs() == []


class Service:
    """What systemd would tell of one service, in a file."""

    def __init__(self, folder: Path, *, after: str) -> None:
        self.state = folder / "unit"
        self.state.write_text("ActiveState=failed\nMainPID=0\nInvocationID=\n")
        self.probe = script(
            folder / "probe",
            f"import sys; assert sys.argv[1] == 'fabric.service'; print(open({str(self.state)!r}).read())",
        )
        self.restart = script(
            folder / "restart", f"open({str(self.state)!r}, 'w').write({after!r})"
        )

    def settings(self) -> dict[str, str]:
        return {
            "service_probe_command": f"{self.probe} {{unit}}",
            "restart_command": f"{self.restart} {{unit}}",
        }


class TestRestart:
    async def test_a_service_that_is_active_and_was_started_anew(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        after = "ActiveState=active\nMainPID=7\nInvocationID=abc\n"
        service = Service(tmp_path, after=after)
        async with bench.running(**service.settings()):
            outcome = await bench.done(kind="restart-service")
            assert (outcome.state, outcome.evidence) == (
                OutcomeState.DONE,
                "fabric.service is active, and was started anew",
            )
            again = await bench.done("i-2", kind="restart-service")
        assert again.state is OutcomeState.FAILED, "the same process as before is no restart"
        assert "it is the same as before the restart" in again.evidence

    async def test_one_that_does_not_come_up(self, bench: Bench, tmp_path: Path) -> None:
        service = Service(tmp_path, after="ActiveState=activating\nMainPID=8\n")
        async with bench.running(**service.settings()):
            outcome = await bench.done(kind="restart-service")
        assert outcome.state is OutcomeState.FAILED
        assert outcome.evidence == ("the command succeeded, but fabric.service: it is activating")

    async def test_one_that_cannot_be_looked_at_is_left_alone(self, bench: Bench) -> None:
        async with bench.running():  # whose probe prints nothing
            outcome = await bench.done(kind="restart-service")
        assert outcome.state is OutcomeState.REFUSED
        assert "no ActiveState in what the probe prints" in outcome.evidence
        assert bench.runs() == ["probe fabric.service"]


class TestReboot:
    async def test_a_reboot_that_does_not_come_has_failed(self, bench: Bench) -> None:
        async with bench.running(reboot_limit_seconds=0.3):
            outcome = await bench.done(kind="reboot-node")
        assert outcome.state is OutcomeState.FAILED
        assert outcome.evidence == "no reboot within 0.3 s: the boot id is still b1"

    async def test_a_reboot_that_is_refused_has_failed_at_once(self, bench: Bench) -> None:
        async with bench.running(reboot_command="/nonexistent/systemctl reboot"):
            outcome = await bench.done(kind="reboot-node")
        assert outcome.state is OutcomeState.FAILED
        assert outcome.evidence == (
            "reboot: /nonexistent/systemctl cannot be started: No such file or directory"
        )


class TestDiagnose:
    async def test_its_last_words_are_the_evidence(self, bench: Bench) -> None:
        words = "import os, sys\nfor n in range(9): print('round', n)\nprint(os.environ['FLEETMEDIC_SUBJECT'])\n"
        burn = script(bench.folder / "burn", words + "sys.exit(int(sys.argv[1]))")
        async with bench.running(diagnostic_command=f"{burn} 0"):
            good = await bench.done()
            whole = await bench.done("i-2", subject="")
        assert (good.state, good.evidence) == (
            OutcomeState.DONE,
            f"diagnostic of {GPU} passed: round 7 / round 8 / {GPU}",
        )
        assert good.output.splitlines()[0] == "round 0"
        assert whole.evidence == "diagnostic of node passed: round 7 / round 8 / node"
        async with bench.running(diagnostic_command=f"{burn} 3"):
            bad = await bench.done("i-3")
        assert bad.state is OutcomeState.FAILED
        assert bad.evidence.startswith(f"diagnostic of {GPU}: it ended with status 3: round 7")

    async def test_one_that_hangs_is_killed_with_all_its_children(self, bench: Bench) -> None:
        pids = bench.folder / "pids"
        hang = script(
            bench.folder / "hang",
            "import os, signal, subprocess, sys, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            f"print(os.getpid(), child.pid, file=open({str(pids)!r}, 'w'))\n"
            "print('waiting', flush=True)\ntime.sleep(600)",
        )
        async with bench.running(diagnostic_command=hang, diagnostic_limit_seconds=1.0):
            outcome = await bench.done()
        assert outcome.state is OutcomeState.FAILED
        assert "it ran longer than 1 s and was killed: waiting" in outcome.evidence
        own = [int(pid) for pid in pids.read_text().split()]
        await until(lambda: not any(alive(pid) for pid in own))


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


class TestCommands:
    async def test_of_a_flood_the_end_is_kept_and_the_loop_goes_on(self) -> None:
        loop = asyncio.get_running_loop()
        turns = 0

        async def beat() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        beating = loop.create_task(beat())
        flood = python(
            "import os\nfor _ in range(64): os.write(1, b'x' * 65536)\nos.write(2, b'\\n\\x1b[1mend\\0\\xff\\n')"
        )
        done = await process.run(flood, limit_seconds=30)
        beating.cancel()
        assert (done.status, done.problem) == (0, "")
        assert done.output.endswith("x\n[1mend\ufffd")
        assert len(done.output) <= process.MAX_OUTPUT_BYTES
        assert turns > 3

    async def test_an_endless_flood_ends_at_its_limit(self) -> None:
        done = await process.run(
            python("import os\nwhile True: os.write(1, b'y\\n' * 4096)"), limit_seconds=0.5
        )
        assert done.problem == "it ran longer than 0.5 s and was killed"
        assert set(done.output.split()) == {"y"}

    async def test_a_child_that_is_left_on_purpose_holds_nobody_up(self) -> None:
        leave = python(
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            "print(child.pid)"
        )
        done = await process.run(leave, limit_seconds=30)
        pid = int(done.output)
        assert (done.status, alive(pid)) == (0, True)
        psutil.Process(pid).kill()

    async def test_how_it_ended_is_told(self) -> None:
        killed = await process.run(python("import os; os.kill(os.getpid(), 11)"), limit_seconds=30)
        assert killed.problem == "it was ended by SIGSEGV"
        absent = await process.run(("/nonexistent/tool",), limit_seconds=30)
        assert absent.problem == "/nonexistent/tool cannot be started: No such file or directory"
        assert absent.status is None

    async def test_it_cannot_read_what_is_typed_and_no_file_is_left_open(self) -> None:
        before = psutil.Process().num_fds()
        for _ in range(20):
            done = await process.run(("cat",), limit_seconds=30)
            assert (done.status, done.output) == (0, "")
        await asyncio.sleep(0)
        assert psutil.Process().num_fds() <= before + 1

    async def test_cancelling_ends_it(self, tmp_path: Path) -> None:
        sleep = python(f"open({str(tmp_path / 'up')!r}, 'w'); import time; time.sleep(600)")
        task = asyncio.create_task(process.run(sleep, limit_seconds=600))
        await until((tmp_path / "up").exists)
        (child,) = (
            each
            for each in psutil.Process().children()
            if str(tmp_path / "up") in " ".join(each.cmdline())
        )
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not alive(child.pid)
