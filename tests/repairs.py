"""A node that takes directives, over real commands and a real folder: what is fake here is the agent around it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.checks.gpu_resets import Counters
from agent.config import AgentSettings
from agent.repairs.assembly import build
from agent.repairs.desk import Repairs
from agent.repairs.release import ReleasableSource
from agent.snapshot import Snapshot
from agent.stats import AgentStats
from contract import report_pb2 as pb
from contract.signing import Signer, generate, load_signer
from contract.vocabulary import Directive, DirectiveOutcome, Event, OutcomeState
from tests.support import START, gpu, snapshot, source, until

GPU = gpu().subject


def script(path: Path, body: str) -> str:
    """A Python program at ``path``, as one word of a command."""
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return str(path)


class Bench:
    """One node over its life: the key, the folder and the clock outlive each agent on it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        private, public = generate(folder / "keys")
        self.signer: Signer = load_signer(private)
        self.ran = folder / "ran"
        """A line for each start of a command."""
        note = script(
            folder / "note",
            f"import sys; open({str(self.ran)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')",
        )
        usual = {
            "directive_public_key_file": str(public),
            "state_dir": str(folder / "state"),
            "allow_repairs": "reset-device,restart-service,reboot-node",
            "restart_services": "gpu-fabric*=fabric.service",
            "reset_command": f"{note} reset {{device}}",
            "restart_command": f"{note} restart {{unit}}",
            "service_probe_command": f"{note} probe {{unit}}",
            "reboot_command": f"{note} reboot",
            "diagnostic_command": f"{note} diagnose {{subject}}",
            "evidence_limit_seconds": 0.2,
        }
        self.settings = {**usual, **settings}
        self.note = note
        self.now = START
        self.boot_id = "b1"
        self.node = "n1"
        self.snapshot: Snapshot = snapshot(
            sources=(source("nvidia"), source("pods")), gpus=(gpu(process_count=0),)
        )
        self.gpu_counters: Counters = {GPU: (9_000.0, 0.0)}
        self.events: list[Event] = []
        self.told = 0
        self.stats = AgentStats()
        self.repairs: Repairs | None = None
        self.nvidia: ReleasableSource | None = None
        self._came = asyncio.Event()

    # What repairs see of an agent.

    async def next_snapshot(self) -> Snapshot:
        await self._came.wait()
        return self.snapshot

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def outcomes_changed(self) -> None:
        self.told += 1

    # What tests do.

    def came(self, **gpu_fields: Any) -> None:
        """A tick ended that read this of the GPU."""
        self.snapshot = snapshot(
            sources=(source("nvidia"), source("pods")),
            gpus=(gpu(**{"process_count": 0, **gpu_fields}),),
        )
        came, self._came = self._came, asyncio.Event()
        came.set()

    @asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[Repairs]:
        """An agent's repairs from start to end; ``settings`` are over the bench's own."""
        repairs = build(
            AgentSettings(**{**self.settings, **settings}),
            node=self.node,
            boot_id=self.boot_id,
            surroundings=self,
            nvidia=self.nvidia,
            stats=self.stats,
            clock=lambda: self.now,
        )
        assert repairs is not None
        self.repairs = repairs
        task = asyncio.create_task(repairs.run())
        try:
            yield repairs
            assert not task.done(), "repairs ended by themselves"
        finally:
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(ended, asyncio.CancelledError), ended

    def directive(self, id_: str = "i-1", kind: str = "diagnose", **fields: Any) -> Directive:
        usual = {
            "node": "n1",
            "subject": "" if kind == "reboot-node" else GPU,
            "code": "gpu-fabric-down" if kind == "restart-service" else "xid-48",
            "issued_seconds": self.now,
            "expires_seconds": self.now + 120,
        }
        return Directive(**{"id": id_, "kind": kind, **usual, **fields})

    def signed(self, *words: Any, **fields: Any) -> pb.SignedDirective:
        return self.signer.sign(self.directive(*words, **fields))

    def outcome(self, id_: str = "i-1") -> DirectiveOutcome | None:
        assert self.repairs is not None
        return next((each for each in self.repairs.outcomes if each.id == id_), None)

    async def over(self, id_: str = "i-1") -> DirectiveOutcome:
        """Its outcome, once there is one."""

        def known() -> DirectiveOutcome | None:
            found = self.outcome(id_)
            return found if found and found.state is not OutcomeState.RUNNING else None

        found = await until(known, what=lambda: self.outcome(id_))
        assert isinstance(found, DirectiveOutcome)
        return found

    async def done(self, *words: Any, **fields: Any) -> DirectiveOutcome:
        """Send one directive and wait for its outcome."""
        assert self.repairs is not None
        directive = self.directive(*words, **fields)
        self.repairs.take(self.signer.sign(directive))
        return await self.over(directive.id)

    def runs(self) -> list[str]:
        """What the note-taking commands were started with."""
        return self.ran.read_text().splitlines() if self.ran.exists() else []
