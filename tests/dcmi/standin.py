"""The DCMI stand-in from Python: write a scenario, start a process on it, change it while it runs.

    scenario = Scenario(tmp_path / "scenario", ascend_node())
    source = AscendSource(..., environment=scenario.env())
    scenario.update(3, temperature_celsius=97)
    scenario.faults(3, (0x80E01801, 3, "words"))
    scenario.hang("dcmi_get_device_health", chip=3)

Every change replaces the file in one step, so a reader sees all of it or none of it.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from tests.dcmi.build import build

BUSES = ("c1", "01", "c2", "02", "81", "41", "82", "42")
"""Where the chips of an eight-chip 910B server sit."""

Chip = dict[str, Any]
"""Readings by name, in DCMI's units, as ``standin.c`` lists them."""


def ascend_node(chips: int = 8) -> list[Chip]:
    """Healthy 910B chips in the middle of a training job, one per card; typical values, not recorded ones."""
    return [
        {
            "card": index,
            "device": 0,
            "logic_id": index,
            "physical_id": index,
            "model": "910B3",
            "bus": f"0000:{BUSES[index % 8]}:00.0",
            "health": 0,
            "faults": "",
            "temperature_celsius": 51,
            "power_deciwatts": 3120,
            "utilization_percent": 96,
            "hbm_size_mebibytes": 65536,
            "hbm_used_mebibytes": 58000,
            "hbm_temperature_celsius": 54,
            "voltage_centivolts": 91,
            "clock_megahertz": 1800,
            "ecc_single_bit": 0,
            "ecc_double_bit": 0,
            "ecc_single_bit_life": 3,
            "isolated_pages_single_bit": 0,
            "isolated_pages_double_bit": 0,
            "network_health": 0,
        }
        for index in range(chips)
    ]


class Scenario:
    """A scenario file and what it says. Each method that changes it writes the file and returns it."""

    def __init__(self, path: Path, chips: Iterable[Chip] = (), *, init: int = 0) -> None:
        self._path = path
        self._chips = [dict(chip) for chip in chips]
        self._init = init
        self._scripts: dict[str, str] = {}
        self._events: list[str] = []
        self._missing: set[str] = set()
        self._write()

    def update(self, chip: int, **readings: Any) -> Self:
        """Changes readings of one chip; ``None`` takes one away."""
        self._chips[chip] |= readings
        return self._write()

    def init(self, code: int) -> Self:
        """What dcmi_init answers from now on."""
        self._init = code
        return self._write()

    def faults(self, chip: int, *faults: tuple[int, int | None, str]) -> Self:
        """What the driver holds against a chip: code, severity (``None``: it does not tell), words."""
        words = (
            f"{code:#x}:{'' if severity is None else severity}:{text}"
            for code, severity, text in faults
        )
        return self.update(chip, faults="|".join(words))

    def event(
        self, chip: int, code: int, *, assertion: int, severity: int = 2, text: str = ""
    ) -> Self:
        """Tells subscribers of one event: assertion 0 recovered, 1 raised, 2 one-off."""
        number = len(self._events) + 1
        self._events.append(
            f"event.{number} = chip={chip} code={code:#x} severity={severity} assertion={assertion} text={text}"
        )
        return self._write()

    def hang(self, function: str, *, chip: int | None = None) -> Self:
        """Calls of ``function`` (``*``: of every function) block, until ``unhang``."""
        return self._script("hang", function, chip, 1)

    def unhang(self) -> Self:
        """Ends every hang."""
        self._scripts = {
            key: value for key, value in self._scripts.items() if not key.startswith("hang.")
        }
        return self._write()

    def fail(self, function: str, code: int, *, chip: int | None = None) -> Self:
        """Calls of ``function`` (``*``: of every function) answer ``code``."""
        return self._script("error", function, chip, code)

    def unfail(self) -> Self:
        """Ends every failure."""
        self._scripts = {
            key: value for key, value in self._scripts.items() if not key.startswith("error.")
        }
        return self._write()

    def missing(self, *symbols: str) -> Self:
        """An older driver: ``env()`` names a library without these symbols. Call it before ``env()``."""
        self._missing.update(symbols)
        return self

    def env(self) -> dict[str, str]:
        """The variables that make the agent's child load the stand-in; builds it where needed."""
        return {
            "LD_LIBRARY_PATH": str(build(missing=self._missing).parent),
            "FLEETMEDIC_DCMI_SCENARIO": str(self._path.absolute()),
        }

    def _script(self, kind: str, function: str, chip: int | None, value: int) -> Self:
        where = "" if chip is None else f".chip.{chip}"
        self._scripts[f"{kind}.{function}{where}"] = str(value)
        return self._write()

    def _lines(self) -> Iterator[str]:
        yield f"init = {self._init}"
        yield "driver_version = 24.1.rc3"
        for key, value in self._scripts.items():
            yield f"{key} = {value}"
        for index, chip in enumerate(self._chips):
            for name, value in chip.items():
                if value is not None:
                    yield f"chip.{index}.{name} = {value}"
        yield from self._events

    def _write(self) -> Self:
        fresh = self._path.with_name(f".{self._path.name}.new")
        fresh.write_text("\n".join(self._lines()) + "\n")
        fresh.replace(self._path)
        return self
