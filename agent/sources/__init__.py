"""Sources: one file per place where truth is read.

A source is asked for a reading once a tick and pushes events whenever they come. It says plainly when it
cannot read: absent (nothing of this kind here), failing (answers with errors) or stuck (no answer).
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from agent.snapshot import Gpu, Host, Mount, Npu, PciDevice, PodDevices, RdmaPort
from contract.vocabulary import Event

Emit = Callable[[Event], None]
"""How a source hands over an event the moment it happens; cheap, never blocks, called on the event loop."""


class SourceError(Exception):
    """A source could not be read; the message is the reason people see."""


class SourceAbsentError(SourceError):
    """Nothing of this kind on this machine: a plain fact."""


class SourceFailingError(SourceError):
    """The source answered with an error."""


class SourceStuckError(SourceError):
    """The source did not answer in time."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What one source contributes to a snapshot; what it does not read stays empty."""

    driver_version: str = ""
    gpus: tuple[Gpu, ...] = ()
    npus: tuple[Npu, ...] = ()
    rdma_ports: tuple[RdmaPort, ...] = ()
    host: Host | None = None
    mounts: tuple[Mount, ...] = ()
    pci_devices: tuple[PciDevice, ...] = ()
    pods: tuple[PodDevices, ...] = ()


class Source(Protocol):
    """One place where truth is read."""

    @property
    def name(self) -> str:
        """Stable, lower-case: ``nvidia``, ``ascend``, ``rdma``, ``kmsg``, ``host``, ``mounts``, ``pci``, ``pods``."""

    async def read(self) -> Reading:
        """Read now, bounded by the source's own deadline.

        Raises:
            SourceAbsentError, SourceFailingError, SourceStuckError: why there is no reading.
        """

    async def close(self) -> None:
        """Let go of everything; never raises, never waits for hardware."""
