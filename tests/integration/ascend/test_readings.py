"""What the Ascend source reads over the DCMI stand-in: every process, pipe, struct and thread is real."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from agent.snapshot.npu import Npu, NpuFault
from agent.sources import SourceAbsentError, SourceFailingError
from contract.vocabulary import Event
from tests.dcmi.standin import Scenario, ascend_node
from tests.integration.ascend.rig import HEALTH, NEEDS_STANDIN, Make, until, until_well

pytestmark = NEEDS_STANDIN


async def test_eight_healthy_npus_in_our_units(make: Make) -> None:
    reading = await make().read()
    assert reading.driver_version == "24.1.rc3"
    assert [npu.index for npu in reading.npus] == list(range(8))
    assert reading.npus[4] == Npu(
        card=4,
        chip=0,
        index=4,
        physical_id=4,
        model="Ascend 910B3",
        pci_bus_id="0000:81:00.0",
        health=0,
        faults=(),
        temperature_celsius=51,
        memory_temperature_celsius=54,
        power_watts=312.0,
        utilization_ratio=0.96,
        memory_total_bytes=64 << 30,
        memory_used_bytes=58000 << 20,
        voltage_volts=0.91,
        clock_hertz=1.8e9,
        ecc_single_bit_total=0,
        ecc_double_bit_total=0,
        ecc_single_bit_life_total=3,
        ecc_double_bit_life_total=0,
        isolated_pages_single_bit_total=0,
        isolated_pages_double_bit_total=0,
        network_health=0,
    )


async def test_faults_come_with_the_drivers_words_and_go(make: Make, scenario: Scenario) -> None:
    source = make()
    await source.read()
    scenario.faults(2, (0x80E01801, 3, "HBM multi bit"), (0x81078603, None, ""))
    assert (await source.read()).npus[2].faults == (
        NpuFault(code=0x80E01801, text="HBM multi bit", severity=3),
        NpuFault(code=0x81078603),
    )
    scenario.faults(2)
    assert (await source.read()).npus[2].faults == ()


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        (-8008, "lost", "-8008 (no such device)"),
        (-8012, "not-ready", "-8012 (not ready, as during a reset)"),
        (-8006, "unreadable", "-8006 (timeout)"),
        (-8015, "unreadable", "-8015 (the reset failed)"),
        (-9999, "unreadable", "-9999"),
    ],
)
async def test_a_chip_whose_calls_fail_hides_no_other(
    make: Make, scenario: Scenario, code: int, state: str, words: str
) -> None:
    source = make()
    before = (await source.read()).npus
    scenario.fail("*", code, chip=3)
    after = await until(source, lambda o: o.npus[3].state == state)
    npu = after.npus[3]
    assert npu.state_reason == f"dcmi_get_device_health answers {words}"
    assert (npu.subject, npu.pci_bus_id, npu.model) == ("npu:3", "0000:02:00.0", "Ascend 910B3")
    assert (npu.health, npu.faults) == (None, None)
    assert [each.temperature_celsius for each in after.npus if each.state == "ok"] == [51] * 7
    scenario.unfail()
    assert (await until(source, lambda o: o.npus[3].state == "ok")).npus[3].subject == before[
        3
    ].subject


async def test_one_failing_call_costs_one_reading(make: Make, scenario: Scenario) -> None:
    scenario.fail("dcmi_get_device_power_info", -8011, chip=1).fail(HEALTH, -8006, chip=2)
    npus = (await make().read()).npus
    assert (npus[1].power_watts, npus[1].temperature_celsius, npus[1].state) == (None, 51, "ok")
    assert (npus[2].health, npus[2].faults, npus[2].state) == (None, (), "ok")


async def test_a_chip_that_the_driver_stops_listing_is_lost(make: Make, scenario: Scenario) -> None:
    source = make()
    await source.read()
    scenario.update(7, absent=1)
    after = (await source.read()).npus
    assert [(npu.index, npu.state) for npu in after][6:] == [(6, "ok"), (7, "lost")]


async def test_a_card_with_two_chips(make: Make, scenario: Scenario, tmp_path: Path) -> None:
    chips = ascend_node(4)
    for index, chip in enumerate(chips):
        chip |= {"card": 2 + index // 2 * 3, "device": index % 2, "physical_id": 10 + index}
    Scenario(tmp_path / "scenario", chips)
    npus = (await make().read()).npus
    assert [(npu.card, npu.chip, npu.index, npu.physical_id) for npu in npus] == [
        *((2, 0, 0, 10), (2, 1, 1, 11), (5, 0, 2, 12), (5, 1, 3, 13))
    ]


async def test_what_a_board_does_not_have_is_none(make: Make, scenario: Scenario) -> None:
    scenario.missing("dcmi_get_device_ecc_info", "dcmi_subscribe_fault_event")
    scenario.missing("dcmi_get_device_errorcode_string", "dcmi_get_device_current_fault_event")
    nothing = {"hbm_size_mebibytes": None, "network_health": None, "voltage_centivolts": None}
    scenario.update(0, **nothing, ddr_size_mebibytes=24000, ddr_available_mebibytes=20000)
    scenario.faults(0, (0x80E01801, 3, "words"))
    source = make()
    for _ in range(2):
        npu = (await source.read()).npus[0]
        assert (npu.ecc_single_bit_total, npu.network_health, npu.voltage_volts) == (None,) * 3
        assert (npu.memory_total_bytes, npu.memory_used_bytes) == (24000 << 20, 4000 << 20)
        assert npu.memory_temperature_celsius is None
        assert npu.faults == (NpuFault(code=0x80E01801),)


async def test_dcmis_stand_ins_for_nothing_are_none(make: Make, scenario: Scenario) -> None:
    scenario.update(0, temperature_celsius=-275, power_deciwatts=-1, utilization_percent=-1)
    npu = (await make().read()).npus[0]
    assert (npu.temperature_celsius, npu.power_watts, npu.utilization_ratio) == (None, None, None)


async def test_without_the_library_there_is_nothing_to_watch(make: Make, tmp_path: Path) -> None:
    source = make(environment={"LD_LIBRARY_PATH": str(tmp_path)}, absent_retry_seconds=60.0)
    with pytest.raises(SourceAbsentError, match=r"libdcmi\.so is not found"):
        await source.read()
    assert source.child_pids == ()
    started = time.process_time()
    for _ in range(100):
        with pytest.raises(SourceAbsentError):
            await source.read()
    assert (time.process_time() - started) / 100 < 0.001


async def test_a_node_without_npus_is_absent_and_one_that_comes_is_found(
    make: Make, scenario: Scenario, tmp_path: Path
) -> None:
    Scenario(tmp_path / "scenario")
    source = make()
    with pytest.raises(SourceAbsentError, match="finds no NPU"):
        await source.read()
    Scenario(tmp_path / "scenario", ascend_node())
    assert len((await until_well(source)).npus) == 8


async def test_a_driver_that_refuses_is_told_with_its_code(
    make: Make, scenario: Scenario, tmp_path: Path
) -> None:
    scenario.init(-8002)
    with pytest.raises(SourceFailingError, match=r"dcmi_init answers -8002 \(not permitted"):
        await make(device_file=str(tmp_path)).read()


async def test_a_driver_that_refuses_where_there_are_no_devices_is_no_fault(
    make: Make, scenario: Scenario, tmp_path: Path
) -> None:
    """An image with the driver in it also runs on machines without NPUs."""
    scenario.init(-8005)
    with pytest.raises(SourceAbsentError, match="finds no NPU: dcmi_init answers -8005"):
        await make(device_file=str(tmp_path / "none")).read()


async def test_a_library_that_cannot_be_loaded_is_a_fault(make: Make, tmp_path: Path) -> None:
    (tmp_path / "libdcmi.so").write_bytes(b"no library")
    with pytest.raises(SourceFailingError, match=r"cannot be loaded: .*libdcmi\.so"):
        await make(environment={"LD_LIBRARY_PATH": str(tmp_path)}).read()


@pytest.mark.parametrize(
    ("assertion", "said", "finding"),
    [(1, "raised", "npu-80e01801"), (2, "happened", "npu-80e01801"), (0, "recovered", "")],
)
async def test_a_fault_is_pushed_while_a_reading_hangs(
    make: Make,
    scenario: Scenario,
    events: asyncio.Queue[Event],
    assertion: int,
    said: str,
    finding: str,
) -> None:
    source = make()
    await source.read()
    scenario.hang("dcmi_get_device_temperature", chip=0)
    reading = asyncio.create_task(until(source, lambda o: not isinstance(o, Exception)))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while events.empty():  # it subscribes just after the first sample
            scenario.event(5, 0x80E01801, assertion=assertion, severity=3, text="HBM multi bit")
            with contextlib.suppress(TimeoutError):
                events.put_nowait(await asyncio.wait_for(events.get(), 0.2))
    event = events.get_nowait()
    assert (event.kind, event.subject, event.code) == ("npu", "npu:5", 0x80E01801)
    assert event.message == f"DCMI fault 80e01801 {said}: HBM multi bit"
    assert event.finding == finding
    assert event.time_seconds == pytest.approx(time.time(), abs=10)
    scenario.unhang()
    await reading
