"""Each kind of repair: what is run, and what proves that it helped. No proof, no success."""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import Protocol

import msgspec

from agent.checks import gpu_resets
from agent.checks.gpu_resets import Counters
from agent.faults import device_of
from agent.repairs import book, process
from agent.repairs.admission import in_use, pci_bus_id
from agent.repairs.release import ReleasableSource
from agent.repairs.rules import WHOLE_NODE, Rules
from agent.snapshot import Gpu, Snapshot
from contract.vocabulary import Directive, DirectiveKind, Event, OutcomeState, SourceState

PROBE_LIMIT_SECONDS = 10.0
BETWEEN_PROBES_SECONDS = 0.5
ACTIVE_STATE = "ActiveState"


class Surroundings(Protocol):
    """What a repair sees of the agent that it is part of."""

    @property
    def snapshot(self) -> Snapshot:
        """The newest one."""

    @property
    def gpu_counters(self) -> Counters:
        """What each GPU's counters were when last read."""

    async def next_snapshot(self) -> Snapshot:
        """The first one that is finished from now on."""

    def emit(self, event: Event) -> None:
        """Hand an event over to be judged."""

    def outcomes_changed(self) -> None:
        """Tell the aggregator at once."""


class Result(msgspec.Struct, frozen=True):
    """How one repair ended."""

    state: OutcomeState
    evidence: str
    output: str = ""


class Worker:
    """Carries out one directive that was let in.

    Args:
        rules: this node's own.
        surroundings: the agent.
        nvidia: who holds the GPUs open; ``None``: nobody here.
        boot_id: of this boot.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        surroundings: Surroundings,
        nvidia: ReleasableSource | None,
        boot_id: str,
    ) -> None:
        self._rules = rules
        self._agent = surroundings
        self._nvidia = nvidia
        self._boot_id = boot_id

    async def carry_out(self, directive: Directive) -> Result:
        """Do it; only cancelling ends it early."""
        match directive.kind:
            case DirectiveKind.RESET_DEVICE:
                return await self._reset(directive)
            case DirectiveKind.RESTART_SERVICE:
                return await self._restart(directive)
            case DirectiveKind.REBOOT_NODE:
                return await self._reboot()
            case DirectiveKind.DIAGNOSE:
                return await self._diagnose(directive)
        return Result(OutcomeState.REFUSED, f"{directive.kind!r} is nothing that this agent can do")

    async def _reset(self, directive: Directive) -> Result:
        device = device_of(directive.subject)
        if self._nvidia is None:
            return Result(OutcomeState.REFUSED, "this agent does not read NVIDIA GPUs")
        words = self._rules.reset.with_values(device=pci_bus_id(device))
        known = self._agent.snapshot.gpus
        async with self._nvidia.released(f"{device} is reset"):
            # Saving the directive and letting go took a moment, in which a pod may have come. A tick meanwhile knows
            # no GPUs; what the kubelet calls them is known from before.
            now = self._agent.snapshot
            now = now if now.gpus else msgspec.structs.replace(now, gpus=known)
            gpu = _gpu(now, device)
            if gpu is not None and (why := in_use(gpu, now)):
                return Result(OutcomeState.REFUSED, why)
            before = dict(self._agent.gpu_counters)
            done = await process.run(words, limit_seconds=self._rules.reset_limit_seconds)
        if done.problem:
            return Result(OutcomeState.FAILED, f"reset of {device}: {done.problem}", done.output)
        missing = "no snapshot since"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rules.evidence_limit_seconds):
                while missing:
                    missing = not_reset(await self._agent.next_snapshot(), device, before)
        if missing:
            return Result(OutcomeState.FAILED, f"the command succeeded, but {missing}", done.output)
        return Result(
            OutcomeState.DONE, f"{device} answers, and its counters started again", done.output
        )

    async def _restart(self, directive: Directive) -> Result:
        unit = self._rules.unit_for(directive.code)
        before, why = await self._probe(unit)
        if why:
            return Result(OutcomeState.REFUSED, f"{unit} cannot be looked at: {why}")
        done = await process.run(
            self._rules.restart.with_values(unit=unit),
            limit_seconds=self._rules.restart_limit_seconds,
        )
        if done.problem:
            return Result(OutcomeState.FAILED, f"restart of {unit}: {done.problem}", done.output)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._rules.evidence_limit_seconds
        while True:
            after, why = await self._probe(unit)
            missing = why or _not_restarted(before, after)
            if not missing or loop.time() >= until:
                break
            await asyncio.sleep(min(BETWEEN_PROBES_SECONDS, max(0.0, until - loop.time())))
        if missing:
            return Result(
                OutcomeState.FAILED, f"the command succeeded, but {unit}: {missing}", done.output
            )
        return Result(OutcomeState.DONE, f"{unit} is active, and was started anew", done.output)

    async def _probe(self, unit: str) -> tuple[dict[str, str], str]:
        """What is told of a service, or why nothing is."""
        done = await process.run(
            self._rules.probe.with_values(unit=unit),
            limit_seconds=PROBE_LIMIT_SECONDS,
        )
        if done.problem:
            return {}, done.problem
        pairs = (line.partition("=") for line in done.output.splitlines())
        told = {name.strip(): value.strip() for name, _, value in pairs if value.strip()}
        return told, "" if ACTIVE_STATE in told else f"no {ACTIVE_STATE} in what the probe prints"

    async def _reboot(self) -> Result:
        limit = self._rules.reboot_limit_seconds
        began = asyncio.get_running_loop().time()
        done = await process.run(self._rules.reboot.with_values(), limit_seconds=limit)
        if done.problem:
            return Result(OutcomeState.FAILED, f"reboot: {done.problem}", done.output)
        left = limit - (asyncio.get_running_loop().time() - began)
        return msgspec.structs.replace(await self.await_reboot(left), output=done.output)

    async def await_reboot(self, seconds: float) -> Result:
        """Whoever is still here after this time saw no reboot."""
        await asyncio.sleep(max(0.0, seconds))
        limit = self._rules.reboot_limit_seconds
        return Result(OutcomeState.FAILED, book.no_reboot(limit, self._boot_id))

    async def _diagnose(self, directive: Directive) -> Result:
        command = self._rules.diagnostic
        if command is None:
            return Result(OutcomeState.REFUSED, "this agent has no diagnostic_command")
        subject = directive.subject or WHOLE_NODE
        done = await process.run(
            command.with_values(subject=subject),
            limit_seconds=self._rules.diagnostic_limit_seconds,
            environment=_with_subject(os.environ, subject),
        )
        said = " / ".join(done.output.splitlines()[-3:])
        if done.problem:
            evidence = f"diagnostic of {subject}: {done.problem}" + (f": {said}" if said else "")
            return Result(OutcomeState.FAILED, evidence, done.output)
        return Result(
            OutcomeState.DONE,
            f"diagnostic of {subject} passed" + (f": {said}" if said else ""),
            done.output,
        )


def _with_subject(environment: Mapping[str, str], subject: str) -> dict[str, str]:
    return {**environment, "FLEETMEDIC_SUBJECT": subject}


def not_reset(snapshot: Snapshot, device: str, before: Counters) -> str:
    """What is missing for this device to be known as reset; empty: it was, and answers.

    Args:
        snapshot: from after the reset.
        device: subject of the GPU.
        before: its counters from before.
    """
    source = snapshot.source("nvidia")
    if source is None or source.state is not SourceState.OK:
        return f"the driver does not answer: {source.reason if source else 'it is not read'}"
    gpu = _gpu(snapshot, device)
    if gpu is None or gpu.lost:
        return f"{device} is not there any more"
    if gpu.reset_required:
        return f"{device} still asks for a reset"
    if before.get(device, (None, None)) == (None, None):
        return f"none of {device}'s counters was ever read, so nothing proves that it was reset"
    restarted, _ = gpu_resets.seen([gpu], before)
    return "" if device in restarted else f"{device}'s counters went on as before"


def _gpu(snapshot: Snapshot, device: str) -> Gpu | None:
    return next((each for each in snapshot.gpus if each.subject == device), None)


def _not_restarted(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    if after[ACTIVE_STATE] != "active":
        return f"it is {after[ACTIVE_STATE]}"
    started = {name: value for name, value in after.items() if name != ACTIVE_STATE}
    if all(before.get(name) == value for name, value in started.items()):
        return "it is the same as before the restart"
    return ""
