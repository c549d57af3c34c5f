"""Who is there: every GPU that a node is known to have, so that one that is gone is missed. Pure."""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from agent.snapshot import Gpu
from agent.sources.nvml_wire import RawGpu, gpu


def _identity(known: Gpu, *, lost: bool = False) -> Gpu:
    """Who it is, nothing measured."""
    return Gpu(
        uuid=known.uuid,
        pci_bus_id=known.pci_bus_id,
        index=known.index,
        model=known.model,
        serial=known.serial,
        lost=lost,
    )


class Roll:
    """Every GPU that this node is known to have, so that one that is gone is missed.

    A GPU is its place on the PCI bus: another card in the same place replaces the one before.
    """

    def __init__(self, expected: Iterable[Gpu] = ()) -> None:
        self._known = {each.pci_bus_id or each.uuid: _identity(each) for each in expected}

    def __len__(self) -> int:
        return len(self._known)

    def call(self, raws: Iterable[RawGpu]) -> tuple[Gpu, ...]:
        """Those that answer and, as lost, those that do not; in the order of their indexes."""
        pairs = list(self._recognised(raws))
        here = [seen for raw, seen in pairs if raw.lost is None]
        answering = {each.pci_bus_id for each in here}
        gone = [
            _identity(known, lost=True)
            for bus, known in self._known.items()
            if bus not in answering
        ]
        named = {seen.pci_bus_id for raw, seen in pairs if raw.lost and raw.bus}
        nameless = [seen for raw, seen in pairs if raw.lost and not raw.bus]
        explained = sum(1 for each in gone if each.pci_bus_id not in named)
        gone += [_identity(seen, lost=True) for seen in nameless[explained:]]
        return tuple(sorted((*here, *gone), key=lambda each: (each.index, each.pci_bus_id)))

    def _recognised(self, raws: Iterable[RawGpu]) -> Iterator[tuple[RawGpu, Gpu]]:
        """Each as we know it: one that must be reset does not always say who it is."""
        for raw in raws:
            seen = gpu(raw)
            if raw.bus:
                self._meet(seen)
                known = self._known[seen.pci_bus_id]
            elif raw.reset_required:
                known = next(
                    (each for each in self._known.values() if each.index == raw.index), seen
                )
            else:
                known = seen
            if not seen.uuid and known.uuid:
                seen = replace(
                    seen,
                    uuid=known.uuid,
                    pci_bus_id=known.pci_bus_id or seen.pci_bus_id,
                    model=known.model,
                    serial=known.serial,
                )
            yield raw, seen

    def _meet(self, seen: Gpu) -> None:
        known = self._known.get(seen.pci_bus_id)
        if known is not None and seen.uuid in {"", known.uuid} and seen.index == known.index:
            return
        for bus, other in list(self._known.items()):
            if seen.uuid and other.uuid == seen.uuid:
                del self._known[bus]
        self._known[seen.pci_bus_id] = _identity(seen)
