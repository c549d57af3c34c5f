"""What the aggregator and the extender's process tell each other: frames of MessagePack, each after its length. Pure.

Down go the scores, as changes to what was told before; up go the pods that are asked about, and what was counted.
"""

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from aggregator.feeds.extender_counts import Counted
from aggregator.scores.ailing import Ailment
from aggregator.scores.model import Ints
from aggregator.scores.terms import Newcomer

HEADER_BYTES = 4
"""Of the length, big endian."""

MAX_FRAME_BYTES = 64 << 20
"""A hundred thousand nodes need 5 MiB."""

_ROW, _VALUE = np.dtype("<i4"), np.dtype("<i2")


class Change(msgspec.Struct, frozen=True, array_like=True):
    """Numbers of some rows, or all of them anew."""

    rows: bytes
    """As 32-bit integers; empty: all."""
    values: bytes
    """As 16-bit integers, -32768..32767."""

    @property
    def whole(self) -> bool:
        """Whether it is all of them."""
        return not self.rows


class Update(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became another since the last one. Each is whole in itself: names and numbers are of one moment."""

    names: dict[int, str] = {}
    """By row; an empty one: the row is nobody's now."""
    ailing: dict[int, Ailment | None] = {}
    """By row; ``None``: nothing is wrong there any more."""
    verdicts: Change | None = None
    generic: Change | None = None
    scores: tuple[Newcomer, Change] | None = None
    dropped: list[Newcomer] = []
    """Pods whose scores are not kept up any more."""
    settled_seconds: float | None = None
    leading: bool | None = None


class Wanted(msgspec.Struct, frozen=True, tag="wanted"):
    """A pod was asked about: its scores are to be sent, and kept up for a while."""

    pod: Newcomer


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """The port is open."""


class Report(msgspec.Struct, frozen=True, tag="counted"):
    """What was counted since the last one."""

    counted: Counted


Word = Wanted | Serving | Report
"""What goes up."""

_encode = msgspec.msgpack.Encoder().encode
_decode_update = msgspec.msgpack.Decoder(Update).decode
_decode_word = msgspec.msgpack.Decoder(Word).decode


def framed(message: Update | Word) -> bytes:
    """One frame."""
    body = _encode(message)
    return len(body).to_bytes(HEADER_BYTES) + body


def body_bytes(header: bytes) -> int:
    """How long the frame behind this header is.

    Raises:
        ValueError: no frame is that long.
    """
    length = int.from_bytes(header)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes, more than {MAX_FRAME_BYTES}")
    return length


def read_update(body: bytes) -> Update:
    """What came down.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _decode_update(body)


def read_word(body: bytes) -> Word:
    """What came up; raises as above."""
    word: Word = _decode_word(body)
    return word


def change_of(before: Ints | None, after: Ints) -> Change | None:
    """What to tell of an array; ``None``: nothing.

    Args:
        before: as it was told last, by row; ``None``: never.
        after: as it is now.
    """
    if before is None or len(before) != len(after):
        return Change(b"", after.astype(_VALUE).tobytes())
    rows = np.flatnonzero(before != after)
    if not len(rows):
        return None
    if len(rows) * 3 > len(after):
        return Change(b"", after.astype(_VALUE).tobytes())
    return Change(rows.astype(_ROW).tobytes(), after[rows].astype(_VALUE).tobytes())


def changed(before: Ints | None, change: Change) -> Ints:
    """The array after a change.

    Raises:
        ValueError: there was none to change, or it has no such row.
    """
    values = np.frombuffer(change.values, _VALUE).astype(np.int64)
    if change.whole:
        return values
    rows = np.frombuffer(change.rows, _ROW)
    if before is None or int(rows.max()) >= len(before):
        raise ValueError("a change to numbers that were never told")
    after = before.copy()
    after[rows] = values
    return after


def begun_anew(scores: Ints, rows: Iterable[int], generic: Ints) -> Ints:
    """A pod's scores where some rows are another node's now: theirs without a pod, until they are told. Both ends do it alike.

    Args:
        scores: shape (n,), as they were told; not changed.
        rows: those that have another name.
        generic: the scores without a pod, of the same moment as the names.
    """
    here = [row for row in rows if row < len(scores)]
    if not here:
        return scores
    found = scores.copy()
    found[here] = generic[here]
    return found


def fresh(before: Mapping[int, Ailment], after: Mapping[int, Ailment]) -> dict[int, Ailment | None]:
    """What to tell of what ails the nodes."""
    if before == after:
        return {}
    told: dict[int, Ailment | None] = dict.fromkeys(before.keys() - after.keys())
    told.update((row, each) for row, each in after.items() if before.get(row) != each)
    return told
