"""Takes directives in, lets them through or refuses them, and remembers how each went."""

import asyncio
from collections.abc import Callable

import structlog

from agent.faults import device_of
from agent.repairs import admission
from agent.repairs.book import MAX_NAME, Book, Entry, after_restart, begun
from agent.repairs.book_file import BookError, BookFile
from agent.repairs.rules import Rules
from agent.repairs.work import Result, Surroundings, Worker
from agent.stats import AgentStats
from contract import report_pb2 as pb
from contract.signing import SignatureError, Verifier
from contract.vocabulary import (
    Directive,
    DirectiveKind,
    DirectiveOutcome,
    Event,
    OutcomeState,
)

log = structlog.get_logger("repairs")

MAX_WAITING = 32
"""Directives that wait for the disk; the aggregator sends again what is not answered."""

BETWEEN_LOOKS_SECONDS = 10.0


class Repairs:
    """One node's directives, from their arrival to their outcome. Used on one event loop.

    Args:
        node: the name of this node.
        boot_id: of this boot.
        rules: what this node allows.
        verifier: whose directives are believed.
        file: where what was done outlives this process.
        worker: carries out what was let in.
        surroundings: the agent.
        stats: where directives are counted.
        clock: Unix time.
    """

    def __init__(
        self,
        *,
        node: str,
        boot_id: str,
        rules: Rules,
        verifier: Verifier,
        file: BookFile,
        worker: Worker,
        surroundings: Surroundings,
        stats: AgentStats,
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._boot_id = boot_id
        self._rules = rules
        self._verifier = verifier
        self._file = file
        self._worker = worker
        self._agent = surroundings
        self._stats = stats
        self._clock = clock
        self._book = Book(node=node)
        self._unusable = "the record of what was done is not read yet"
        """Why the book cannot be relied on; empty: it can."""
        self._waiting: asyncio.Queue[Directive] = asyncio.Queue(maxsize=MAX_WAITING)
        self._running = ""
        self._writing = asyncio.Lock()
        """Held from what is read of the book to what is saved of it."""
        self._complaint = ""

    @property
    def outcomes(self) -> tuple[DirectiveOutcome, ...]:
        """Of every directive that is remembered, oldest first."""
        return self._book.outcomes()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What this node may be told to do; nothing while its record of what was done cannot be relied on."""
        return () if self._unusable else self._rules.repairs

    def take(self, signed: pb.SignedDirective) -> None:
        """Take one directive from the stream. Never blocks, never raises."""
        try:
            directive = self._verifier.open(signed)
        except SignatureError as error:
            self._complain(str(error))
            return
        if not directive.id or len(directive.id) > MAX_NAME:
            self._complain("it has no id that can be remembered")
            return
        try:
            self._waiting.put_nowait(directive)
        except asyncio.QueueFull:
            self._complain(f"{MAX_WAITING} others wait")

    async def run(self) -> None:
        """Carry out what is let in, one at a time, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._open(tasks)
                tasks.create_task(self._mend(tasks), name=f"directives-{self._node}")
                while True:
                    directive = await self._waiting.get()
                    entry = await self._begin(directive)
                    if entry is not None:
                        work = self._carry_out(directive, entry)
                        tasks.create_task(work, name=f"directive-{entry.id}")
        finally:
            self._file.close()

    async def _mend(self, tasks: asyncio.TaskGroup) -> None:
        """While the book cannot be used, look now and then whether somebody has mended it."""
        while self._unusable:
            await asyncio.sleep(BETWEEN_LOOKS_SECONDS)
            await self._open(tasks)

    def _complain(self, why: str) -> None:
        """A message that is not to be believed has no id to answer for."""
        self._stats.directives_refused += 1
        if why != self._complaint:
            self._complaint = why
            log.warning("directive refused", reason=why)

    async def _open(self, tasks: asyncio.TaskGroup) -> None:
        """Read the book, and settle what the agent before this one left running."""
        async with self._writing:
            try:
                found = await self._file.load()
                book = after_restart(
                    found,
                    boot_id=self._boot_id,
                    now=self._clock(),
                    reboot_limit_seconds=self._rules.reboot_limit_seconds,
                )
                for entry in self._book.entries:  # refused meanwhile, and told so
                    book = book if book.find(entry.id) else book.with_entry(entry)
                await self._file.save(book)
            except BookError as error:
                if str(error) != self._unusable:
                    log.error("repairs are off", reason=str(error))  # noqa: TRY400 - it says all
                self._unusable = str(error)
                return
            self._book, self._unusable = book, ""
        log.info("directives are taken", allowed=", ".join(self._rules.repairs) or "clear")
        for entry in book.entries:
            if entry.state is OutcomeState.RUNNING:
                self._running = entry.id
                tasks.create_task(self._await_reboot(entry), name=f"directive-{entry.id}")
            elif (left := found.find(entry.id)) and left.state is OutcomeState.RUNNING:
                self._tell(entry)
        self._agent.outcomes_changed()

    async def _begin(self, directive: Directive) -> Entry | None:
        """The entry to be carried out; ``None`` where there is nothing more to do."""
        async with self._writing:
            if self._unusable:
                entry = self._refused(directive, self._unusable)
            elif self._book.find(directive.id) is not None:
                self._agent.outcomes_changed()  # its outcome is the answer
                return None
            else:
                entry = await self._admitted(directive)
            self._remember(entry)
        self._tell(entry, reason=directive.reason)
        if entry.state is not OutcomeState.RUNNING:
            return None
        self._running = entry.id
        return entry

    async def _admitted(self, directive: Directive) -> Entry:
        """The new entry, which then stands on the disk: running, refused, or done at once."""
        why = admission.refusal(
            directive,
            node=self._node,
            boot_id=self._boot_id,
            now=self._clock(),
            rules=self._rules,
            snapshot=self._agent.snapshot,
            running=self._running,
            forgotten_seconds=self._book.forgotten_seconds,
        )
        if why:
            entry = self._refused(directive, why)
        elif directive.kind == DirectiveKind.CLEAR:
            told = f"{directive.code} of {directive.subject} is forgotten"
            entry = self._begun(directive).ended(OutcomeState.DONE, told, now=self._clock())
        else:
            entry = self._begun(directive)
        try:
            await self._file.save(self._book.with_entry(entry))
        except BookError as error:
            return self._refused(directive, why or f"it cannot be remembered: {error}")
        if entry.state is OutcomeState.DONE:
            self._forget(directive)
        return entry

    def _forget(self, directive: Directive) -> None:
        self._agent.emit(
            Event(
                id=f"directive:{directive.id}",
                time_seconds=self._clock(),
                kind="clear",
                subject=directive.subject,
                message=directive.code,
            )
        )

    def _begun(self, directive: Directive) -> Entry:
        return begun(directive, now=self._clock(), boot_id=self._boot_id)

    def _refused(self, directive: Directive, why: str) -> Entry:
        return self._begun(directive).ended(OutcomeState.REFUSED, why, now=self._clock())

    async def _carry_out(self, directive: Directive, entry: Entry) -> None:
        try:
            result = await self._worker.carry_out(directive)
        except Exception as error:
            log.exception("repair failed unexpectedly", id=entry.id)
            result = Result(OutcomeState.FAILED, f"{type(error).__name__}: {error}")
        if directive.kind == DirectiveKind.RESET_DEVICE and result.state is OutcomeState.DONE:
            self._was_reset(directive, entry)
        await self._finish(entry, result)

    def _was_reset(self, directive: Directive, entry: Entry) -> None:
        """What was seen before it began is over. The counters alone cannot tell that of what came in the last sample."""
        self._agent.emit(
            Event(
                id=f"directive:{directive.id}",
                time_seconds=entry.started_seconds,
                kind="reset",
                subject=device_of(directive.subject),
                message="reset under a directive",
            )
        )

    async def _await_reboot(self, entry: Entry) -> None:
        """One that the agent before this one began, and that may still come."""
        left = entry.started_seconds + self._rules.reboot_limit_seconds - self._clock()
        await self._finish(entry, await self._worker.await_reboot(left))

    async def _finish(self, entry: Entry, result: Result) -> None:
        entry = entry.ended(result.state, result.evidence, now=self._clock(), output=result.output)
        async with self._writing:
            try:
                await self._file.save(self._book.with_entry(entry))
            except BookError as error:
                # On the disk it still runs, so that a restart calls it failed: never better than it was.
                log.warning("outcome is not saved", id=entry.id, reason=str(error))
            self._running = ""
            self._remember(entry)
        self._tell(entry)

    def _remember(self, entry: Entry) -> None:
        self._book = self._book.with_entry(entry)
        self._agent.outcomes_changed()

    def _tell(self, entry: Entry, *, reason: str = "") -> None:
        self._stats.directives.add((entry.kind, entry.state.label))
        if entry.state is OutcomeState.REFUSED:
            self._stats.directives_refused += 1
        said = {"reason": reason} if reason else {}
        good = entry.state in (OutcomeState.RUNNING, OutcomeState.DONE)
        (log.info if good else log.warning)(
            f"directive {entry.state.label}",
            id=entry.id,
            kind=entry.kind,
            subject=entry.subject,
            **({"evidence": entry.evidence} if entry.evidence else {}),
            **said,
        )
