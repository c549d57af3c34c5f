"""The desk of device quarantines: reads the few nodes that it is about, asks ``policy/devices``, writes what is due.

What it sees in force goes into the cluster's view, where the policy relaxes the node's taint for it. Blind for too long,
it sees nothing, and the node's hard taint comes back.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api, Json
from aggregator.cluster.devices import dra
from aggregator.cluster.devices.koordinator_device import device_of, device_path, signed_devices
from aggregator.cluster.devices.node import picture_of, read_node, signed_nodes
from aggregator.cluster.errors import (
    ApiError,
    Conflict,
    Forbidden,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from aggregator.cluster.nodes import node_path
from aggregator.cluster.pen import Pen
from aggregator.policy.devices.dra_objects import published
from aggregator.policy.devices.planner import DeviceMemory, carries, plan, taken, unlabelled
from aggregator.policy.devices.values import BackEnd, DeviceSettings, NodePicture, Rule, Step
from aggregator.policy.devices.wanted import wanted
from aggregator.policy.model import ClusterNode, ClusterView

SWEEP_SECONDS = 60.0
"""Between looks for what was left behind, while nothing is quarantined."""
STALE_SECONDS = 30.0
"""How old what was seen may be before it does not count any more."""
LIMIT_SECONDS = 20.0
"""For one look, and again for its writes: a server that is slow must not make what was seen older than it may be."""
DISCOVER_SECONDS = 300.0
MAX_NODES = 500
"""In one look. The quarantine budget bounds them far below; more is a mistake, and the node taints stand."""
MAX_TOLD = 500
"""Different texts that are remembered as told."""

Hardware = Callable[[str], Mapping[str, str]]
"""Of a node: device (``gpu:0000:3b:00.0``) → UUID, as its agent last said; empty: it never said."""

RIGHTS = {
    BackEnd.DRA: "resourceslices list; devicetaintrules list, create, patch, delete",
    BackEnd.HAMI: "nodes get, list, patch",
    BackEnd.KOORDINATOR: "devices.scheduling.koordinator.sh get, list, patch",
}

log = structlog.get_logger()


class DeviceDesk:
    """Keeps device quarantines as the incidents ask. One per process; one owner: the event loop.

    Args:
        api: the way to the server.
        pen: writes for us; asks before each request whether we still may.
        settings: which back-ends; with none, what earlier settings left behind is taken back, and nothing else is done.
        permit: raises EdgeError while we may not write, so that nothing is read in vain.
        on_change: called when other devices are in force than before, or when they stand otherwise.
    """

    def __init__(
        self,
        api: Api,
        pen: Pen,
        settings: DeviceSettings,
        *,
        permit: Callable[[], None],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._pen = pen
        self._settings = settings
        self._permit = permit
        self._on_change = on_change
        self._memory = DeviceMemory()
        self._served: tuple[float, dra.Served] | None = None
        self._swept: float | None = None
        self._seen: float | None = None
        """Unix time of the newest look that saw everything; at first, of the first try."""
        self._hidden: frozenset[str] = frozenset()
        """Nodes that are signed and have no label by which they are found."""
        self._uids: Mapping[str, str] = {}
        """Of the Node objects that the newest look saw."""
        self._stands: dict[tuple[str, str], str] = {}
        self._imagined: dict[tuple[str, str], str] = {}
        """(node, reason) of what a dry run told already."""
        self._complained: set[str] = set()
        self.in_force: Mapping[str, frozenset[str]] | None = None if settings.back_ends else {}
        """By node: the devices that are kept from new pods by themselves. ``None``: not looked yet."""
        self.words: Mapping[str, Mapping[str, str]] = {}
        """By node and device: how each quarantine stands, as of the last look."""
        self.writes_total: dict[str, int] = dict.fromkeys(BackEnd, 0)
        """By back-end."""
        self.errors_total = 0

    def in_force_on(self, nodes: Mapping[str, ClusterNode]) -> Mapping[str, frozenset[str]] | None:
        """As ``in_force``, without Nodes that were made anew since: what was written on the old object is gone with it."""
        if self.in_force is None:
            return None
        return {
            name: devices
            for name, devices in self.in_force.items()
            if name not in nodes or nodes[name].uid == self._uids.get(name)
        }

    async def run(
        self,
        view: Callable[[], ClusterView],
        hardware: Hardware,
        wall: Callable[[], float],
    ) -> None:
        """Look every few seconds while we may write; without back-ends until nothing of ours is left."""
        while True:
            idle = await self.step(view(), hardware, wall())
            if idle and not self._settings.back_ends:
                return
            await asyncio.sleep(self._settings.look_seconds)

    async def step(self, view: ClusterView, hardware: Hardware, now: float) -> bool:
        """Look once and write what is due; no answer of the server is an error here.

        Args:
            view: nodes and incidents.
            hardware: what is in the nodes.
            now: Unix time.

        Returns:
            Whether all was read and nothing of ours is there or due.
        """
        try:
            self._permit()
        except EdgeError:
            self._rest()
            return False
        if not view.synced:
            return False
        self._seen = now if self._seen is None else min(self._seen, now)
        if now - self._seen >= STALE_SECONDS:
            text = f"not seen for {STALE_SECONDS:g} s: nothing is believed to hold"
            self._holds({}, {node: dict.fromkeys(each, text) for node, each in self.words.items()})
        known = {each.node: hardware(each.node) for each in view.incidents.values() if each.open}
        asked, _ = wanted(view, known)
        named = set(asked) if self._settings.back_ends else set()
        if not named and self._swept is not None and 0 <= now - self._swept < SWEEP_SECONDS:
            self._holds({}, {})
            return True
        errors = self.errors_total
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                pictures, version = await self._look(view, named, now)
        except Forbidden as error:
            self._blind(error)
            return not self._settings.back_ends  # nobody asked for it, so nobody granted us to look
        except ApiError as error:
            self._blind(error)
            return False
        except TimeoutError:
            self._blind(Unavailable(f"nodes were not read within {LIMIT_SECONDS:g} s"))
            return False
        planned = plan(
            view, pictures, known, self._settings, self._memory, now, dra_version=version
        )
        self._memory, self._seen = planned.memory, now
        self._hidden = frozenset(each.name for each in pictures if unlabelled(each))
        self._uids = {each.name: each.uid for each in pictures}
        self._holds(planned.in_force, planned.words)
        self._tell(planned.words)
        until = asyncio.get_running_loop().time() + LIMIT_SECONDS
        for step in planned.steps:
            if asyncio.get_running_loop().time() >= until or not await self._write(step, now):
                break
        if self.errors_total == errors:
            self._complained.clear()
        busy = bool(named or planned.steps) or any(map(carries, pictures))
        self._swept = None if busy else now
        return not busy

    async def _look(
        self, view: ClusterView, named: set[str], now: float
    ) -> tuple[list[NodePicture], str]:
        """Pictures of the nodes named and of those that carry anything of ours, and the version of rules."""
        served, rules, trouble = await self._rules(now)
        nodes = await signed_nodes(self._api)
        devices = await self._signed_devices()
        names = named | nodes.keys() | {each.node for each in rules} | devices.keys() | self._hidden
        if len(names) > MAX_NODES:
            raise ApiError(f"{len(names)} nodes have bad devices, more than {MAX_NODES}")
        pictures = []
        for name in sorted(names):
            node = nodes.get(name) or await read_node(self._api, name)
            troubles = dict(trouble)
            slices = await self._slices(served, name, troubles) if node is not None else []
            found, whole = published(slices) if slices is not None else ((), False)
            device = devices.get(name)
            if device is None and BackEnd.KOORDINATOR in self._settings.back_ends:
                device = await device_of(self._api, name)
            known = view.nodes.get(name)
            pictures.append(
                picture_of(
                    name,
                    node,
                    known.gpu_capacity if known else 0,
                    published=found,
                    whole=whole,
                    rules=tuple(each for each in rules if each.node == name),
                    device_object=device,
                    troubles=troubles,
                )
            )
        return pictures, served.rules

    async def _rules(self, now: float) -> tuple[dra.Served, list[Rule], dict[BackEnd, str]]:
        """What DRA the server has, our rules, and why that cannot be used."""
        asked = BackEnd.DRA in self._settings.back_ends
        if self._served is None or not 0 <= now - self._served[0] < DISCOVER_SECONDS:
            self._served = (now, await dra.discover(self._api))
        served = self._served[1]
        if served.missing:
            return served, [], {BackEnd.DRA: served.missing} if asked else {}
        try:
            return served, await dra.our_rules(self._api, served), {}
        except Forbidden as error:
            if asked:
                self._complain(BackEnd.DRA, error, RIGHTS[BackEnd.DRA])
            return served, [], {BackEnd.DRA: f"no right to read DeviceTaintRules: {error}"}
        except NotFound:
            self._served = None
            raise

    async def _slices(
        self, served: dra.Served, node: str, troubles: dict[BackEnd, str]
    ) -> list[Json] | None:
        """What DRA hands out on this node; ``None``: we may not read it."""
        if not served.slices or BackEnd.DRA not in self._settings.back_ends:
            return []
        try:
            return await dra.slices_of(self._api, served, node)
        except Forbidden as error:
            self._complain(BackEnd.DRA, error, RIGHTS[BackEnd.DRA])
            troubles[BackEnd.DRA] = f"no right to read ResourceSlices: {error}"
            return None

    async def _signed_devices(self) -> dict[str, Json]:
        try:
            return await signed_devices(self._api)
        except Forbidden:
            if BackEnd.KOORDINATOR in self._settings.back_ends:
                raise
            return {}  # nobody asked for it, so nobody granted us to look

    async def _write(self, step: Step, now: float) -> bool:
        """Whether we may write on."""
        served = self._served[1] if self._served else dra.Served()
        path = {
            "node": node_path(step.name),
            "device": device_path(step.name),
            "rule": f"{served.rules_path}/{step.name}",
        }[step.kind]
        try:
            match step.verb:
                case "create":
                    await self._pen.create(served.rules_path, dra.rule_object(served, step.body))
                case "patch":
                    await self._pen.patch(path, step.body)
                case "delete":
                    await self._pen.delete(path, step.body)
        except Conflict as error:
            if step.verb == "create":
                self._complain(f"rule {step.name}", error)
                self._memory = taken(self._memory, step, now, self._settings)
            return True  # else changed meanwhile: the next look decides anew
        except NotFound:
            return True  # changed meanwhile: the next look decides anew
        except ApiError as error:
            self._complain(step.back_end, error, RIGHTS[step.back_end])
            # where the server cannot answer now the others would fare no better
            return not isinstance(error, (TooManyRequests, Unavailable))
        except EdgeError:
            return False  # another aggregator leads, or a person stopped all writes
        self.writes_total[step.back_end] += 1
        if self._pen.dry_run:
            # it changes nothing, so the same comes again and again
            if (step.node, step.reason) in self._imagined:
                return True
            self._imagined[step.node, step.reason] = step.verb
        log.info(
            "device quarantine",
            node=step.node,
            back_end=step.back_end.value,
            verb=f"{step.verb} {step.kind}",
            reason=step.reason,
            dry_run=self._pen.dry_run,
        )
        return True

    def _rest(self) -> None:
        """Somebody else decides, or nobody may: what is in force is looked for anew afterwards."""
        self._memory, self._swept, self._seen = DeviceMemory(), None, None
        self._holds(None if self._settings.back_ends else {}, {})

    def _blind(self, error: ApiError) -> None:
        if self._settings.back_ends:
            self._complain("nodes", error, "nodes get, list, patch")

    def _holds(
        self,
        in_force: Mapping[str, frozenset[str]] | None,
        words: Mapping[str, Mapping[str, str]],
    ) -> None:
        changed = self.in_force != in_force or self.words != words
        self.in_force, self.words = in_force, words
        if changed:
            self._on_change()

    def _tell(self, words: Mapping[str, Mapping[str, str]]) -> None:
        """Each state once, until it is another one."""
        stands = {(node, each): text for node, said in words.items() for each, text in said.items()}
        for (node, device), text in stands.items():
            if self._stands.get((node, device)) != text:
                log.info("device quarantine stands", node=node, device=device, text=text)
        self._stands = stands
        self._imagined = {key: verb for key, verb in self._imagined.items() if key[0] in words}

    def _complain(self, what: str, error: ApiError, rights: str = "") -> None:
        """Counted each time, told once for the same trouble until a look has none."""
        self.errors_total += 1
        text = f"{what}: {error}"
        if text in self._complained:
            return
        if len(self._complained) >= MAX_TOLD:
            self._complained.clear()
        self._complained.add(text)
        remedy = f"check the rights in deploy/base/rbac.yaml: {rights}"
        extra = {"remedy": remedy} if rights and isinstance(error, Forbidden) else {}
        log.warning("device quarantine cannot go on", what=what, error=str(error), **extra)
