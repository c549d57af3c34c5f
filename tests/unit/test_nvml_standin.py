"""The NVML stand-in, judged by what the real pynvml bindings say in a process of their own."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nvml.probe import Probe, ProbeError
from tests.nvml.standin import (
    Fail,
    MigDevice,
    Process,
    RetiredPage,
    Rising,
    Scenario,
    build,
    compiler,
    h100_node,
)

if compiler() is None:
    pytest.skip("the NVML stand-in needs a C compiler (cc, or $CC)", allow_module_level=True)

GPU_IS_LOST = 15
ALL_SCOPES = 0xFFFFFFFF


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(tmp_path / "scenario").set(gpus=h100_node())


def probe(scenario: Scenario) -> Probe:
    return Probe({**os.environ, **scenario.env()})


@pytest.fixture
def nvml(scenario: Scenario) -> Iterator[Probe]:
    with probe(scenario) as child:
        yield child.start()


def code_of(child: Probe, code: str) -> int | None:
    with pytest.raises(ProbeError) as caught:
        child.ask(code)
    return caught.value.value


def fields(child: Probe, ids: str, gpu: int = 0) -> list[list[int]]:
    """[nvmlReturn, value] per field."""
    answer = child.ask(
        f"[(v.nvmlReturn, v.value.ullVal) for v in nvmlDeviceGetFieldValues(h[{gpu}], {ids})]"
    )
    assert isinstance(answer, list)
    return answer


def test_describes_the_node(nvml: Probe) -> None:
    assert nvml.ask("nvmlSystemGetDriverVersion()") == "570.124.06"
    assert nvml.ask("nvmlSystemGetNVMLVersion()") == "12.570.124.06"
    assert nvml.ask("nvmlSystemGetCudaDriverVersion_v2()") == 12080
    assert nvml.ask("nvmlDeviceGetCount()") == 8
    assert nvml.ask("{nvmlDeviceGetName(x): 0 for x in h}") == {"NVIDIA H100 80GB HBM3": 0}
    assert nvml.ask("[nvmlDeviceGetIndex(x) for x in h]") == list(range(8))
    assert nvml.ask("[nvmlDeviceGetMinorNumber(x) for x in h]") == list(range(8))
    assert nvml.ask("nvmlDeviceGetSerial(h[1])") == "1652923000101"
    assert nvml.ask("nvmlErrorString(16)") == "GPU requires reset"


def test_finds_a_gpu_by_each_of_its_names(nvml: Probe) -> None:
    for find in (
        "nvmlDeviceGetHandleByUUID(nvmlDeviceGetUUID(h[5]).encode())",
        "nvmlDeviceGetHandleBySerial(b'1652923000105')",
        "nvmlDeviceGetHandleByPciBusId(b'00000000:C3:00.0')",
        "nvmlDeviceGetHandleByPciBusId(b'0000:c3:00.0')",
    ):
        assert nvml.ask(f"nvmlDeviceGetIndex({find})") == 5
    assert code_of(nvml, "nvmlDeviceGetHandleByUUID(b'GPU-nobody')") == 6
    assert code_of(nvml, "nvmlDeviceGetHandleByPciBusId(b'0000:01:00.0')") == 6
    assert code_of(nvml, "nvmlDeviceGetHandleByIndex(8)") == 2


def test_pci_info_has_the_real_layout(nvml: Probe) -> None:
    assert nvml.ask("str(nvmlDeviceGetPciInfo(h[1]))[14:-1].split(', ')") == [
        *("busIdLegacy: 0000:43:00.0", "domain: 0x00000000", "bus: 0x43", "device: 0x00"),
        *("pciDeviceId: 0x233010DE", "pciSubSystemId: 0x16C110DE", "busId: 00000000:43:00.0"),
    ]


def test_memory_has_both_layouts(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(
        0, memory_total_bytes=1 << 36, memory_reserved_bytes=1 << 30, memory_used_bytes=1 << 35
    )
    free = (1 << 36) - (1 << 30) - (1 << 35)
    memory = {"total": 1 << 36, "free": free, "used": 1 << 35}
    second = {"version": 0x02000028, "reserved": 1 << 30, **memory}
    assert nvml.ask("nvmlDeviceGetMemoryInfo(h[0], nvmlMemory_v2)") == second
    memory["used"] += 1 << 30  # the first version counts the driver's share as used
    assert nvml.ask("nvmlDeviceGetMemoryInfo(h[0])") == memory
    assert code_of(nvml, "nvmlDeviceGetMemoryInfo(h[0], 0x01000028)") == 25


def test_processes_have_the_real_layout(scenario: Scenario, nvml: Probe) -> None:
    assert nvml.ask("nvmlDeviceGetComputeRunningProcesses_v3(h[2])") == []
    scenario.update(
        2,
        compute_processes=(
            Process(pid=7, used_bytes=1 << 33),
            Process(pid=8),
            Process(pid=9, used_bytes=5, gpu_instance=1, compute_instance=2),
        ),
    )
    none = 0xFFFFFFFF
    assert [
        tuple(process.values())
        for process in nvml.ask("nvmlDeviceGetComputeRunningProcesses_v3(h[2])")
    ] == [(7, 1 << 33, none, none), (8, None, none, none), (9, 5, 1, 2)]
    assert nvml.ask("nvmlDeviceGetGraphicsRunningProcesses_v3(h[2])") == []
    room = "(c_uint(1), (c_nvmlProcessInfo_v3_t * 1)())"
    asked = (
        "_nvmlGetFunctionPointer('nvmlDeviceGetComputeRunningProcesses_v3')(h[2], *map(byref, a))"
    )
    nvml.ask(f"from ctypes import byref; a = {room}")
    assert nvml.ask(f"[{asked}, a[0].value]") == [7, 3]


def test_a_change_reaches_one_gpu_at_once(scenario: Scenario, nvml: Probe) -> None:
    read = "[nvmlDeviceGetTemperature(x, NVML_TEMPERATURE_GPU) for x in h]"
    for degrees in range(40, 60):
        scenario.update(3, temperature_celsius=degrees)
        assert nvml.ask(read) == [31, 31, 31, degrees, 31, 31, 31, 31]
    assert nvml.ask("nvmlDeviceGetTemperatureV(h[3], NVML_TEMPERATURE_GPU)") == 59


def test_several_changes_arrive_as_one(scenario: Scenario, nvml: Probe) -> None:
    with scenario.batch():
        scenario.update(0, power_milliwatts=1)
        assert nvml.ask("nvmlDeviceGetPowerUsage(h[0])") == 71_300
    assert nvml.ask("nvmlDeviceGetPowerUsage(h[0])") == 1


def test_a_malformed_file_leaves_the_last_good_one(scenario: Scenario, nvml: Probe) -> None:
    scenario.path.write_text("this is no line\n")
    assert nvml.ask("nvmlDeviceGetPowerUsage(h[0])") == 71_300
    scenario.path.unlink()
    assert nvml.ask("nvmlDeviceGetPowerUsage(h[0])") == 71_300


def test_counters_rise_by_themselves(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(0, energy_millijoules=Rising(1000, 1e9))
    read = "nvmlDeviceGetTotalEnergyConsumption(h[0])"
    first = nvml.ask(read)
    assert 1000 < first < nvml.ask(read)


def test_ordinary_readings(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(
        0,
        clocks_event_reasons=0x48,
        retired_pages_single_bit=(RetiredPage(0x1000, 17), RetiredPage(0x2000)),
        nvlinks={4: {"active": 0, "crc_flit": 12}},
        ecc_volatile_uncorrected_sram=2,
        ecc_volatile_uncorrected_dram=3,
        remapped_rows_pending=1,
    )
    expected = {
        "nvmlDeviceGetUtilizationRates(h[0])": {"gpu": 0, "memory": 0},
        "nvmlDeviceGetTemperatureThreshold(h[0], NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)": 89,
        "nvmlDeviceGetMarginTemperature(h[0])": 56,
        "nvmlDeviceGetClockInfo(h[0], NVML_CLOCK_MEM)": 2619,
        "nvmlDeviceGetMaxClockInfo(h[0], NVML_CLOCK_SM)": 1980,
        "nvmlDeviceGetCurrentClocksEventReasons(h[0])": 0x48,
        "nvmlDeviceGetCurrentClocksThrottleReasons(h[0])": 0x48,
        "nvmlDeviceGetEccMode(h[0])": [1, 1],
        "nvmlDeviceGetTotalEccErrors(h[0], 1, 0)": 5,
        "nvmlDeviceGetMemoryErrorCounter(h[0], 1, 0, NVML_MEMORY_LOCATION_SRAM)": 2,
        "nvmlDeviceGetRemappedRows(h[0])": [0, 0, 1, 0],
        "nvmlDeviceGetRetiredPages(h[0], 0)": [0x1000, 0x2000],
        "nvmlDeviceGetRetiredPages_v2(h[0], 0)[0]": {"address": 0x1000, "timestamp": 17},
        "nvmlDeviceGetPcieThroughput(h[0], NVML_PCIE_UTIL_RX_BYTES)": 80,
        "nvmlDeviceGetCurrPcieLinkWidth(h[0])": 16,
        "[nvmlDeviceGetNvLinkState(h[0], link) for link in (3, 4)]": [1, 0],
        "nvmlDeviceGetNvLinkErrorCounter(h[0], 4, NVML_NVLINK_ERROR_DL_CRC_FLIT)": 12,
        "nvmlDeviceGetMigMode(h[0])": [0, 0],
        "nvmlDeviceGetRowRemapperHistogram(h[0]).max": 2560,
    }
    assert {code: nvml.ask(code) for code in expected} == expected


def test_what_a_gpu_lacks_is_not_supported(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(0, temperature_celsius=None, serial=Fail("no_permission"))
    assert code_of(nvml, "nvmlDeviceGetTemperature(h[0], 0)") == 3
    assert code_of(nvml, "nvmlDeviceGetRetiredPages(h[0], 0)") == 3
    assert code_of(nvml, "nvmlDeviceGetNvLinkState(h[0], 18)") == 3
    assert code_of(nvml, "nvmlDeviceGetSerial(h[0])") == 4


def test_each_field_has_its_own_return_code(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(
        1,
        recovery_action=2,
        nvlinks={17: {"replay": 4}},
        nvlink_data_tx_kibibytes=1800,
        field_values={82: Fail("gpu_is_lost"), (999, 3): 5, 300: "double 1.5"},
    )
    assert fields(nvml, "[230, 82, 307, (999, 3), (999, 4)]", gpu=1) == [
        *([0, 2], [GPU_IS_LOST, 0], [2, 0], [0, 5], [2, 0])
    ]
    assert fields(nvml, f"[(138, {ALL_SCOPES}), (138, 2), (161, 17), (161, 16)]", gpu=1) == [
        *([0, 1800], [0, 100], [0, 4], [0, 0])
    ]
    assert nvml.ask("nvmlDeviceGetFieldValues(h[1], [300])[0].value.dVal") == 1.5
    now = nvml.ask("nvmlDeviceGetFieldValues(h[1], [230])[0].timestamp")
    assert abs(now / 1e6 - time.time()) < 60


def test_fabric_info_in_both_versions(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(0, fabric_clique_id=3, fabric_health_summary=2)
    for version in ("c_nvmlGpuFabricInfo_v2_t", "c_nvmlGpuFabricInfo_v3_t"):
        nvml.ask(f"f = {version}()")
        nvml.ask("nvmlDeviceGetGpuFabricInfoV(h[0], pynvml.pointer(f))")
        assert nvml.ask("[f.state, f.status, f.cliqueId, f.healthMask]") == [3, 0, 3, 0x1AA]
    assert nvml.ask("f.healthSummary") == 2


def test_a_lost_gpu_answers_15_to_everything(scenario: Scenario, nvml: Probe) -> None:
    scenario.lose(3)
    for code in (
        "nvmlDeviceGetTemperature(h[3], 0)",
        "nvmlDeviceGetUUID(h[3])",
        "nvmlDeviceGetFieldValues(h[3], [230])",
        "nvmlDeviceGetHandleByIndex(3)",
    ):
        assert code_of(nvml, code) == GPU_IS_LOST
    assert nvml.ask("nvmlDeviceGetCount()") == 8
    assert nvml.ask("nvmlDeviceGetTemperature(h[4], 0)") == 31
    scenario.restore(3)
    assert nvml.ask("nvmlDeviceGetTemperature(h[3], 0)") == 31


def test_a_vanished_gpu_leaves_the_count_at_the_next_init(scenario: Scenario, nvml: Probe) -> None:
    uuid = nvml.ask("nvmlDeviceGetUUID(h[4])")
    scenario.vanish(3)
    assert nvml.ask("nvmlDeviceGetCount()") == 8
    assert code_of(nvml, "nvmlDeviceGetHandleByIndex(3)") == GPU_IS_LOST
    nvml.ask("nvmlShutdown()")
    nvml.start()
    assert nvml.ask("nvmlDeviceGetCount()") == 7
    assert nvml.ask("nvmlDeviceGetUUID(h[3])") == uuid
    scenario.count(5)
    assert nvml.ask("nvmlDeviceGetCount()") == 5
    assert code_of(nvml, "nvmlDeviceGetHandleByIndex(5)") == 2


@pytest.mark.parametrize(
    ("init", "kind", "value"),
    [
        ("driver_not_loaded", "NVMLError_DriverNotLoaded", 9),
        ("lib_rm_version_mismatch", "NVMLError_LibRmVersionMismatch", 18),
        (999, "NVMLError_Unknown", 999),
    ],
)
def test_init_fails_as_scripted(scenario: Scenario, init: int | str, kind: str, value: int) -> None:
    scenario.set(init=init)
    with probe(scenario) as child:
        with pytest.raises(ProbeError) as caught:
            child.ask("nvmlInit()")
        assert (caught.value.kind, caught.value.value) == (kind, value)
        assert code_of(child, "nvmlDeviceGetCount()") == 1
        scenario.set(init="success")
        child.start()


def test_nothing_answers_before_init_or_after_shutdown(nvml: Probe) -> None:
    nvml.ask("nvmlInit()")  # counted: two inits need two shutdowns
    nvml.ask("nvmlShutdown()")
    assert nvml.ask("nvmlDeviceGetCount()") == 8
    nvml.ask("nvmlShutdown()")
    for code in ("nvmlDeviceGetCount()", "nvmlDeviceGetUUID(h[0])", "nvmlShutdown()"):
        assert code_of(nvml, code) == 1


def test_a_missing_symbol_is_function_not_found(scenario: Scenario) -> None:
    scenario.missing("nvmlDeviceGetFieldValues")
    with probe(scenario) as child:
        child.start()
        with pytest.raises(ProbeError) as caught:
            child.ask("nvmlDeviceGetFieldValues(h[0], [230])")
        assert caught.value.kind == "NVMLError_FunctionNotFound"
        assert child.ask("nvmlDeviceGetPowerUsage(h[0])") == 71_300
    with pytest.raises(RuntimeError, match="not NVML symbols"):
        build(missing=("printf",))


def test_functions_fail_as_scripted(scenario: Scenario, nvml: Probe) -> None:
    scenario.fail("nvmlDeviceGetPowerUsage", 4).fail("*", "reset_required", gpu=2)
    assert code_of(nvml, "nvmlDeviceGetPowerUsage(h[0])") == 4
    assert code_of(nvml, "nvmlDeviceGetUUID(h[2])") == 16
    assert nvml.ask("nvmlDeviceGetTemperature(h[0], 0)") == 31
    scenario.unfail()
    assert nvml.ask("nvmlDeviceGetPowerUsage(h[0])") == 71_300


def test_a_hang_blocks_one_call_and_no_other(scenario: Scenario, nvml: Probe) -> None:
    scenario.hang("nvmlDeviceGetTemperature", gpu=0)
    hanging = nvml.send("nvmlDeviceGetTemperature(h[0], 0)")
    assert nvml.ask("nvmlDeviceGetTemperature(h[1], 0)") == 31
    assert nvml.ask("nvmlDeviceGetPowerUsage(h[0])") == 71_300
    assert not nvml.done(hanging)
    scenario.unhang("nvmlDeviceGetTemperature", gpu=0)
    assert nvml.result(hanging) == 31


def test_a_hang_ends_by_itself(scenario: Scenario, nvml: Probe) -> None:
    scenario.hang("nvmlDeviceGetPowerUsage", seconds=0.05)
    started = time.monotonic()
    assert nvml.ask("nvmlDeviceGetPowerUsage(h[0])") == 71_300
    assert time.monotonic() - started >= 0.05


def events(child: Probe, name: str = "s") -> str:
    """Makes an event set for every GPU; returns the code that waits on it for one event."""
    child.ask(f"{name} = nvmlEventSetCreate()")
    child.ask(f"[nvmlDeviceRegisterEvents(x, nvmlEventTypeXidCriticalError, {name}) for x in h]")
    child.ask(
        "show = lambda e: (nvmlDeviceGetIndex(e.device), e.eventType, e.eventData, e.gpuInstanceId)"
    )
    return f"show(nvmlEventSetWait_v2({name}, 20000))"


def test_an_event_is_delivered_once_to_each_set(scenario: Scenario, nvml: Probe) -> None:
    scenario.event(1, data=13)  # before anyone listens: nobody's
    first, second = events(nvml, "a"), events(nvml, "b")
    waiting = nvml.send(first)
    scenario.event(3, data=79)
    scenario.event(5, data=94, gpu_instance=2)
    assert nvml.result(waiting) == [3, 8, 79, 0xFFFFFFFF]
    assert [nvml.ask(second), nvml.ask(second)] == [[3, 8, 79, 0xFFFFFFFF], [5, 8, 94, 2]]
    assert nvml.ask(first) == [5, 8, 94, 2]
    for name in ("a", "b"):
        assert code_of(nvml, f"nvmlEventSetWait_v2({name}, 0)") == 10
        nvml.ask(f"nvmlEventSetFree({name})")
        assert code_of(nvml, f"nvmlEventSetWait_v2({name}, 0)") == 2


def test_a_set_hears_only_what_it_registered(scenario: Scenario, nvml: Probe) -> None:
    nvml.ask("s = nvmlEventSetCreate()")
    nvml.ask("nvmlDeviceRegisterEvents(h[1], nvmlEventTypeDoubleBitEccError, s)")
    scenario.event(1, "xid", data=63)
    scenario.event(0, "double_bit_ecc")
    scenario.event(1, "double_bit_ecc", data=7)
    assert nvml.ask("nvmlEventSetWait_v2(s, 20000).eventData") == 7
    assert code_of(nvml, "nvmlEventSetWait_v2(s, 0)") == 10
    assert nvml.ask("nvmlDeviceGetSupportedEventTypes(h[1])") == 0x1F
    assert code_of(nvml, "nvmlDeviceRegisterEvents(h[1], 0x8000, s)") == 3


def test_a_wait_wakes_with_a_stale_snapshot_allowed(scenario: Scenario) -> None:
    with Probe({**os.environ, **scenario.env(check_milliseconds=60_000)}) as child:
        wait = events(child.start())
        waiting = child.send(wait)
        child.ask("nvmlDeviceGetCount()")
        scenario.event(2, data=48)
        assert child.result(waiting)[0] == 2


def test_other_calls_answer_while_a_wait_blocks(scenario: Scenario, nvml: Probe) -> None:
    waiting = nvml.send(events(nvml))
    for _ in range(20):
        assert nvml.ask("nvmlDeviceGetPowerUsage(h[0])") == 71_300
    assert not nvml.done(waiting)
    scenario.fail("nvmlEventSetWait_v2", GPU_IS_LOST)
    with pytest.raises(ProbeError) as caught:
        nvml.result(waiting)
    assert caught.value.value == GPU_IS_LOST


def test_mig_instances_answer_for_themselves(scenario: Scenario, nvml: Probe) -> None:
    assert code_of(nvml, "nvmlDeviceGetMigDeviceHandleByIndex(h[0], 0)") == 3
    instance = MigDevice(uuid="MIG-0", gpu_instance_id=7, memory_used_bytes=11)
    scenario.update(0, mig_mode=1, mig_devices=(instance,))
    nvml.ask("m = nvmlDeviceGetMigDeviceHandleByIndex(h[0], 0)")
    assert nvml.ask("nvmlDeviceGetMaxMigDeviceCount(h[0])") == 7
    assert nvml.ask("nvmlDeviceGetUUID(m)") == "MIG-0"
    assert nvml.ask("nvmlDeviceGetGpuInstanceId(m)") == 7
    assert nvml.ask("nvmlDeviceGetMemoryInfo(m, nvmlMemory_v2).used") == 11
    parent = "nvmlDeviceGetDeviceHandleFromMigDeviceHandle(m)"
    assert nvml.ask(f"nvmlDeviceGetIndex({parent})") == 0
    assert nvml.ask("nvmlDeviceGetIndex(nvmlDeviceGetHandleByUUID(b'MIG-0'))") == 0
    assert code_of(nvml, "nvmlDeviceGetMigDeviceHandleByIndex(h[0], 1)") == 6


def test_names_that_do_not_exist_are_refused(scenario: Scenario) -> None:
    with pytest.raises(TypeError, match="temperatur"):
        scenario.update(0, temperatur=3)
    with pytest.raises(ValueError, match="no event type"):
        scenario.event(0, "xidd")
