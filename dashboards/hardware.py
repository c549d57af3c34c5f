"""What the machines do: use, GPUs, network, host."""

from dashboards.panels import THIRD, N, Section, lines, rows

MEMORY_USED = (
    f"sum by (node) (fleetmedic_gpu_memory_used_bytes{N})"
    f" / sum by (node) (fleetmedic_gpu_memory_size_bytes{N})"
)
HOST_MEMORY_USED = (
    f"1 - fleetmedic_host_memory_available_bytes{N} / fleetmedic_host_memory_size_bytes{N}"
)


def use() -> Section:
    """How full the fleet is."""
    return "Use", [
        lines(
            "Utilization across nodes",
            "Mean over each node's GPUs: the fleet's mean, and its lowest and highest tenth.",
            (f"avg(fleetmedic_node_utilization_ratio{N})", "mean"),
            (f"quantile(0.1, fleetmedic_node_utilization_ratio{N})", "lowest tenth"),
            (f"quantile(0.9, fleetmedic_node_utilization_ratio{N})", "highest tenth"),
            unit="percentunit",
            most=1,
            span=THIRD,
        ),
        lines(
            "Least used nodes",
            "The ten lowest now.",
            (f"bottomk(10, fleetmedic_node_utilization_ratio{N})", "{{node}}"),
            unit="percentunit",
            most=1,
            span=THIRD,
        ),
        lines(
            "GPU memory in use",
            "Share of each node's device memory; the ten fullest.",
            (
                f"topk(10, {MEMORY_USED})",
                "{{node}}",
            ),
            unit="percentunit",
            most=1,
            span=THIRD,
        ),
    ]


def hardware() -> Section:
    """The GPUs."""
    return "GPUs", [
        lines(
            "Hottest GPUs",
            "The ten highest core temperatures.",
            (f"topk(10, fleetmedic_gpu_temperature_celsius{N})", "{{node}} GPU {{gpu}}"),
            unit="celsius",
        ),
        lines(
            "Clocks held down",
            "GPUs that run slower than they could, by the driver's reason.",
            (f"sum by (reason) (fleetmedic_gpu_clocks_held{N})", "{{reason}}"),
        ),
        lines(
            "XID events",
            "Per minute, by node and code.",
            (
                f"60 * sum by (node, code) (rate(fleetmedic_xid_events_total{N}[$__rate_interval]))",
                "{{node}} XID {{code}}",
            ),
            span=THIRD,
        ),
        lines(
            "Uncorrected memory errors",
            "Per hour; the ten worst GPUs.",
            (
                f"topk(10, increase(fleetmedic_gpu_ecc_uncorrected_total{N}[1h]))",
                "{{node}} GPU {{gpu}}",
            ),
            span=THIRD,
        ),
        lines(
            "Power",
            "Drawn by GPUs, against the sum of their limits.",
            (f"sum(fleetmedic_gpu_power_watts{N})", "drawn"),
            (f"sum(fleetmedic_gpu_power_limit_watts{N})", "limit"),
            unit="watt",
            span=THIRD,
        ),
    ]


def network() -> Section:
    """RDMA ports and the hosts."""
    return "RDMA and host", [
        rows(
            "RDMA ports not active",
            "By the port's own logical state.",
            f"max by (node, device, port, link_layer, state, physical_state)"
            f" (fleetmedic_rdma_port_info{N}"
            f" and on (node, device, port) fleetmedic_rdma_port_active{N} == 0)",
            value="down",
            span=THIRD,
        ),
        lines(
            "RDMA traffic",
            "Over all ports.",
            (
                f"sum(rate(fleetmedic_rdma_port_received_bytes_total{N}[$__rate_interval]))",
                "received",
            ),
            (
                f"sum(rate(fleetmedic_rdma_port_transmitted_bytes_total{N}[$__rate_interval]))",
                "sent",
            ),
            unit="Bps",
            span=THIRD,
        ),
        lines(
            "Host memory in use",
            "Share of each machine's memory; the ten fullest.",
            (
                f"topk(10, {HOST_MEMORY_USED})",
                "{{node}}",
            ),
            unit="percentunit",
            most=1,
            span=THIRD,
        ),
    ]
