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
            "gpu:0000:01:00.0",
            94,
            "GPU-I:05",
        ),
        ("NVRM: Xid (PCI:0000:D1:00 GPU-I:05, CI:01): 13, pid=1", "gpu:0000:d1:00.0", 13, "CI:01"),
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
        "NVRM: A GPU crash dump has been created. If possible, please run nvidia-bug-report.sh",
        "NVRM: Xid (PCI:0000:3b:00): , no number",
        "NVRM: Xid (PCI:): 79, no address",
        "Xid (PCI:0000:3b:00): 79, not from the driver",
        "a user wrote: GPU 0000:09:00.0: GPU has fallen off the bus",
        "nvidia-nvlink: Nvlink Core is being initialized, major device number 240",
        "mlx5_core 0000:1a:00.0: Port module event: module 0, Cable unplugged",
    ],
)
def test_ordinary_noise_gives_nothing(line: str) -> None:
    assert read(line) is None


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
    read(b"NVRM: GPU " + line + b" fallen off the bus")


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
    assert recovery_action_in("NVML reports XID 154") is None


def test_a_person_clears_a_fault_with_a_line_of_their_own() -> None:
    record = parse_record(b"12,77,5000000,-;fleetmedic: clear xid-95 gpu:0000:37:00.0")
    event = event_from(record, id="kmsg:77", time_seconds=1.0)
    assert event is not None
    assert (event.kind, event.subject, event.message) == ("clear", "gpu:0000:37:00.0", "xid-95")
    for text in (b"fleetmedic: clear xid-95", b"fleetmedic: clear", b"x fleetmedic: clear a b"):
        assert event_from(parse_record(text), id="kmsg:1", time_seconds=1.0) is None
