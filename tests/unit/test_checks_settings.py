"""What is only shown: settings that slow a node down, what is not as its siblings, and what was left behind."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue.load import shipped
from agent.checks import Checked, Context, Observation, pci, rdma
from agent.checks import gpu as gpu_checks
from agent.checks import host as host_checks
from agent.snapshot import Host, MigInstance, Snapshot
from contract.vocabulary import Action, Severity, SourceState
from tests.examples.gpu import EXAMPLES as GPU_EXAMPLES
from tests.examples.gpu import IDLE, VBIOS, eight, holding, now, with_pods
from tests.examples.gpu import pci as gpu_on_bus
from tests.examples.host import EXAMPLES as HOST_EXAMPLES
from tests.examples.host import fuse, gpu_node, host
from tests.examples.pci import EXAMPLES as PCI_EXAMPLES
from tests.examples.pci import adapter, bus
from tests.examples.rdma import EXAMPLES as RDMA_EXAMPLES
from tests.examples.rdma import bond, node
from tests.support import gpu, port, snapshot, source

CONTEXT = Context(catalogue=shipped())
LEFT: dict[str, Any] = {"process_count": 1, "process_ids": (4242,)}
HELD = (holding("GPU-0"),)

NEW = (
    *("gpu-vbios-differs", "gpu-stray-process", "cpu-governor-not-performance"),
    *("nvidia-peermem-missing", "memory-fragmented", "fuse-queue-full", "kernel-panic-recorded"),
    *("rdma-gid-missing", "pci-acs-enabled", "pci-read-request-differs"),
)


def played(module: Any, shots: list[Snapshot], memory: Any = None) -> Checked[Any]:
    """What the check saw in the last snapshot."""
    checked: Checked[Any] = Checked(memory=module.Memory() if memory is None else memory)
    for shot in shots:
        checked = module.check(shot, checked.memory, CONTEXT)
    return checked


def told(module: Any, shots: list[Snapshot], code: str) -> list[Observation]:
    return [each for each in played(module, shots).observations if each.code.code == code]


@pytest.mark.parametrize("code", NEW)
def test_none_of_them_takes_a_node_out_of_service_or_asks_for_anything(code: str) -> None:
    row = shipped().codes[code]
    assert (row.severity, row.action) == (Severity.INFO, Action.NONE)


class TestVbios:
    def test_the_one_that_differs_is_named_and_not_the_many(self) -> None:
        (found,) = told(gpu_checks, GPU_EXAMPLES["gpu-vbios-differs"], "gpu-vbios-differs")
        assert found.subject == gpu(0).subject
        assert found.evidence == (
            f"VBIOS 96.00.61.00.01, 7 of 8 NVIDIA H100 80GB HBM3 have {VBIOS}"
        )

    @pytest.mark.parametrize(
        "first", [{"vbios_version": ""}, {"model": "NVIDIA T4", "vbios_version": "90.04.38.00.03"}]
    )
    def test_one_that_does_not_say_or_is_of_another_model_is_not_compared(
        self, first: dict[str, Any]
    ) -> None:
        shots = now({**IDLE, "vbios_version": VBIOS}, **first)
        assert told(gpu_checks, shots, "gpu-vbios-differs") == []

    @given(st.lists(st.sampled_from(["a", "b", ""]), max_size=8))
    def test_a_majority_is_never_told_that_it_differs(self, versions: list[str]) -> None:
        gpus = tuple(gpu(n, **{**IDLE, "vbios_version": each}) for n, each in enumerate(versions))
        found = told(gpu_checks, [snapshot(gpus=gpus)], "gpu-vbios-differs")
        assert len(found) <= sum(map(bool, versions)) / 2


class TestStrayProcesses:
    code = "gpu-stray-process"

    def test_what_a_job_left_is_told_with_its_process(self) -> None:
        (found,) = told(gpu_checks, with_pods(HELD, (), **LEFT), self.code)
        assert found.subject == gpu(0).subject
        assert found.evidence.startswith("1 compute processes (process 4242)")

    def test_it_must_last_longer_than_a_pod_takes_to_end(self) -> None:
        assert shipped().codes[self.code].hold_seconds == 300

    @pytest.mark.parametrize(
        "shots",
        [
            with_pods(HELD, HELD, **LEFT),
            with_pods((), (), **LEFT),
            with_pods(HELD, (), process_count=0),
            with_pods(HELD, ()),
            with_pods(HELD, (holding("GPU-1::2"),), **LEFT),
            with_pods(HELD, (holding("pool/gpu-0", resource="gpu.nvidia.com"),), **LEFT),
            with_pods(HELD, (holding("0"),), **LEFT),
        ],
        ids=["held", "never held", "none", "not measured", "shared", "dynamic", "by number"],
    )
    def test_where_its_owner_may_be_a_pod_nothing_is_said(self, shots: list[Snapshot]) -> None:
        assert told(gpu_checks, shots, self.code) == []

    def test_a_daemon_on_every_gpu_is_no_remains_of_a_job(self) -> None:
        shots = with_pods(HELD, ())
        every = tuple(gpu(n, **{**IDLE, **LEFT}) for n in range(8))
        alone = eight({**IDLE, **LEFT}, process_count=2, process_ids=(7, 4242))
        shots = [
            snapshot(at, sources=shot.sources, gpus=gpus, pods=shot.pods)
            for at, shot, gpus in (
                (0, shots[0], every),
                (60, shots[1], every),
                (120, shots[1], alone),
            )
        ]
        assert told(gpu_checks, shots[:2], self.code) == []
        (found,) = told(gpu_checks, shots, self.code)
        assert found.subject == gpu(0).subject

    def test_a_slice_that_a_pod_holds_holds_its_gpu(self) -> None:
        mig = {"mig_enabled": True, "mig_instances": (MigInstance(uuid="MIG-1", gpu_instance=1),)}
        held = (holding("MIG-1", resource="nvidia.com/mig-1g.10gb"),)
        assert told(gpu_checks, with_pods(held, held, **mig, **LEFT), self.code) == []
        assert told(gpu_checks, with_pods(held, (), **mig, **LEFT), self.code)

    def test_while_the_kubelet_is_silent_it_is_as_it_was(self) -> None:
        shots = with_pods(HELD, (), (), **LEFT)
        silent = (source("nvidia"), source("pods", SourceState.FAILING))
        shots[2] = snapshot(120, sources=silent, gpus=shots[2].gpus)
        assert told(gpu_checks, shots, self.code)
        shots[2] = snapshot(120, sources=silent, gpus=eight(IDLE))
        assert told(gpu_checks, shots, self.code) == []

    def test_a_persons_word_ends_it_until_a_pod_has_held_it_again(self) -> None:
        shots = with_pods(HELD, (), (), **LEFT)
        memory = gpu_checks.forget(played(gpu_checks, shots[:2]).memory, gpu(0).subject)
        codes = {each.code.code for each in played(gpu_checks, shots[2:], memory).observations}
        assert self.code not in codes


class TestTheMachine:
    def test_the_governor_is_told_with_how_many(self) -> None:
        code = "cpu-governor-not-performance"
        (found,) = told(host_checks, HOST_EXAMPLES[code], code)
        assert found.evidence == ("of 192 frequency policies 188 by powersave, wanted: performance")

    @pytest.mark.parametrize(
        "shots",
        [
            gpu_node({"cpu_governors": {"performance": 192}}),
            gpu_node({"cpu_governors": {}}),
            host({"cpu_governors": {"powersave": 8}}),
        ],
        ids=["performance", "none", "no accelerator"],
    )
    def test_a_governor_that_harms_nobody_is_not_told(self, shots: list[Snapshot]) -> None:
        assert told(host_checks, shots, "cpu-governor-not-performance") == []

    def test_peermem_is_missed_only_in_the_boot_in_which_it_was_there(self) -> None:
        code = "nvidia-peermem-missing"
        gone = gpu_node({"peermem_loaded": True}, {"peermem_loaded": False})
        assert told(host_checks, gone, code)
        assert told(host_checks, gone[1:], code) == []
        unknown = gpu_node({"peermem_loaded": True}, {"peermem_loaded": None})
        assert told(host_checks, unknown, code) == []
        fields = {"host": Host(peermem_loaded=False), "gpus": gone[1].gpus}
        later = snapshot(999, boot_id="b2", rdma_ports=(port(),), **fields)
        assert told(host_checks, [*gone, later], code) == []
        dark = snapshot(999, boot_id="b1", rdma_ports=(port(state="DOWN"),), **fields)
        assert told(host_checks, [*gone, dark], code) == []

    def test_a_persons_word_is_that_peermem_is_not_wanted(self) -> None:
        gone = gpu_node({"peermem_loaded": True}, {"peermem_loaded": False})
        memory = host_checks.forget(played(host_checks, gone).memory, "host")
        assert played(host_checks, gone[1:], memory).observations == ()

    @pytest.mark.parametrize(("blocks", "is_told"), [(9, True), (10, False)])
    def test_memory_in_small_pieces_is_told_by_node(self, blocks: int, is_told: bool) -> None:
        shots = host({"free_large_blocks": {"node 0": blocks, "node 1": 4_000}})
        found = told(host_checks, shots, "memory-fragmented")
        assert [each.evidence for each in found] == (
            [f"free blocks of 1 MiB and more: {blocks} on node 0; limit 10"] if is_told else []
        )

    @pytest.mark.parametrize(("waiting", "is_told"), [(0, False), (9, False), (10, True)])
    def test_a_fuse_queue_is_full_at_four_fifths(self, waiting: int, is_told: bool) -> None:
        found = told(host_checks, host(fuse(waiting)), "fuse-queue-full")
        assert bool(found) is is_told
        assert all("connection 52" in each.evidence for each in found)

    def test_crash_records_are_told_with_the_newest_and_end_when_they_are_taken(self) -> None:
        code = "kernel-panic-recorded"
        shots = HOST_EXAMPLES[code]
        (found,) = told(host_checks, shots, code)
        assert found.evidence == (
            "2 crash records in /sys/fs/pstore, newest of 2023-11-14 19:26 UTC"
        )
        assert told(host_checks, [*shots, *host({"crash_records": 0})], code) == []


class TestTheBus:
    def test_redirected_traffic_is_told_on_bare_metal(self) -> None:
        (found,) = told(pci, PCI_EXAMPLES["pci-acs-enabled"], "pci-acs-enabled")
        assert found.subject == gpu(0).subject

    @pytest.mark.parametrize("virtual_machine", [True, None])
    def test_a_virtual_machine_has_no_say_in_it(self, virtual_machine: bool | None) -> None:
        device = gpu_on_bus(0, peer_traffic_redirected=True)
        assert told(pci, bus(device, virtual_machine=virtual_machine), "pci-acs-enabled") == []

    @pytest.mark.parametrize(
        ("sizes", "told_of"),
        [
            ((512, 4096, 4096), 1),
            ((4096, 4096, 4096), 0),
            ((512, 4096), 0),
            ((4096, 512, 512), 0),
            ((None, 4096, 4096), 0),
        ],
        ids=["one", "alike", "no majority", "more is no fault", "not measured"],
    )
    def test_an_adapter_is_held_against_its_siblings(
        self, sizes: tuple[int | None, ...], told_of: int
    ) -> None:
        shots = bus(*(adapter(n, size) for n, size in enumerate(sizes)))
        assert len(told(pci, shots, "pci-read-request-differs")) == told_of

    def test_another_model_is_no_sibling(self) -> None:
        shots = bus(adapter(0, 512, device=0x101D), adapter(1), adapter(2))
        assert told(pci, shots, "pci-read-request-differs") == []


class TestAddresses:
    code = "rdma-gid-missing"

    def test_a_lost_address_is_told_with_what_is_left(self) -> None:
        (found,) = told(rdma, RDMA_EXAMPLES[self.code], self.code)
        assert found.subject == "rdma:mlx5_bond_0/1"
        assert found.evidence == (
            "the best RoCE v2 address in its GID table is link-local, was routable (eth0, eth1)"
        )

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ({"roce_v2_address": "none"}, {"roce_v2_address": "none"}),
            ({"roce_v2_address": "link-local"}, {"roce_v2_address": "routable"}),
            ({"roce_v2_address": "routable"}, {"roce_v2_address": None}),
            ({"roce_v2_address": "routable"}, {"roce_v2_address": "none", "state": "DOWN"}),
            ({"roce_v2_address": "routable"}, {"roce_v2_address": "none", "netdevs": ()}),
        ],
        ids=["never had one", "better", "not measured", "down", "in a pod"],
    )
    def test_nothing_else_is(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        assert told(rdma, [node(0, bond(**before)), node(300, bond(**after))], self.code) == []

    def test_a_persons_word_is_that_it_needs_none(self) -> None:
        shots = RDMA_EXAMPLES[self.code]
        memory = rdma.forget(played(rdma, shots).memory, "rdma:mlx5_bond_0/1")
        codes = {each.code.code for each in played(rdma, shots[-1:], memory).observations}
        assert self.code not in codes
