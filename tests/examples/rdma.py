"""Snapshots that raise each code of ``agent/catalogue/rdma.yaml``: a node with eight adapters of one board."""

from typing import Any

import msgspec

from agent.snapshot import RdmaNetdev, RdmaPort, Snapshot
from tests.support import snapshot

GIGABIT = 1e9
QUIET = {
    "symbol_error": 0,
    "link_error_recovery": 0,
    "port_rcv_errors": 0,
    "port_rcv_remote_physical_errors": 0,
    "local_link_integrity_errors": 0,
    "excessive_buffer_overrun_errors": 0,
    "port_xmit_discards": 0,
    "port_xmit_constraint_errors": 0,
    "port_rcv_constraint_errors": 0,
    "local_ack_timeout_err": 0,
    "packet_seq_err": 0,
    "out_of_sequence": 0,
    "rnr_nak_retry_err": 0,
    "rx_icrc_encapsulated": 0,
    "port_rcv_packets": 317_548_853_677,
    "port_xmit_packets": 317_548_853_677,
    "port_xmit_wait": 2_489_603_687,
}


def infiniband(number: int = 0, **fields: Any) -> RdmaPort:
    """One healthy NDR port of a ConnectX-7."""
    given: dict[str, Any] = {
        "link_layer": "InfiniBand",
        "state": "ACTIVE",
        "physical_state": "LinkUp",
        "rate_bits_per_second": 400 * GIGABIT,
        "link_width": 4,
        "link_speed": "NDR",
        "link_downed_total": 0,
        "subnet_manager_lid": 1,
        "counters": QUIET,
        "netdevs": (RdmaNetdev(name=f"ib{number}", operational_state="up", carrier_downs_total=0),),
        "firmware": "28.41.1000",
        "adapter_type": "MT4129",
        "board": "MT_0000000838",
        "pci_address": f"0000:{0x18 + 0x10 * number:02x}:00.0",
        "pcie_transfers_per_second": 32e9,
        "pcie_transfers_per_second_max": 32e9,
        "pcie_width": 16,
        "pcie_width_max": 16,
    }
    return RdmaPort(device=f"mlx5_{number}", port=1, **{**given, **fields})


def bond(*, second: str = "up", enabled: bool | None = None, **fields: Any) -> RdmaPort:
    """A healthy RoCE port over both ports of a storage adapter."""
    given: dict[str, Any] = {
        "device": "mlx5_bond_0",
        "link_layer": "Ethernet",
        "rate_bits_per_second": 200 * GIGABIT,
        "link_width": 2,
        "subnet_manager_lid": None,
        "adapter_type": "MT41692",
        "board": "MT_0000000884",
        "is_bond": True,
        "netdevs": tuple(
            RdmaNetdev(
                name=name,
                operational_state=state,
                enabled=enabled,
                carrier_downs_total=0,
                bond_member=True,
            )
            for name, state in (("eth0", "up"), ("eth1", second))
        ),
    }
    return msgspec.structs.replace(infiniband(8), **{**given, **fields})


def node(at: float, *changed: RdmaPort) -> Snapshot:
    """The whole node, with these ports instead of the healthy ones."""
    ports = {port.subject: port for port in (*map(infiniband, range(8)), bond(), *changed)}
    return snapshot(at, rdma_ports=tuple(ports.values()))


def lasting(seconds: float, *changed: RdmaPort) -> list[Snapshot]:
    """Healthy, then like this for so long."""
    return [node(0), *(node(1 + at, *changed) for at in range(0, int(seconds) + 1, 5))]


def rising(counter: str, by: int, *, packets: int = 1_000_000) -> list[Snapshot]:
    """A counter of the first port that rises over a minute."""
    return [
        node(
            float(at),
            infiniband(
                0,
                counters={
                    **QUIET,
                    counter: by * at // 60,
                    "port_rcv_packets": QUIET["port_rcv_packets"] + packets * at // 60,
                },
            ),
        )
        for at in range(0, 61, 10)
    ]


def without(number: int, at: float) -> Snapshot:
    """The node after one adapter has gone."""
    whole = node(at)
    kept = tuple(port for port in whole.rdma_ports if port.device != f"mlx5_{number}")
    return msgspec.structs.replace(whole, rdma_ports=kept)


DOWN: dict[str, Any] = {"state": "DOWN", "physical_state": "Polling"}
WAITING: dict[str, Any] = {"state": "INIT", "subnet_manager_lid": 0}

EXAMPLES: dict[str, list[Snapshot]] = {
    "rdma-port-down": lasting(15, infiniband(3, **DOWN)),
    "rdma-no-subnet-manager": lasting(15, infiniband(3, **WAITING)),
    "rdma-port-missing": [node(0), *(without(3, float(at)) for at in range(1, 17, 5))],
    "rdma-netdev-down": lasting(15, bond(second="down")),
    "rdma-netdev-disabled": lasting(15, bond(state="DOWN", second="down", enabled=False)),
    "rdma-link-flap": lasting(0, infiniband(3, link_downed_total=1)),
    "rdma-link-slow": lasting(
        65, infiniband(3, rate_bits_per_second=200 * GIGABIT, link_speed="HDR")
    ),
    "rdma-link-below-siblings": [
        node(at, infiniband(3, rate_bits_per_second=200 * GIGABIT, link_speed="HDR"))
        for at in range(0, 70, 5)
    ],
    "rdma-symbol-errors": rising("symbol_error", 30),
    "rdma-link-recoveries": rising("link_error_recovery", 12),
    "rdma-receive-errors": rising("port_rcv_errors", 24),
    "rdma-link-integrity": rising("local_link_integrity_errors", 6),
    "rdma-remote-errors": rising("port_rcv_remote_physical_errors", 240),
    "rdma-buffer-overruns": rising("excessive_buffer_overrun_errors", 6),
    "rdma-discards": rising("port_xmit_discards", 600),
    "rdma-constraint-errors": rising("port_rcv_constraint_errors", 60),
    "rdma-ack-timeouts": rising("local_ack_timeout_err", 60),
    "rdma-packet-loss": rising("packet_seq_err", 3000),
    "rdma-receiver-not-ready": rising("rnr_nak_retry_err", 6000),
    "rdma-corrupt-packets": rising("rx_icrc_encapsulated", 30),
    "rdma-counter-saturated": [
        node(float(at), infiniband(3, link_downed_total=255)) for at in range(0, 70, 5)
    ],
    "rdma-pcie-link": lasting(65, infiniband(3, pcie_width=8)),
    "rdma-pcie-limited": [
        node(float(at), *(infiniband(n, pcie_transfers_per_second=16e9) for n in range(8)))
        for at in range(0, 70, 5)
    ],
    "rdma-gid-missing": [
        node(float(at), bond(roce_v2_address="link-local" if at else "routable"))
        for at in range(0, 910, 300)
    ],
    "rdma-firmware-differs": lasting(65, infiniband(3, firmware="28.39.1002")),
}
