"""The NPU families of the agent's page."""

from collections.abc import Iterable

from agent.exporter.fields import write_field
from agent.snapshot import Snapshot
from agent.snapshot.npu import Npu, NpuNetwork
from contract.metrics import Labels, Page, Row, counter, gauge, labels
from contract.vocabulary import Finding

NPU_INFO = gauge("fleetmedic_npu_info", "Identity and state of each NPU; always 1.")
NPU_SEVERITY = gauge(
    "fleetmedic_npu_worst_severity",
    "Worst finding on the NPU: 0 none, 10 info, 20 degraded, 30 critical, 40 fatal.",
)
NPU_ANSWERS = gauge("fleetmedic_npu_answers", "1 while the driver answers for the NPU.")
NPU_FAULT = gauge("fleetmedic_npu_fault", "1 while the driver holds this fault code against it.")
NPU_FIELDS = (
    (gauge("fleetmedic_npu_temperature_celsius", "Chip temperature."), "temperature_celsius"),
    (
        gauge("fleetmedic_npu_memory_temperature_celsius", "Memory temperature."),
        "memory_temperature_celsius",
    ),
    (gauge("fleetmedic_npu_power_watts", "Power drawn."), "power_watts"),
    (gauge("fleetmedic_npu_voltage_volts", "Core voltage."), "voltage_volts"),
    (gauge("fleetmedic_npu_clock_hertz", "Clock of the AI cores."), "clock_hertz"),
    (
        gauge("fleetmedic_npu_utilization_ratio", "Share of time the AI cores were busy, 0..1."),
        "utilization_ratio",
    ),
    (gauge("fleetmedic_npu_memory_used_bytes", "Device memory in use."), "memory_used_bytes"),
    (gauge("fleetmedic_npu_memory_size_bytes", "Device memory there is."), "memory_total_bytes"),
    (
        gauge("fleetmedic_npu_health", "What DCMI says: 0 healthy, 1 minor, 2 major, 3 critical."),
        "health",
    ),
    (
        gauge("fleetmedic_npu_network_health", "What DCMI says: 0 and 6 are good."),
        "network_health",
    ),
    (
        counter("fleetmedic_npu_ecc_single_bit_total", "Corrected memory errors since a reset."),
        "ecc_single_bit_total",
    ),
    (
        counter("fleetmedic_npu_ecc_double_bit_total", "Uncorrected memory errors since a reset."),
        "ecc_double_bit_total",
    ),
    (
        gauge(
            "fleetmedic_npu_isolated_pages_single_bit", "Pages out of use after single-bit errors."
        ),
        "isolated_pages_single_bit_total",
    ),
    (
        gauge(
            "fleetmedic_npu_isolated_pages_double_bit", "Pages out of use after multi-bit errors."
        ),
        "isolated_pages_double_bit_total",
    ),
)
"""Family and the field of ``Npu`` that it shows; a field that was not measured has no sample."""

LINK_UP = gauge("fleetmedic_npu_link_up", "1 while the NPU's RoCE port is up.")
LINK_UPS = counter("fleetmedic_npu_link_ups_total", "Times the port came up since a reset.")
LINK_SPEED = gauge("fleetmedic_npu_link_speed_bytes_per_second", "Speed of the port.")
LINK_PACKETS = counter(
    "fleetmedic_npu_link_counter_total", "Counters of the port as hccn_tool names them."
)
OPTICS_PRESENT = gauge("fleetmedic_npu_optics_present", "1 while the optical module is there.")
OPTICS_TEMPERATURE = gauge(
    "fleetmedic_npu_optics_temperature_celsius", "Temperature of the optical module."
)
OPTICS_RECEIVED = gauge("fleetmedic_npu_optics_received_watts", "Optical power received, per lane.")
OPTICS_SENT = gauge("fleetmedic_npu_optics_sent_watts", "Optical power sent, per lane.")


def write_npus(page: Page, snapshot: Snapshot, findings: Iterable[Finding]) -> None:
    """Every NPU of this node."""
    if not snapshot.npus:
        return
    node = snapshot.node
    named = [(labels(node=node, npu=npu.index), npu) for npu in snapshot.npus]
    page.family(NPU_INFO, [(_identity(node, npu), 1) for npu in snapshot.npus])
    worst: dict[str, int] = {}
    for each in findings:
        worst[each.subject] = max(each.severity, worst.get(each.subject, 0))
    page.family(NPU_SEVERITY, [(who, int(worst.get(npu.subject, 0))) for who, npu in named])
    page.family(NPU_ANSWERS, [(who, int(npu.state == "ok")) for who, npu in named])
    page.family(
        NPU_FAULT,
        [
            ({**who, "code": f"{fault.code:08x}"}, 1)
            for who, npu in named
            for fault in {fault.code: fault for fault in npu.faults or ()}.values()
        ],
    )
    for metric, field in NPU_FIELDS:
        write_field(page, metric, field, named)
    _write_network(page, [(who, npu.network) for who, npu in named if npu.network is not None])


def _identity(node: str, npu: Npu) -> Labels:
    return labels(
        node=node,
        npu=npu.index,
        card=npu.card,
        chip=npu.chip,
        pci_bus_id=npu.pci_bus_id,
        model=npu.model,
        state=npu.state,
    )


def _write_network(page: Page, named: list[tuple[Labels, NpuNetwork]]) -> None:
    page.family(
        LINK_UP, [(who, int(each.link_up)) for who, each in named if each.link_up is not None]
    )
    write_field(page, LINK_UPS, "link_ups_total", named)
    page.family(
        LINK_SPEED,
        [
            (who, each.speed_bits_per_second / 8)
            for who, each in named
            if each.speed_bits_per_second is not None
        ],
    )
    page.family(
        LINK_PACKETS,
        [
            ({**who, "counter": name}, value)
            for who, each in named
            for name, value in sorted((each.counters or {}).items())
        ],
    )
    fitted = [(who, each.optics) for who, each in named if each.optics is not None]
    page.family(
        OPTICS_PRESENT,
        [(who, int(each.present)) for who, each in fitted if each.present is not None],
    )
    write_field(page, OPTICS_TEMPERATURE, "temperature_celsius", fitted)
    page.family(OPTICS_RECEIVED, _lanes((who, each.receive_watts) for who, each in fitted))
    page.family(OPTICS_SENT, _lanes((who, each.transmit_watts) for who, each in fitted))


def _lanes(powers: Iterable[tuple[Labels, tuple[float, ...]]]) -> list[Row]:
    return [
        ({**who, "lane": str(lane)}, watts)
        for who, lanes in powers
        for lane, watts in enumerate(lanes)
    ]
