"""A sysfs tree of RDMA adapters as Linux lays it out: real folders under ``devices``, links under ``class``.

The shape is that of an eight-GPU machine: eight InfiniBand adapters, a bond over both ports of a storage adapter that
shows under its first function, one virtual function, one slower management adapter.
"""

from dataclasses import dataclass
from pathlib import Path

NDR = "400 Gb/sec (4X NDR)"
GEN5 = "32.0 GT/s PCIe"

COUNTERS = {
    "link_downed": 0,
    "link_error_recovery": 0,
    "symbol_error": 0,
    "port_rcv_errors": 0,
    "port_rcv_remote_physical_errors": 0,
    "local_link_integrity_errors": 0,
    "excessive_buffer_overrun_errors": 0,
    "port_xmit_discards": 0,
    "port_xmit_constraint_errors": 0,
    "port_rcv_constraint_errors": 0,
    "port_rcv_switch_relay_errors": 0,
    "VL15_dropped": 0,
    "port_xmit_wait": 2489603687,
    "port_rcv_data": 87_000_000_000,
    "port_xmit_data": 86_000_000_000,
    "port_rcv_packets": 317_548_853_677,
    "port_xmit_packets": 317_548_853_677,
    "multicast_rcv_packets": 12,
    "unicast_rcv_packets": 317_548_853_665,
}
HW_COUNTERS = {
    "duplicate_request": 2,
    "implied_nak_seq_err": 0,
    "lifespan": 12,
    "local_ack_timeout_err": 0,
    "out_of_buffer": 0,
    "out_of_sequence": 0,
    "packet_seq_err": 0,
    "req_cqe_error": 0,
    "req_cqe_flush_error": 40,
    "req_remote_access_errors": 0,
    "req_remote_invalid_request": 0,
    "resp_cqe_error": 0,
    "resp_cqe_flush_error": 40,
    "resp_local_length_error": 0,
    "resp_remote_access_errors": 0,
    "rnr_nak_retry_err": 0,
    "roce_adp_retrans_to": 0,
    "roce_slow_restart": 0,
    "rx_icrc_encapsulated": 0,
}
CONGESTION = {
    "np_cnp_sent": 0,
    "np_ecn_marked_roce_packets": 0,
    "rp_cnp_handled": 0,
    "rp_cnp_ignored": 0,
}


def put(folder: Path, name: str, value: object) -> None:
    """One file, ending in a line end as the kernel's do."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


@dataclass
class Adapter:
    """One adapter of the tree, to change it by hand."""

    root: Path
    name: str
    function: Path
    """Its PCI function's folder."""

    def set(self, **values: object) -> None:
        """Files of port 1, ``/`` written as two underscores: ``counters__link_downed=3``."""
        for name, value in values.items():
            put(self.port(), name.replace("__", "/", 1), value)

    def port(self, number: int = 1) -> Path:
        """A port's folder."""
        return self.function / "infiniband" / self.name / "ports" / str(number)

    def netdev(self, name: str) -> Path:
        """The folder of one of its interfaces."""
        return self.function / "net" / name


class RdmaTree:
    """The tree under ``root``, which is to be the source's ``sysfs_root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for kind in ("infiniband", "net"):
            (root / "class" / kind).mkdir(parents=True)

    def add(
        self,
        name: str,
        bus: int,
        *,
        function: int = 0,
        link_layer: str = "InfiniBand",
        netdevs: tuple[str, ...] = (),
        rate: str = NDR,
        adapter_type: str = "MT4129",
        board: str = "MT_0000000838",
        ports: int = 1,
    ) -> Adapter:
        """One adapter behind a root port of its own; ``bus`` makes its address."""
        bridge = self.root / "devices" / f"pci0000:{bus - 1:02x}" / f"0000:{bus - 1:02x}:01.0"
        folder = bridge / f"0000:{bus:02x}:00.{function}"
        adapter = Adapter(self.root, name, folder)
        for each in (bridge, folder):
            put(each, "max_link_speed", GEN5)
            put(each, "max_link_width", 16)
            put(each, "current_link_speed", GEN5)
            put(each, "current_link_width", 16)
        put(folder, "numa_node", 0 if bus < 0x80 else 1)
        device = folder / "infiniband" / name
        put(device, "fw_ver", "28.41.1000")
        put(device, "hca_type", adapter_type)
        put(device, "board_id", board)
        (device / "device").symlink_to(folder)
        for number in range(1, ports + 1):
            self._port(adapter.port(number), link_layer, rate)
        (self.root / "class" / "infiniband" / name).symlink_to(device)
        for interface in netdevs:
            self.interface(folder, interface)
        return adapter

    def interface(self, function: Path, name: str, **files: object) -> None:
        """One network interface of a PCI function."""
        folder = function / "net" / name
        given = {
            "operstate": "up",
            "carrier_changes": 1,
            "carrier_down_count": 0,
            "dev_port": 0,
            "flags": "0x1003",
        }
        for file, value in {**given, **files}.items():
            put(folder, file, value)
        if not (folder / "device").exists():
            (folder / "device").symlink_to(function)
        (self.root / "class" / "net" / name).symlink_to(folder)

    def bond(self, name: str, *members: Path) -> None:
        """A bond over these interfaces."""
        folder = self.root / "devices" / "virtual" / "net" / name
        put(folder, "bonding/slaves", " ".join(each.name for each in members))
        (self.root / "class" / "net" / name).symlink_to(folder)
        for each in members:
            (each / "master").symlink_to(folder)

    def _port(self, folder: Path, link_layer: str, rate: str) -> None:
        ethernet = link_layer == "Ethernet"
        plain = {
            "link_layer": link_layer,
            "state": "4: ACTIVE",
            "phys_state": "5: LinkUp",
            "rate": rate,
            "lid": "0x0" if ethernet else "0x1b",
            "sm_lid": "0x0" if ethernet else "0x1",
        }
        for file, value in plain.items():
            put(folder, file, value)
        for file, count in COUNTERS.items():
            put(folder, f"counters/{file}", count)
        for file, count in (HW_COUNTERS | (CONGESTION if ethernet else {})).items():
            put(folder, f"hw_counters/{file}", count)


def eight_gpu_machine(root: Path) -> dict[str, Adapter]:
    """Eight compute adapters, a storage bond, a virtual function and a management adapter, by name."""
    tree = RdmaTree(root)
    adapters = [tree.add(f"mlx5_{n}", 0x18 + 0x10 * n, netdevs=(f"ib{n}",)) for n in range(8)]
    storage = tree.add(
        "mlx5_bond_0",
        0xA8,
        link_layer="Ethernet",
        netdevs=("eth0",),
        rate="200 Gb/sec (2X NDR)",
        adapter_type="MT41692",
        board="MT_0000000884",
    )
    second = storage.function.with_name("0000:a8:00.1")
    tree.interface(second, "eth1")
    tree.bond("bond0", storage.netdev("eth0"), second / "net" / "eth1")
    virtual = tree.add("mlx5_9", 0x18, function=2)
    (virtual.function / "physfn").symlink_to(adapters[0].function)
    management = tree.add(
        "mlx5_10",
        0xB8,
        link_layer="Ethernet",
        netdevs=("eth2",),
        rate="25 Gb/sec (1X EDR)",
        adapter_type="MT4125",
        board="MT_0000000359",
    )
    return {each.name: each for each in (*adapters, storage, virtual, management)}
