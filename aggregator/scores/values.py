"""What the score model is told: what a pod asks for, and what a node has left. Values only.

Amounts of an accelerator are in thousandths of one device (``gpu_milli``), as in the traces and papers on
fragmentation: a whole GPU is 1000, a pod that shares one asks for 1..999 of it.
"""

import msgspec

WHOLE = 1000
"""One whole device, in thousandths."""


class PodShape(msgspec.Struct, frozen=True, kw_only=True, order=True, cache_hash=True):
    """What one pod asks for; pods of equal shape are the same pod to the model. Hashable."""

    cpu_milli: int = 0
    memory_mib: int = 0
    gpu_count: int = 0
    """Devices that it needs; 0: it asks for none."""
    gpu_milli: int = 0
    """Of each of them: 1000 for whole devices; 1..999 only with one device."""
    resource: str = ""
    """The resource name of the devices, as the node lists them: ``nvidia.com/gpu``; empty: any."""
    models: tuple[str, ...] = ()
    """Device models it may run on, sorted; empty: any."""

    @property
    def gpu_milli_total(self) -> int:
        """Of all devices together."""
        return self.gpu_count * self.gpu_milli


class NodeRoom(msgspec.Struct, frozen=True, kw_only=True):
    """What one node has and what is left of it, from requests alone."""

    name: str
    resource: str = ""
    """Of its devices: ``nvidia.com/gpu``; empty: it has none."""
    model: str = ""
    cpu_milli: int = 0
    """Allocatable."""
    memory_mib: int = 0
    cpu_free_milli: int = 0
    """Not requested by any pod there; never negative."""
    memory_free_mib: int = 0
    gpus: tuple[int, ...] = ()
    """Free thousandths of each device, 0..1000, by index. A sick device has none free."""
    sick: tuple[bool, ...] = ()
    """By index, whether the device is no capacity at all; empty: none is."""
    guessed: bool = False
    """Whether which pod holds which device is a guess, since nobody tells."""
