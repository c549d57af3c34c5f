"""GPU checks of one look: which GPUs there are, how hot they are, what the driver says of them and of itself."""

from typing import Any

import msgspec
import pytest

from agent.catalogue import DRIVER_VERDICTS
from agent.catalogue.load import shipped
from agent.checks import Checked, Context, Limits, Observation
from agent.checks.gpu import Memory, check, forget
from agent.snapshot import Gpu, Snapshot
from contract.vocabulary import Action, Severity, SourceState
from tests.examples.gpu import BUSY, EXAMPLES, IDLE, always, driver, eight, pci
from tests.support import gpu, snapshot, source

BOTH = (source("nvidia"), source("pci"))


def judge(shot: Snapshot, memory: Memory | None = None, **limits: Any) -> Checked[Memory]:
    return check(shot, memory or Memory(), Context(catalogue=shipped(), limits=Limits(**limits)))


def seen(checked: Checked[Memory]) -> set[tuple[str, str]]:
    return {(each.code.code, each.subject) for each in checked.observations}


def only(checked: Checked[Memory]) -> Observation:
    (observation,) = checked.observations
    return observation


def after(shots: list[Snapshot]) -> Checked[Memory]:
    checked = Checked(memory=Memory())
    for shot in shots:
        checked = judge(shot, checked.memory)
    return checked


@pytest.mark.parametrize("base", [IDLE, BUSY], ids=["idle", "busy"])
def test_a_healthy_node_has_nothing_for_an_hour(base: dict[str, Any]) -> None:
    memory = Memory()
    for shot in always(3600, base):
        checked = judge(shot, memory, expected_gpus=8)
        assert checked.observations == ()
        memory = checked.memory


ALSO = {
    "gpu-near-shutdown": {"gpu-too-hot"},
    "gpu-clock-stuck": {"gpu-clock-outlier"},
    # A GPU that hangs also draws less power than its siblings that work.
    "gpu-hang-suspect": {"gpu-power-outlier"},
}
"""What an example cannot but show beside its code."""


@pytest.mark.parametrize(
    "code", sorted(code for code in EXAMPLES if code != "gpu-count" and code[:4] != "pcie")
)
def test_a_fault_shows_itself_and_nothing_else(code: str) -> None:
    found = {each.code.code for each in after(EXAMPLES[code]).observations}
    assert found == {code} | ALSO.get(code, set())


def test_what_the_checks_remember_survives_a_restart() -> None:
    for shots in EXAMPLES.values():
        memory = after(shots).memory
        text = msgspec.json.encode(memory)
        assert msgspec.json.decode(text, type=Memory) == memory


def test_a_lost_gpu_does_not_hide_its_siblings() -> None:
    hot = {"temperature_celsius": 95.0, "slowdown_temperature_celsius": 90.0}
    checked = judge(snapshot(gpus=(gpu(0, lost=True, **hot), gpu(1, **hot), gpu(2))))
    assert seen(checked) == {("gpu-lost", gpu(0).subject), ("gpu-too-hot", gpu(1).subject)}
    assert "GPU-0" in checked.observations[0].evidence


def test_the_gpus_own_slowdown_temperature_outranks_the_setting() -> None:
    warm = gpu(0, temperature_celsius=88.0, slowdown_temperature_celsius=87.0)
    assert seen(judge(snapshot(gpus=(warm,)), gpu_too_hot_celsius=95.0)) == {
        ("gpu-too-hot", warm.subject)
    }
    unknown = gpu(0, temperature_celsius=88.0)
    assert not judge(snapshot(gpus=(unknown,)), gpu_too_hot_celsius=95.0).observations
    at_limit = only(judge(snapshot(gpus=(unknown,)), gpu_too_hot_celsius=88.0))
    assert at_limit.evidence == "core at 88 C, slows down at 88 C"


@pytest.mark.parametrize(("core", "bad"), [(90.9, False), (91.0, True), (99.0, True)])
def test_a_gpu_about_to_switch_itself_off_takes_no_new_pods(core: float, bad: bool) -> None:
    warm = gpu(0, temperature_celsius=core, shutdown_temperature_celsius=92.0)
    checked = judge(snapshot(gpus=(warm,)), gpu_too_hot_celsius=120.0)
    assert [each.code.severity for each in checked.observations] == (
        [Severity.CRITICAL] if bad else []
    )


def test_a_shutdown_temperature_of_zero_was_not_measured() -> None:
    cold = gpu(0, temperature_celsius=30.0, shutdown_temperature_celsius=0.0)
    assert not judge(snapshot(gpus=(cold,))).observations


@pytest.mark.parametrize(
    ("value", "words", "severity", "action"),
    [
        (1, "GPU reset", Severity.FATAL, Action.RESET_DEVICE),
        (2, "node reboot", Severity.FATAL, Action.REBOOT_NODE),
        (3, "drain P2P", Severity.CRITICAL, Action.RESET_DEVICE),
        (4, "drain and reset", Severity.CRITICAL, Action.RESET_DEVICE),
    ],
)
def test_the_driver_is_taken_at_its_word(
    value: int, words: str, severity: Severity, action: Action
) -> None:
    observation = only(judge(snapshot(gpus=(gpu(0, recovery_action=value),))))
    assert observation.code.code == "gpu-recovery-action"
    assert words in observation.evidence
    assert (observation.code.severity, observation.code.action) == (severity, action)


@pytest.mark.parametrize(
    ("value", "words"), [(5, "IMEX"), (8, "unknown"), (4_000_000_000, "unknown")]
)
def test_what_the_driver_asks_for_and_we_do_not_know_is_shown_and_never_done(
    value: int, words: str
) -> None:
    assert value not in DRIVER_VERDICTS
    observation = only(judge(snapshot(gpus=(gpu(0, recovery_action=value),))))
    assert observation.code.code == "gpu-recovery-unknown"
    assert (observation.code.severity, observation.code.action) == (Severity.INFO, Action.NONE)
    assert words in observation.evidence


@pytest.mark.parametrize("value", [None, 0])
def test_a_driver_that_asks_for_nothing_raises_nothing(value: int | None) -> None:
    assert not judge(snapshot(gpus=(gpu(0, recovery_action=value),))).observations


def test_a_gpu_that_waits_for_a_reset_since_before_we_looked() -> None:
    observation = only(judge(snapshot(gpus=(gpu(0, reset_required=True), gpu(1)))))
    assert (observation.code.code, observation.subject) == ("gpu-reset-required", gpu(0).subject)


def test_fewer_gpus_than_expected() -> None:
    node = snapshot(gpus=(gpu(0), gpu(1)))
    assert not judge(node).observations
    assert not judge(node, expected_gpus=2).observations
    observation = only(judge(node, expected_gpus=8))
    assert (observation.code.code, observation.subject) == ("gpu-count", "node")
    assert observation.evidence == "2 GPUs answer, 8 expected"


def test_fewer_gpus_than_were_ever_seen_until_a_person_accepts_it() -> None:
    eight_seen = judge(snapshot(gpus=eight(IDLE))).memory
    seven = eight(IDLE)[:3] + eight(IDLE)[4:]
    checked = judge(snapshot(10, gpus=seven), eight_seen)
    assert only(checked).code.code == "gpu-count"
    assert gpu(3).pci_bus_id in only(checked).evidence
    accepted = forget(checked.memory, "node")
    again = judge(snapshot(20, gpus=seven), accepted)
    assert again.observations == ()
    assert only(judge(snapshot(30, gpus=seven[:6]), again.memory)).code.code == "gpu-count"


def test_a_gpu_taken_out_on_purpose_is_no_longer_counted() -> None:
    memory = judge(snapshot(gpus=eight(IDLE))).memory
    accepted = forget(memory, gpu(7).subject)
    assert not judge(snapshot(10, gpus=eight(IDLE)[:7]), accepted).observations


def test_a_lost_gpu_is_not_told_of_twice() -> None:
    memory = judge(snapshot(gpus=eight(IDLE))).memory
    checked = judge(snapshot(10, gpus=eight(IDLE, lost=True)), memory)
    assert seen(checked) == {("gpu-lost", gpu(0).subject)}


def test_the_setting_outranks_what_was_seen() -> None:
    memory = judge(snapshot(gpus=eight(IDLE))).memory
    four = snapshot(10, gpus=eight(IDLE)[:4])
    assert not judge(four, memory, expected_gpus=4).observations


def test_a_board_in_another_slot_is_as_good() -> None:
    memory = judge(snapshot(gpus=eight(IDLE))).memory
    moved = (*eight(IDLE)[:7], gpu(20, **IDLE))
    assert not judge(snapshot(10, gpus=moved), memory).observations


@pytest.mark.parametrize(
    ("device", "found"),
    [
        (pci(7), True),
        (pci(7, ""), True),
        (pci(7, "vfio-pci"), False),
        (pci(7, "nouveau"), False),
        (pci(7, is_virtual_function=True), False),
        (pci(7, class_code=0x040300), False),
        (pci(7, class_code=0x068000), False),
        (pci(7, vendor=0x15B3), False),
    ],
)
def test_a_gpu_on_the_bus_that_the_driver_does_not_list(device: Any, found: bool) -> None:
    shot = snapshot(
        sources=BOTH,
        gpus=eight(IDLE)[:7],
        pci_devices=(*(pci(index) for index in range(7)), device),
    )
    expected = {("gpu-not-in-driver", gpu(7).subject)} if found else set()
    assert seen(judge(shot)) == expected


@pytest.mark.parametrize("state", [SourceState.STUCK, SourceState.FAILING, SourceState.ABSENT])
def test_a_bus_that_cannot_be_read_says_nothing_about_gpus(state: SourceState) -> None:
    shot = snapshot(
        sources=(source("nvidia"), source("pci", state)),
        gpus=eight(IDLE)[:7],
        pci_devices=(pci(7),),
    )
    assert not judge(shot).observations


def test_a_stuck_driver_is_shown_and_no_gpu_is_called_lost() -> None:
    stuck = source("nvidia", SourceState.STUCK, "nvmlDeviceGetTemperature on GPU 3 hangs")
    gpus = (gpu(0, lost=True), gpu(1, temperature_celsius=120, recovery_action=1))
    observation = only(judge(snapshot(sources=(stuck,), gpus=gpus), expected_gpus=8))
    assert observation.code.code == "nvidia-stuck"
    assert observation.code.severity is Severity.INFO
    assert observation.evidence == "nvmlDeviceGetTemperature on GPU 3 hangs"


def test_a_machine_without_nvidia_gpus_is_well() -> None:
    no_driver = driver(SourceState.ABSENT, "no driver")
    assert not after(no_driver).observations
    passed_through = driver(SourceState.ABSENT, "no driver", pci(0, "vfio-pci"), pci(1, "vfio-pci"))
    assert not after(passed_through).observations
    without_bus = snapshot(
        sources=(source("nvidia", SourceState.ABSENT, "no driver"),), pci_devices=(pci(0, ""),)
    )
    assert not judge(without_bus).observations


def test_no_driver_is_no_reason_to_take_pods_away() -> None:
    absent = only(after(EXAMPLES["nvidia-driver-missing"]))
    assert absent.code.severity is Severity.DEGRADED
    assert gpu(0).pci_bus_id in absent.evidence
    assert only(after(EXAMPLES["nvidia-library-missing"])).code.severity is Severity.INFO
    assert only(after(EXAMPLES["nvidia-failing"])).code.severity is Severity.INFO


def test_a_gpu_of_which_nothing_was_measured_is_neither_good_nor_bad() -> None:
    bare: tuple[Gpu, ...] = tuple(gpu(index) for index in range(8))
    memory = Memory()
    for tick in range(200):
        checked = judge(snapshot(tick * 10.0, gpus=bare), memory)
        assert checked.observations == ()
        memory = checked.memory
