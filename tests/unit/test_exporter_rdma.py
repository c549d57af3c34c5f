"""The RDMA families of the agent's page."""

from collections import Counter

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from agent.exporter.rdma import CONGESTION, ERRORS, write_rdma
from agent.snapshot import RdmaPort
from agent.sources.rdma import COUNTERS, HW_COUNTERS
from contract.metrics import Page
from tests.examples.rdma import QUIET, bond, infiniband
from tests.prometheus import tools

MOST_SAMPLES_PER_PORT = 25
"""Each costs the agent some 5 µs a page, once a second."""


def page(*ports: RdmaPort) -> str:
    made = Page()
    write_rdma(made, "n1", ports)
    return made.render().decode()


def samples(*ports: RdmaPort) -> list[Sample]:
    return [
        each for family in text_string_to_metric_families(page(*ports)) for each in family.samples
    ]


def test_errors_and_congestion_are_two_families_with_the_kernels_names() -> None:
    port = infiniband(0, counters={**QUIET, "symbol_error": 7, "np_cnp_sent": 9})
    counted = {
        (each.name, each.labels["counter"]): each.value
        for each in samples(port)
        if "counter" in each.labels
    }
    assert counted["fleetmedic_rdma_port_errors_total", "symbol_error"] == 7
    assert counted["fleetmedic_rdma_port_congestion_total", "np_cnp_sent"] == 9
    assert counted["fleetmedic_rdma_port_errors_total", "link_error_recovery"] == 0
    assert not set(ERRORS) & set(CONGESTION)
    assert {*ERRORS, *CONGESTION} <= {*COUNTERS, *HW_COUNTERS}, "each is one that is read"


def test_each_interface_shows_how_often_it_lost_its_carrier() -> None:
    lost = {
        each.labels["interface"]: each.value
        for each in samples(bond())
        if each.name == "fleetmedic_rdma_port_carrier_losses_total"
    }
    assert lost == {"eth0": 0, "eth1": 0}


def test_an_infiniband_port_with_all_its_counters_stays_cheap() -> None:
    everything = dict.fromkeys((*ERRORS, "port_xmit_wait"), 1)
    bytes_ = {"received_bytes_total": 1, "transmitted_bytes_total": 1}
    ports = [infiniband(n, counters=everything, **bytes_) for n in range(8)]
    per_port = Counter(each.labels["device"] for each in samples(*ports))
    assert set(per_port.values()) == {MOST_SAMPLES_PER_PORT}


def test_what_was_not_measured_has_no_sample_and_an_excluded_port_none_at_all() -> None:
    bare = {each.name for each in samples(RdmaPort(device="mlx5_0", port=1))}
    assert bare == {"fleetmedic_rdma_port_info"}
    assert page(RdmaPort(device="mlx5_0", port=1, excluded=True)) == ""


def test_prometheus_own_linter_is_content() -> None:
    said = tools.run("promtool", "check", "metrics", stdin=page(infiniband(), bond()))
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
