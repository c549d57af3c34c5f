"""The NPU families of the agent's page."""

from agent.exporter.npu import write_npus
from agent.snapshot.npu import Npu, NpuFault
from contract.metrics import Page
from contract.vocabulary import Finding, Severity
from tests.examples.npu import linked, npu, shot
from tests.support import finding


def page(*npus: Npu, findings: tuple[Finding, ...] = ()) -> list[str]:
    written = Page()
    write_npus(written, shot(0, *npus), findings)
    lines = written.render().decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_a_node_without_npus_has_no_family() -> None:
    assert page() == []


def test_readings_states_and_faults() -> None:
    lines = page(
        npu(0, faults=(NpuFault(code=0x80E01801), NpuFault(code=0x80E01801)), power_watts=312.0),
        npu(1, state="lost", health=None, temperature_celsius=None),
        findings=(finding("npu-80e01801", Severity.DEGRADED, subject="npu:0"),),
    )
    assert 'fleetmedic_npu_power_watts{node="n1",npu="0"} 312.0' in lines
    assert 'fleetmedic_npu_fault{code="80e01801",node="n1",npu="0"} 1.0' in lines
    assert 'fleetmedic_npu_worst_severity{node="n1",npu="0"} 20.0' in lines
    assert 'fleetmedic_npu_answers{node="n1",npu="1"} 0.0' in lines
    assert not [line for line in lines if "npu_temperature" in line and 'npu="1"' in line]
    assert any("fleetmedic_npu_info{" in line and 'state="lost"' in line for line in lines)


def test_the_network_in_base_units() -> None:
    lines = page(linked(0, counters={"roce_rx_err_pkt_num": 3}))
    where = 'node="n1",npu="0"'
    assert f"fleetmedic_npu_link_up{{{where}}} 1.0" in lines
    speed = next(line for line in lines if line.startswith("fleetmedic_npu_link_speed_bytes"))
    assert float(speed.split()[1]) == 25e9
    assert (
        f'fleetmedic_npu_link_counter_total{{counter="roce_rx_err_pkt_num",{where}}} 3.0' in lines
    )
    assert f'fleetmedic_npu_optics_received_watts{{lane="1",{where}}} 0.0011' in lines
