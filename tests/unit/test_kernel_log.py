"""Kernel-log lines as drivers of several generations write them, and lines that are not for us."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.kernel_log import (
    MAX_LINE_BYTES,
    event_from,
    normalise_bus_id,
    parse_record,
    recovery_action_in,
)
from contract.vocabulary import Event
from contract.wire import MAX_TEXT

# One record of three lines: /dev/kmsg writes the line ends as \x0a.
THREE_LINES = (
    r"NVRM: The NVIDIA GPU 0000:81:00.0\x0aNVRM: (PCI ID: 10de:2330) installed in this system has"
    r"\x0aNVRM: fallen off the bus and is not responding to commands."
)


def read(text: str | bytes) -> Event | None:
    line = text.encode() if isinstance(text, str) else text
    return event_from(parse_record(line), id="kmsg:1", time_seconds=5.0)


@pytest.mark.parametrize(
    ("line", "subject", "code", "says"),
    [
        (
            "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            "gpu:0000:3b:00.0",
            79,
            "GPU has fallen off the bus",
        ),
        (
            "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: SM (0x1). RST: No, D-RST: No",
            "gpu:0000:01:00.0/mig:5",
            94,
            "GPU-I:05",
        ),
        (
            "NVRM: Xid (PCI:0000:D1:00 GPU-I:11 GPU-CI:00): 13, pid=1, name=a b, Graphics Exception",
            "gpu:0000:d1:00.0/mig:11",
            13,
            "GPU-CI:00",
        ),
        (
            "NVRM: Xid (PCI:0000:D1:00 GPU-I:05): 95, pid=7194, Uncontained: LTC TAG (0x2, 0x1)",
            "gpu:0000:d1:00.0",
            95,
            "GPU-I:05",
        ),
        ("NVRM: Xid (0000:3b:00): 79", "gpu:0000:3b:00.0", 79, "Xid 79"),
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", "gpu:0000:03:00.0", 14, "Channel"),
        (
            "NVRM: Xid (PCI:00000000:5E:00.0): 48, DBE (double bit error)",
            "gpu:0000:5e:00.0",
            48,
            "DBE",
        ),
        ("NVRM: Xid (PCI:0001:00:00): 119, Timeout after 6s", "gpu:0001:00:00.0", 119, "Timeout"),
        ("NVRM: Xid (PCI:0000:1b:00): 62", "gpu:0000:1b:00.0", 62, "Xid 62"),
        ("NVRM: Xid (PCI:0000:1b:00): 31, Ch 0000000b, intr 1", "gpu:0000:1b:00.0", 31, "Ch 00"),
        ("NVRM: Xid (PCI:0000:1b:00): 987, new kind", "gpu:0000:1b:00.0", 987, "new kind"),
        (
            "[  812.51] NVRM: Xid (PCI:0000:1b:00): 45, pid=1, Ch 00000008",
            "gpu:0000:1b:00.0",
            45,
            "",
        ),
        (
            "NVRM: GPU at 0000:65:00.0 has fallen off the bus.",
            "gpu:0000:65:00.0",
            79,
            "fallen off the bus",
        ),
        (
            "NVRM: GPU 0000:09:00.0: GPU has fallen off the bus.",
            "gpu:0000:09:00.0",
            79,
            "fallen off the bus",
        ),
        (
            "NVRM: GPU at PCI:00000000:AF:00 has fallen off the bus.",
            "gpu:0000:af:00.0",
            79,
            "fallen off the bus",
        ),
        ("NVRM: GPU 18:00.0: GPU has fallen off the bus.", "gpu:0000:18:00.0", 79, "fallen"),
        (
            THREE_LINES,
            "gpu:0000:81:00.0",
            79,
            "not responding",
        ),
    ],
)
def test_every_shape_of_a_fault_line(line: str, subject: str, code: int, says: str) -> None:
    event = read(line)
    assert event is not None
    assert (event.kind, event.subject, event.code) == ("xid", subject, code)
    assert event.finding == f"xid-{code}"
    assert says in event.message
    assert read(f"3,812,5000000,-;{line}") == event  # the same with the header of /dev/kmsg


@pytest.mark.parametrize(
    "line",
    [
        "",
        ";",
        "6,1,2,-;",
        "usb 1-1: new high-speed USB device number 2 using xhci_hcd",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  570.124.06",
        "NVRM: GPU at PCI:0000:3b:00: GPU-5f1ee700-1d1c-4a7e-8001-ac0ffee00000",
        "NVRM: GPU Board Serial Number: 1652923000100",
        "NVRM: GPU 0000:3b:00.0: GPU serial number is 1652923000100.",
        "NVRM: GPU 0000:3b:00.0: rm_init_adapter failed, device minor number 0",
        "NVRM: The NVIDIA probe routine was not called for 1 device(s).",
        "NVRM: A GPU crash dump has been created. If possible, please run nvidia-bug-report.sh",
        "NVRM: Xid (PCI:0000:3b:00): , no number",
        "NVRM: Xid (PCI:): 79, no address",
        "Xid (PCI:0000:3b:00): 79, not from the driver",
        "a user wrote: GPU 0000:09:00.0: GPU has fallen off the bus",
        "nvidia-nvlink: Nvlink Core is being initialized, major device number 240",
        "nvidia-nvswitch0: open (major=511)",
        "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): garbled, Fatal",
        "nvidia-nvswitch0: SXid (PCI:): 20034, Fatal, no address",
        "mlx5_core 0000:1a:00.0: Port module event: module 0, Cable unplugged",
    ],
)
def test_ordinary_noise_gives_nothing(line: str) -> None:
    assert read(line) is None


PREFIXES = (
    "[12345.678] ",
    "[    8.600582] ",
    "[  812.51][ T1234] ",
    "[Tue Nov 24 03:22:00 2026] ",
    "kern  :err   : [  812.51] ",
    "kernel: [123.456789] ",
    "Nov 25 15:40:58 gpu-node-7 kernel: [158878.530066] ",
    "Nov  5 15:40:58 gpu-node-7 kernel: ",
    "2026-11-24T03:22:00.123456+00:00 gpu-node-7.example kernel: ",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_dmesg_and_journalctl_put_before_a_line(prefix: str) -> None:
    for line in (
        "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off",
        "NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.",
        "nvidia-nvswitch3: SXid (PCI:0000:87:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
    ):
        assert read(line) is not None
        assert read(prefix + line) == read(line)


XID_79 = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
SXID = "nvidia-nvswitch3: SXid (PCI:0000:87:00.0): 20034, Fatal, Link 30 LTSSM Fault Up"


@pytest.mark.parametrize(
    "quoting",
    [
        "Out of memory: Killed process 4242 ({}) total-vm:1kB",
        'audit: type=1701 audit(1.2:3): pid=9 comm="{}" exe="/bin/x"',
        "{}",  # after the name of a process that dies, at the start of a line: see below
        "systemd[1]: Started {}",
        "oom-kill:constraint=CONSTRAINT_NONE,task={},pid=4242,uid=0",
        "Nov 25 15:40:58 gpu-node-7 python3[77]: {}",
        "kernelx: {}",
        r"python3[77]: segfault at 0\x0a{}",
    ],
)
def test_what_others_quote_forges_no_fault(quoting: str) -> None:
    for line in (XID_79, SXID, "NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus."):
        if quoting == "{}":  # the kernel keeps fifteen characters of a name
            event = read(f"{line[:15]}[4242]: segfault at 0 ip 0 sp 0 error 4 in libcuda.so")
        else:
            event = read(quoting.format(line))
        assert event is None or event.kind not in ("xid", "sxid"), line


def test_a_process_cannot_choose_what_an_xid_says_of_it() -> None:
    """Its name stands in the driver's own line."""
    name = "from 0x1 (a) to 0x0, RLW_CTRL Fatal XC0 i0 Link 1 (0x0"
    verdict = read(
        f"NVRM: Xid (PCI:0000:3b:00): 154, pid=1, name={name}, GPU recovery action changed "
        "from 0x0 (None) to 0x2 (Node Reboot Required)"
    )
    assert verdict is not None
    assert recovery_action_in(verdict.message) == 2
    event = read(
        f"NVRM: Xid (PCI:0000:3b:00): 145, pid=1, name={name}, "
        "RLW_RXPIPE Nonfatal XC0 i0 Link 13 (0x0409a0c2 0x00000008 0x00000001 0x00000000)"
    )
    assert event is not None
    assert event.finding == "xid-145-rlw-rxpipe-nonfatal"
    instance = read("NVRM: Xid (PCI:0000:3b:00): 94, pid=1, name=GPU-I:05, Contained")
    assert instance is not None
    assert instance.subject == "gpu:0000:3b:00.0"


def test_a_program_in_a_mig_instance_leaves_the_rest_of_the_gpu_alone() -> None:
    for code in range(1, 200):
        event = read(f"NVRM: Xid (PCI:0000:3b:00 GPU-I:05): {code}, pid=1, name=x, y")
        assert event is not None
        is_for_one = code in (13, 31, 43, 45, 94)
        assert event.subject == "gpu:0000:3b:00.0" + ("/mig:5" if is_for_one else "")


@pytest.mark.parametrize(
    ("rest", "finding"),
    [
        (
            (
                "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 0x00000000 "
                "0x00000000 0x00000000 0x00000000)"
            ),
            "xid-149-link-33",
        ),
        ("149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000)", "xid-149-link-4"),
        ("149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x00a00011 0x00000000)", "xid-149-link-10"),
        ("149, NETIR Fatal XC0 i0 Link -1 (0x000fe406 0x00000000 0x00000000)", "xid-149-netir"),
        (
            "149, NETIR_BER_EVENT Nonfatal XC0 i0 Link 03 (0x00086226 0x00000001 0x00000000)",
            "xid-149-ber-nonfatal",
        ),
        (
            (
                "145, pid=876767, name=ray::WorkerDict, RLW_RXPIPE Nonfatal XC0 i0 Link 13 "
                "(0x0409a0c2 0x00000008 0x00000001 0x00000000 0x00100000 0x00000004)"
            ),
            "xid-145-rlw-rxpipe-nonfatal",
        ),
        (
            "145, RLW_SRC_TRACK Nonfatal XC1 i0 Link 12 (0x040988e2 0x00000008)",
            "xid-145-rlw-src-track-nonfatal",
        ),
        ("146, TLW_RX/TLW_RX_PIPE0 Fatal XC0 i0 Link 00 (0x0000000a 0x4)", "xid-146-tlw-rx"),
        ("144, SAW_EGR Nonfatal XC0 i0 Link 00 (0x00000004 0x00000001)", "xid-144-nonfatal"),
        ("144, SAW_EGR Fatal XC0 i0 Link 00 (0x00000004 0x00000001)", "xid-144-fatal"),
        ("149, NETIR Fatal XC0 i0 Link -1", "xid-149"),
        ("149", "xid-149"),
        ("143, NETIR Fatal XC0 i0 Link -1 (0x000fe406 0x00000000)", "xid-143"),
    ],
)
def test_nvlink5_by_unit_severity_and_sub_code(rest: str, finding: str) -> None:
    event = read(f"[171167.62] NVRM: Xid (PCI:0018:01:00): {rest}")
    assert event is not None
    assert event.finding == finding
    assert (event.subject, event.code) == ("gpu:0018:01:00.0", int(rest[:3]))


@pytest.mark.parametrize(
    ("rest", "finding"),
    [
        ("20034, Fatal, Link 30 LTSSM Fault Up", "sxid-20034"),
        ("12028, Non-fatal, Link 32 egress non-posted PRIV error (First)", "sxid-nonfatal-12028"),
        ("20012, Correctable, Link 05 RX CRC", "sxid-nonfatal-20012"),
        ("10003, Fatal, unhandled interrupt in f(1)", "sxid-10003"),
        ("28006, Non-fatal, Link 29 MC TS crumbstore MCTO", "sxid-nonfatal-28006"),
        ("31001, Module 3 failed", "sxid-nonfatal-31001"),
    ],
)
def test_an_sxid_by_its_number_and_what_its_line_says(rest: str, finding: str) -> None:
    event = read(f"nvidia-nvswitch3: SXid (PCI:0000:87:00.0): {rest}")
    assert event is not None
    assert (event.kind, event.subject, event.finding) == ("sxid", "nvswitch:0000:87:00.0", finding)
    assert event.code == int(rest[:5])
    assert rest in event.message


def test_the_registers_of_an_sxid_are_not_a_second_one() -> None:
    start = "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, "
    assert read(start + "Severity 1 Engine instance 30 Sub-engine instance 00") is None
    assert read(start + "Data {0x50610002, 0x10100030, 0x00000000}") is None


def test_one_loss_told_twice_is_counted_once() -> None:
    """What counts occurrences counts them by origin, the part of the id before the colon."""
    numbered, plain = read(XID_79), read("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.")
    assert numbered is not None
    assert plain is not None
    assert (numbered.subject, numbered.finding) == (plain.subject, plain.finding)
    assert numbered.id.partition(":")[0] != plain.id.partition(":")[0]


@pytest.mark.parametrize(
    ("line", "subject", "finding"),
    [
        (
            "NVRM: GPU 0001:00:00.0: RmInitAdapter failed! (0x63:0x55:2344)",
            "gpu:0001:00:00.0",
            "gpu-init-failed",
        ),
        (
            (
                r"NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:139b)\x0aNVRM: installed in this "
                r"system is not supported by the\x0aNVRM: NVIDIA 595.45.04 driver release."
            ),
            "gpu:0000:01:00.0",
            "gpu-not-supported",
        ),
        (
            (
                r"NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:139b)\x0aNVRM: installed in this "
                r"system is not supported by open\x0aNVRM: nvidia.ko because it does not include"
            ),
            "gpu:0000:01:00.0",
            "gpu-not-supported",
        ),
        (
            (
                "NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:\nNVRM: BAR1 is "
                "0M @ 0x0 (PCI:0000:9a:00.0)"
            ),
            "gpu:0000:9a:00.0",
            "gpu-bar-invalid",
        ),
        (
            "NVRM: API mismatch: the client has the version 535.247.01, but",
            "host",
            "nvidia-version-mismatch",
        ),
        (
            r"NVRM: API mismatch: the client 'nvidia-smi' (pid 9)\x0aNVRM: has the version 595",
            "host",
            "nvidia-version-mismatch",
        ),
    ],
)
def test_what_the_driver_says_without_a_number(line: str, subject: str, finding: str) -> None:
    event = read(line)
    assert event is not None
    assert (event.kind, event.subject, event.finding) == ("kernel", subject, finding)
    assert event.code is None
    assert event.message == line


def test_the_header_tells_number_and_time() -> None:
    record = parse_record(b"4,8812,1234567890,-,caller=T99;NVRM: Xid (PCI:0000:1b:00): 79, a;b,c\n")
    assert (record.sequence, record.uptime_seconds) == (8812, 1234.56789)
    assert record.text == "NVRM: Xid (PCI:0000:1b:00): 79, a;b,c"
    plain = parse_record(b"no header; but a semicolon")
    assert (plain.sequence, plain.uptime_seconds) == (None, None)
    assert plain.text == "no header; but a semicolon"


def test_a_header_of_absurd_numbers_is_text() -> None:
    """Python refuses to read a number of more than 4,300 digits."""
    for digits in (30, 400, 5000):
        record = parse_record(b"6," + b"9" * digits + b",1,-;NVRM: Xid (PCI:0000:1b:00): 79, x")
        assert record.sequence is None


def test_an_over_long_line_is_clipped_and_still_read() -> None:
    line = b"NVRM: Xid (PCI:0000:1b:00): 79, " + b"x" * 65_536
    record = parse_record(line)
    assert record.clipped
    assert len(record.text) == MAX_LINE_BYTES
    event = read(line)
    assert event is not None
    assert event.code == 79
    assert len(event.message) == MAX_TEXT
    assert not parse_record(line[:MAX_LINE_BYTES]).clipped


def test_broken_utf8_is_marked_and_still_read() -> None:
    record = parse_record(b"NVRM: Xid (PCI:0000:1b:00): 48, name=\xff\xfe")
    assert record.clipped
    event = event_from(record, id="x", time_seconds=0.0)
    assert event is not None
    assert event.code == 48


@given(st.binary(max_size=400))
def test_no_bytes_are_an_error(line: bytes) -> None:
    read(line)
    read(b"NVRM: Xid (PCI:" + line)
    read(b"NVRM: Xid (PCI:0000:1b:00): " + line)
    read(b"NVRM: Xid (PCI:0000:1b:00): 149, " + line + b" XC0 i0 Link 1 (0x1")
    read(b"NVRM: GPU " + line + b" fallen off the bus")
    read(b"NVRM: The NVIDIA GPU 0000:1b:00.0 (PCI ID: " + line)
    read(b"nvidia-nvswitch0: SXid (PCI:0000:1b:00.0): " + line)
    read(b"[" + line + b"] NVRM: Xid (PCI:0000:1b:00): 79")


@given(st.text("0123456789abcdefABCDEF:.", min_size=1), st.integers(0, 10**40))
@example("f" * 8000 + ":3b:00", 79)
def test_no_address_and_no_number_is_an_error(address: str, number: int) -> None:
    event = read(f"NVRM: Xid (PCI:{address}): {number}, x")
    if event is not None:
        assert len(event.subject) < 60
        assert event.code is not None
        assert event.code < 2**32  # fits every field that will hold it


@given(
    st.integers(0, 0xFFFF),
    st.integers(0, 255),
    st.integers(0, 31),
    st.integers(1, 2**16),
    st.data(),
)
def test_an_address_reads_the_same_however_it_is_written(
    domain: int, bus: int, device: int, number: int, data: st.DataObject
) -> None:
    width = data.draw(st.sampled_from([4, 8]))
    text = f"{domain:0{width}x}:{bus:02x}:{device:02x}" + data.draw(st.sampled_from(["", ".0"]))
    text = text.upper() if data.draw(st.booleans()) else text
    event = read(f"NVRM: Xid (PCI:{text}): {number}, pid=1")
    assert event is not None
    assert event.subject == f"gpu:{domain:04x}:{bus:02x}:{device:02x}.0"
    assert event.code == number


def test_bus_ids_without_a_domain_or_with_a_function() -> None:
    assert normalise_bus_id("3B:00.0") == "0000:3b:00.0"
    assert normalise_bus_id("0000:3b:00.1") == "0000:3b:00.1"
    assert normalise_bus_id("00010000:3b:00") == "10000:3b:00.0"


def test_the_drivers_verdict_is_its_new_number() -> None:
    line = "Xid 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
    assert recovery_action_in(line) == 2
    assert recovery_action_in("Xid 154, from 0x1 (GPU Reset Required) to 0x0 (None)") == 0
    assert recovery_action_in("Xid 154, recovery action changed from 0x4 to 0x1") == 1
    assert recovery_action_in("NVML reports XID 154") is None
    assert recovery_action_in("to 0x2") is None


def test_a_person_clears_a_fault_with_a_line_of_their_own() -> None:
    record = parse_record(b"12,77,5000000,-;fleetmedic: clear xid-95 gpu:0000:37:00.0")
    event = event_from(record, id="kmsg:77", time_seconds=1.0)
    assert event is not None
    assert (event.kind, event.subject, event.message) == ("clear", "gpu:0000:37:00.0", "xid-95")
    for text in (b"fleetmedic: clear xid-95", b"fleetmedic: clear", b"x fleetmedic: clear a b"):
        assert event_from(parse_record(text), id="kmsg:1", time_seconds=1.0) is None
