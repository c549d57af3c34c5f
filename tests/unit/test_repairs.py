"""What a node lets be done to it, and that nothing is ever done twice: rules, admission and the book, without I/O."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue.load import shipped
from agent.checks import gpu_driver
from agent.checks.gpu_driver import LET_GO
from agent.config import AgentSettings
from agent.repairs.admission import MAX_AGE_SECONDS, refusal
from agent.repairs.book import (
    MAX_ENTRIES,
    MAX_OUTPUTS,
    Book,
    Entry,
    after_restart,
    begun,
    decode,
    encode,
)
from agent.repairs.rules import Rules, rules_of
from agent.repairs.work import not_reset
from agent.report import encode as report
from agent.snapshot import MigInstance, Npu, PodDevices, Snapshot
from contract import report_pb2 as pb
from contract.codec import outcome_from_wire
from contract.settings import SettingsError
from contract.vocabulary import Directive, OutcomeState, SourceState
from contract.wire import MAX_REPORT_BYTES
from tests.support import START, finding, gpu, snapshot, source

ALL = "reset-device,restart-service,reboot-node"
ON = {
    "directive_public_key_file": "/key.pub",
    "state_dir": "/state",
    "allow_repairs": ALL,
    "restart_services": "gpu-fabric*=nvidia-fabricmanager.service, xid-4?=gpu@0.service",
    "diagnostic_command": "burn --on {subject}",
}
GPU = gpu().subject


def rules(**settings: Any) -> Rules:
    found = rules_of(AgentSettings(**{**ON, **settings}))
    assert found is not None
    return found


def free(**fields: Any) -> Snapshot:
    """One GPU that nobody uses, as driver and kubelet both say."""
    sources = (source("nvidia"), source("pods"))
    return snapshot(**{"sources": sources, "gpus": (gpu(process_count=0),), **fields})


def order(**fields: Any) -> Directive:
    given_ = {
        "id": "i-1",
        "kind": "reset-device",
        "node": "n1",
        "subject": GPU,
        "code": "xid-48",
        "issued_seconds": START,
        "expires_seconds": START + 120,
        "boot_id": "b1",
    }
    return Directive(**{**given_, **fields})


def why_not(directive: Directive, **around: Any) -> str:
    usual = {
        "node": "n1",
        "boot_id": "b1",
        "now": START + 1,
        "rules": rules(),
        "snapshot": free(),
    }
    return refusal(directive, **{**usual, **around})


class TestRules:
    def test_everything_is_off_by_itself(self) -> None:
        assert rules_of(AgentSettings()) is None
        only_clear = rules_of(AgentSettings(directive_public_key_file="/key.pub"))
        assert only_clear is not None
        assert (set(only_clear.allowed), list(only_clear.repairs)) == ({"clear"}, [])

    def test_what_is_allowed_is_told(self) -> None:
        assert rules().repairs == ("diagnose", "reboot-node", "reset-device", "restart-service")
        assert rules(allow_repairs="reboot-node", diagnostic_command="").repairs == ("reboot-node",)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"allow_repairs": "reboot"}, "allow_repairs names 'reboot'; use any of: reset-device"),
            ({"directive_public_key_file": ""}, "needs directive_public_key_file"),
            ({"state_dir": ""}, "needs state_dir: what was done once must be known"),
            ({"allow_repairs": "", "state_dir": ""}, "diagnose needs state_dir"),
            ({"restart_services": ""}, "restart_services is empty"),
            ({"restart_services": "xid-1=ssh"}, "'xid-1=ssh' is not code=unit"),
            ({"restart_services": "xid-1=--now.service"}, "is not code=unit"),
            ({"restart_services": "xid-1=a b.service"}, "is not code=unit"),
            ({"reset_command": "nvidia-smi -r"}, "must say {device}"),
            ({"reset_command": "smi '{device}"}, "mind the quotes"),
            ({"restart_command": "systemctl restart ssh"}, "must say {unit}"),
            ({"reboot_command": "reboot {node}"}, "says {node}, and none is known here"),
            ({"reboot_command": " "}, "reboot_command is empty"),
            ({"diagnostic_command": "burn {device}"}, "only {subject} is known here"),
            ({"command_prefix": "nsenter '"}, "mind the quotes"),
        ],
    )
    def test_a_setting_that_cannot_be_used_is_named(
        self, settings: dict[str, str], words: str
    ) -> None:
        with pytest.raises(SettingsError, match=re.escape(words)):
            rules(**settings)

    def test_commands_are_words_and_never_a_shells(self) -> None:
        found = rules(
            command_prefix="nsenter -t 1 -m --", reset_command="smi 'a b' -i {device} {} $HOME"
        )
        assert found.reset.with_values(device="0000:1b:00.0") == (
            *("nsenter", "-t", "1", "-m", "--"),
            *("smi", "a b", "-i", "0000:1b:00.0", "{}", "$HOME"),
        )

    def test_only_the_units_named_here_are_ever_restarted(self) -> None:
        found = rules()
        assert found.unit_for("gpu-fabric-down") == "nvidia-fabricmanager.service"
        assert found.unit_for("xid-45") == "gpu@0.service"
        assert found.unit_for("xid-145") == ""


class TestAdmission:
    @pytest.mark.parametrize(
        "directive",
        [
            order(),
            order(boot_id=""),
            order(subject=f"{GPU}/mig:3"),
            order(kind="restart-service", code="gpu-fabric-down", subject=""),
            order(kind="reboot-node", subject=""),
            order(kind="diagnose"),
            order(kind="diagnose", subject=""),
            order(kind="diagnose", subject="rdma:mlx5_0/1"),
            order(kind="clear"),
        ],
    )
    def test_what_may_be_started(self, directive: Directive) -> None:
        assert why_not(directive) == ""

    @pytest.mark.parametrize(
        ("directive", "words"),
        [
            (order(node="n2"), "it is for node 'n2', and this is 'n1'"),
            (order(node=""), "it is for node ''"),
            (order(boot_id="b0"), "it is for boot b0, and this is boot b1"),
            (order(expires_seconds=START), "it expired 1 s ago"),
            (order(expires_seconds=0.0), "it expired"),
            (order(issued_seconds=0.0), "too old"),
            (
                order(issued_seconds=START - MAX_AGE_SECONDS - 1, expires_seconds=START + 10**9),
                "more than 900 s is too old",
            ),
            (order(issued_seconds=START + 3600), "set the clocks"),
            (order(kind="format-disk"), "'format-disk' is not allowed on this node"),
            (order(subject="gpu:0000:1b:00.0; reboot"), "is no subject of ours"),
            (order(subject="gpu:-i"), "is no GPU"),
            (order(subject="npu:0"), "npu:0 is no GPU, and only GPUs are reset"),
            (order(subject=""), "the whole node is no GPU"),
            (order(subject="gpu:0000:ff:00.0"), "is not among the GPUs"),
            (order(kind="restart-service", code="xid-79"), "names no service that mends xid-79"),
            (order(kind="clear", code=""), "which finding to forget"),
        ],
    )
    def test_what_may_not(self, directive: Directive, words: str) -> None:
        assert words in why_not(directive)

    @pytest.mark.parametrize("kind", ["reset-device", "restart-service", "reboot-node", "diagnose"])
    def test_what_is_not_on_the_list_of_this_node(self, kind: str) -> None:
        nothing = rules(allow_repairs="", diagnostic_command="")
        assert "is not allowed on this node" in why_not(order(kind=kind), rules=nothing)

    def test_one_at_a_time_but_a_finding_can_always_be_forgotten(self) -> None:
        assert "i-0 is being carried out" in why_not(order(), running="i-0")
        assert why_not(order(kind="clear"), running="i-0") == ""

    def test_what_may_have_been_forgotten_is_not_done_again(self) -> None:
        assert why_not(order(), forgotten_seconds=START - 1) == ""
        assert "may have been carried out already" in why_not(order(), forgotten_seconds=START)

    def test_a_reboot_that_nobody_could_prove_is_not_begun(self) -> None:
        nameless = order(kind="reboot-node", subject="", boot_id="")
        assert "no reboot could be proven" in why_not(nameless, boot_id="")

    def test_a_device_in_use_is_left_alone(self) -> None:
        pod = PodDevices(
            namespace="ml", pod="train-0", resource="nvidia.com/gpu", device_ids=("GPU-0",)
        )
        assert why_not(order(), snapshot=free(pods=(pod,))) == f"{GPU} is held by ml/train-0"
        busy = free(gpus=(gpu(process_count=2),))
        for kind, subject in (("reset-device", GPU), ("diagnose", GPU), ("diagnose", "")):
            directive = order(kind=kind, subject=subject)
            assert why_not(directive, snapshot=busy) == f"2 processes use {GPU}"

    def test_a_npu_in_use_is_not_tested_under_its_pod(self) -> None:
        pod = PodDevices(
            namespace="ml", pod="a", resource="huawei.com/Ascend910", device_ids=("Ascend910-3",)
        )
        npu = Npu(index=3, card=1, chip=1)
        held = free(gpus=(), npus=(npu,), pods=(pod,))
        for subject in (npu.subject, ""):
            directive = order(kind="diagnose", subject=subject)
            assert why_not(directive, snapshot=held) == f"{npu.subject} is held by ml/a"

    def test_who_holds_a_slice_holds_the_gpu(self) -> None:
        whole = gpu(
            process_count=0,
            mig_instances=(MigInstance(uuid="MIG-1", gpu_instance=1),),
        )
        pod = PodDevices(
            namespace="ml", pod="small", resource="nvidia.com/mig-1g", device_ids=("MIG-1",)
        )
        held = free(gpus=(whole,), pods=(pod,))
        assert "is held by ml/small" in why_not(order(subject=f"{GPU}/mig:3"), snapshot=held)

    def test_not_to_know_who_uses_a_device_is_no_permission(self) -> None:
        mute = source("pods", SourceState.FAILING, "no answer")
        blind = free(sources=(source("nvidia"), mute))
        assert "nobody can say which pods hold" in why_not(order(), snapshot=blind)
        unread = gpu(process_count=None)
        assert why_not(order(), snapshot=free(gpus=(unread,))) == "", "the kubelet knows"
        alone = free(gpus=(unread,), sources=(source("nvidia"),))
        assert "neither its driver nor a kubelet tells" in why_not(order(), snapshot=alone)
        dynamic = PodDevices(
            namespace="ml", pod="p", resource="gpu.nvidia.com", device_ids=("pool/gpu-3",)
        )
        claimed = free(gpus=(unread,), pods=(dynamic,))
        assert "nobody can say whether" in why_not(order(), snapshot=claimed)


def entry(number: int, state: OutcomeState = OutcomeState.DONE, **fields: Any) -> Entry:
    given_ = {
        "id": f"i-{number}",
        "kind": "diagnose",
        "state": state,
        "issued_seconds": START + number,
        "started_seconds": START + number,
        "boot_id": "b1",
    }
    return Entry(**{**given_, **fields})


class TestBook:
    @given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from(OutcomeState)), max_size=200))
    def test_whatever_left_it_is_older_than_what_it_lets_in(
        self, wanted: list[tuple[int, OutcomeState]]
    ) -> None:
        book = Book(node="n1")
        ever: dict[str, Entry] = {}
        running = 0
        for number, state in wanted:
            running += state is OutcomeState.RUNNING
            if running > MAX_ENTRIES:
                break
            ever[f"i-{number}"] = entry(number, state)
            book = book.with_entry(entry(number, state))
        assert len(book.entries) <= MAX_ENTRIES
        for each in ever.values():
            kept = book.find(each.id)
            assert kept is not None or each.issued_seconds <= book.forgotten_seconds
            assert kept is not None or each.state is not OutcomeState.RUNNING

    def test_only_the_newest_keep_their_words(self) -> None:
        book = Book(node="n1")
        for number in range(20):
            book = book.with_entry(entry(number, output="x" * 1024))
        kept = [each for each in book.entries if each.output]
        assert kept == list(book.entries[-MAX_OUTPUTS:])

    def test_it_is_read_as_it_was_written(self) -> None:
        book = Book(node="n1").with_entry(entry(1)).with_entry(entry(2, OutcomeState.RUNNING))
        assert decode(encode(book), node="n1") == book

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b"[]", b'{"node": "n1", "entries": [{}]}', b"\x00" * 512]
    )
    def test_what_is_no_book_is_never_an_empty_one(self, content: bytes) -> None:
        with pytest.raises(msgspec.MsgspecError):
            decode(content, node="n1")

    def test_nor_is_a_newer_one_or_that_of_another_node(self) -> None:
        book = Book(node="n1")
        with pytest.raises(ValueError, match="version 2"):
            decode(encode(msgspec.structs.replace(book, version=2)), node="n1")
        with pytest.raises(ValueError, match="of node 'n1', and this is 'n2'"):
            decode(encode(book), node="n2")

    @pytest.mark.parametrize(
        ("kind", "boot_id", "after_seconds", "state", "words"),
        [
            ("reboot-node", "b2", 60, OutcomeState.DONE, "new boot id b2"),
            ("reboot-node", "b2", 10**6, OutcomeState.DONE, "new boot id b2"),
            ("reboot-node", "b1", 60, OutcomeState.RUNNING, ""),
            ("reboot-node", "b1", 900, OutcomeState.FAILED, "no reboot within 900 s"),
            ("reboot-node", "b1", -3600, OutcomeState.FAILED, "no reboot within"),
            ("reboot-node", "", 60, OutcomeState.FAILED, "not known"),
            ("reset-device", "b1", 1, OutcomeState.FAILED, "whether it worked is not known"),
            ("reset-device", "b2", 1, OutcomeState.FAILED, "whether it worked is not known"),
            ("diagnose", "b1", 1, OutcomeState.FAILED, "the agent restarted in the middle"),
            ("restart-service", "b1", 1, OutcomeState.FAILED, "the agent restarted"),
        ],
    )
    def test_what_a_restart_finds_running(
        self, kind: str, boot_id: str, after_seconds: float, state: OutcomeState, words: str
    ) -> None:
        left = begun(order(kind=kind), now=START, boot_id="b1")
        before = Book(node="n1").with_entry(entry(7)).with_entry(left)
        book = after_restart(
            before, boot_id=boot_id, now=START + after_seconds, reboot_limit_seconds=900
        )
        found = book.find("i-1")
        assert found is not None
        assert (found.state, book.find("i-7")) == (state, entry(7))
        assert words in found.evidence


class TestEvidence:
    def missing(self, *, nvidia: Any = None, **fields: Any) -> str:
        read = {"energy_joules_total": 5.0, "ecc_corrected_total": 0, "ecc_uncorrected_total": 0}
        shot = snapshot(sources=(nvidia or source("nvidia"),), gpus=(gpu(**{**read, **fields}),))
        return not_reset(shot, GPU, {GPU: (9_000.0, 3.0)})

    def test_a_device_that_answers_and_counts_anew_was_reset(self) -> None:
        assert self.missing() == ""
        assert self.missing(energy_joules_total=None) == "", "then the error counters tell"

    def test_a_driver_that_we_let_go_of_is_not_a_broken_one(self) -> None:
        for reason, wrong in (
            (f"{LET_GO} gpu:x is reset", []),
            ("NVML is out of order", ["nvidia-failing"]),
        ):
            shot = snapshot(sources=(source("nvidia", SourceState.FAILING, reason),))
            assert [each.code.code for each in gpu_driver.check(shot, shipped())] == wrong

    def test_anything_less_is_no_proof(self) -> None:
        assert "went on as before" in self.missing(energy_joules_total=9_001.0)
        assert "not there any more" in self.missing(lost=True)
        assert "still asks for a reset" in self.missing(reset_required=True)
        stuck = source("nvidia", SourceState.STUCK, "no answer for 3 s")
        assert "the driver does not answer: no answer for 3 s" in self.missing(nvidia=stuck)
        shot = snapshot(sources=(source("nvidia"),), gpus=(gpu(energy_joules_total=5.0),))
        assert "none of" in not_reset(shot, GPU, {})


class TestReport:
    def sent(self, shot: Snapshot, **more: Any) -> pb.NodeReport:
        usual = {
            "sequence": 1,
            "urgent": False,
            "events_dropped_total": 0,
            "agent_version": "1",
        }
        found = [finding(), finding("xid-48"), finding("host-x", subject="host")]
        return pb.NodeReport.FromString(report(shot, found, (), **{**usual, **more}))

    def test_it_tells_outcomes_repairs_and_holders(self) -> None:
        pods = tuple(
            PodDevices(namespace="ml", pod=name, resource="nvidia.com/gpu", device_ids=("GPU-0",))
            for name in ("b", "a")
        )
        outcome = entry(1, evidence="proven").outcome()
        told = self.sent(free(pods=pods), outcomes=(outcome,), repairs=("reboot-node",))
        assert [outcome_from_wire(each) for each in told.outcomes] == [outcome]
        assert list(told.repairs) == ["reboot-node"]
        assert [(each.subject, list(each.pods)) for each in told.holders] == [
            (GPU, ["ml/a", "ml/b"])
        ]

    def test_that_nobody_holds_a_device_is_told_too(self) -> None:
        other = PodDevices(
            namespace="ml", pod="a", resource="nvidia.com/gpu", device_ids=("GPU-1::3",)
        )
        nic = PodDevices(namespace="ml", pod="b", resource="rdma/hca", device_ids=("mlx5_0",))
        shot = free(gpus=(gpu(0), gpu(1)), pods=(other, nic))
        assert [(each.subject, list(each.pods)) for each in self.sent(shot).holders] == [
            (GPU, []),
            (gpu(1).subject, ["ml/a"]),
        ]

    def test_devices_that_are_well_are_told_of_after_those_with_findings(self) -> None:
        """Whoever packs pods wants to know; and what is cut off is cut off at the end."""
        held = PodDevices(namespace="ml", pod="a", resource="nvidia.com/gpu", device_ids=("GPU-1",))
        shot = free(gpus=(gpu(1), gpu(0), gpu(2)), pods=(held,))
        told = [(each.subject, list(each.pods)) for each in self.sent(shot).holders]
        assert told == [(GPU, []), (gpu(1).subject, ["ml/a"]), (gpu(2).subject, [])]

    @pytest.mark.parametrize(
        ("held", "told"), [("Ascend910-7", []), ("Ascend910-3", ["ml/a"]), ("whole-node", None)]
    )
    def test_of_an_npu_as_well(self, held: str, told: list[str] | None) -> None:
        npus = (Npu(index=3, card=1, chip=1), Npu(index=7, card=3, chip=1))
        pod = PodDevices(
            namespace="ml", pod="a", resource="huawei.com/Ascend910", device_ids=(held,)
        )
        shot = free(gpus=(), npus=npus, pods=(pod,))
        sent = pb.NodeReport.FromString(
            report(
                shot,
                [finding("npu-lost", subject=npus[0].subject)],
                (),
                sequence=1,
                urgent=False,
                events_dropped_total=0,
                agent_version="1",
            )
        )
        found = [list(each.pods) for each in sent.holders if each.subject == npus[0].subject]
        assert found == ([] if told is None else [told])

    @pytest.mark.parametrize(
        ("resource", "device"), [("nvidia.com/gpu", "nvidia0"), ("gpu.nvidia.com", "n1/gpu-0")]
    )
    def test_not_where_the_kubelet_names_gpus_otherwise(self, resource: str, device: str) -> None:
        """Then no match means nothing."""
        pod = PodDevices(namespace="ml", pod="a", resource=resource, device_ids=(device,))
        assert not self.sent(free(pods=(pod,))).holders

    def test_no_word_of_holders_while_the_kubelet_is_silent(self) -> None:
        pod = PodDevices(namespace="ml", pod="a", resource="r", device_ids=("GPU-0",))
        silent = (source("nvidia"), source("pods", SourceState.STUCK))
        assert not self.sent(free(pods=(pod,), sources=silent)).holders

    def test_it_stays_small_whatever_is_remembered(self) -> None:
        book = Book(node="n1")
        for number in range(100):
            ended = entry(number).ended(OutcomeState.DONE, "é" * 5000, now=START, output="é" * 5000)
            book = book.with_entry(ended)
        told = self.sent(free(), outcomes=book.outcomes())
        assert len(told.outcomes) == MAX_ENTRIES
        assert told.ByteSize() < MAX_REPORT_BYTES / 10
