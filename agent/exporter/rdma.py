"""The RDMA families of the agent's page. A port is some twenty-five samples; each costs the agent 5 µs a page."""

from collections.abc import Iterator, Sequence

from agent.exporter.fields import write_field
from agent.snapshot import RdmaPort
from contract.metrics import Labels, Page, Row, counter, gauge, labels

RDMA_INFO = gauge(
    "fleetmedic_rdma_port_info",
    "Link layer, states, adapter and firmware of each RDMA port; always 1.",
)
RDMA_ACTIVE = gauge("fleetmedic_rdma_port_active", "1 when the port's logical state is ACTIVE.")
RDMA_RATE = gauge("fleetmedic_rdma_port_rate_bytes_per_second", "Signalling rate of the port.")
RDMA_FIELDS = (
    (
        counter("fleetmedic_rdma_port_link_downed_total", "Times the link went down."),
        "link_downed_total",
    ),
    (
        counter("fleetmedic_rdma_port_received_bytes_total", "Bytes received."),
        "received_bytes_total",
    ),
    (
        counter("fleetmedic_rdma_port_transmitted_bytes_total", "Bytes sent."),
        "transmitted_bytes_total",
    ),
)
RDMA_CARRIER = counter(
    "fleetmedic_rdma_port_carrier_losses_total",
    "Times a network interface of the port lost its carrier; does not stop at 255 as link_downed does.",
)
RDMA_ERRORS = counter(
    "fleetmedic_rdma_port_errors_total",
    "Errors by the kernel's name of the counter; some stop at 15, 255 or 65535.",
)
RDMA_CONGESTION = counter(
    "fleetmedic_rdma_port_congestion_total",
    "Signs of congestion by the kernel's name of the counter: load, not a fault.",
)

ERRORS = (
    *("symbol_error", "link_error_recovery", "port_rcv_errors", "port_rcv_remote_physical_errors"),
    *("local_link_integrity_errors", "excessive_buffer_overrun_errors", "port_xmit_discards"),
    *("port_xmit_constraint_errors", "port_rcv_constraint_errors", "local_ack_timeout_err"),
    *("packet_seq_err", "out_of_sequence", "implied_nak_seq_err", "rnr_nak_retry_err"),
    *("out_of_buffer", "rx_icrc_encapsulated", "roce_adp_retrans_to"),
)
CONGESTION = ("port_xmit_wait", "np_cnp_sent", "np_ecn_marked_roce_packets", "rp_cnp_handled")


def write_rdma(page: Page, node: str, ports: Sequence[RdmaPort]) -> None:
    """Every RDMA port of this node that is not left alone."""
    named = [
        (labels(node=node, device=port.device, port=port.port), port)
        for port in ports
        if not port.excluded
    ]
    page.family(
        RDMA_INFO,
        [
            (
                who
                | labels(
                    link_layer=port.link_layer,
                    state=port.state,
                    physical_state=port.physical_state,
                    adapter_type=port.adapter_type,
                    firmware=port.firmware,
                ),
                1,
            )
            for who, port in named
        ],
    )
    page.family(
        RDMA_ACTIVE,
        [(who, int(port.state == "ACTIVE")) for who, port in named if port.state],
    )
    page.family(
        RDMA_RATE,
        [
            (who, port.rate_bits_per_second / 8)
            for who, port in named
            if port.rate_bits_per_second is not None
        ],
    )
    for metric, field in RDMA_FIELDS:
        write_field(page, metric, field, named)
    page.family(
        RDMA_CARRIER,
        [
            ({**who, "interface": each.name}, each.carrier_downs_total)
            for who, port in named
            for each in port.netdevs
            if each.carrier_downs_total is not None
        ],
    )
    page.family(RDMA_ERRORS, _counted(named, ERRORS))
    page.family(RDMA_CONGESTION, _counted(named, CONGESTION))


def _counted(named: Sequence[tuple[Labels, RdmaPort]], counters: Sequence[str]) -> Iterator[Row]:
    for who, port in named:
        for name in counters:
            value = port.counters.get(name)
            if value is not None:
                yield {**who, "counter": name}, value
