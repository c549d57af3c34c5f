"""One HTTP/1.1 request as a scheduler sends it: its head, and how its body is framed. Pure, and strict.

What can be read in two ways is refused (RFC 9112): two lengths, a length beside chunks, folded or malformed headers.
"""

import re
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

MAX_HEADERS = 64

MAX_CHUNK_LINES = 40_000
"""Of one body, two for each chunk: chunks of one byte cost two seconds per MiB."""

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,1000}) HTTP/1\.([01])")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_CONTENT_LENGTH = b"\r\nContent-Length: "
MAX_LENGTH_DIGITS = 15
_REMEMBERED = 256
"""Heads, of up to 16 KiB each."""
_SINGLE = (b"content-length", b"transfer-encoding", b"host", b"expect")
"""Headers of which a second one contradicts the first."""


class RefusedError(Exception):
    """A request that is not taken."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class Head(NamedTuple):
    """What the head of a request says."""

    method: str
    path: str
    length: int
    """Of the body, in bytes; 0 where it comes in chunks."""
    chunked: bool
    last: bool
    """Whether no other request follows on this connection."""
    expects: bool
    """Whether the client waits for ``100 Continue``."""


def head_of(text: bytes) -> Head:
    """One head, without the empty line at its end.

    A client says the same each time, but for the length: what the rest means is remembered.

    Raises:
        RefusedError: it cannot be taken.
    """
    before, found, rest = text.partition(_CONTENT_LENGTH)
    length, line, after = rest.partition(b"\r\n")
    if not found or not _is_length(length):
        return _head(text, False)
    known = _head(before + line + after, True)
    return Head(known.method, known.path, int(length), False, known.last, known.expects)


class Request:
    """One request, whose body grows.

    Args:
        head: what it says.
    """

    __slots__ = ("_ended", "_lines", "between", "body", "head", "kept", "left")

    def __init__(self, head: Head) -> None:
        self.head = head
        self.body = bytearray()
        self.kept = True
        """Whether the body is not too large so far."""
        self.left = head.length
        """Of the body, or of the chunk that is being read."""
        self.between = False
        """Whether the end of a chunk's line comes next."""
        self._ended = False
        self._lines = 0

    def take_chunk_line(self, line: bytes) -> bool:
        """A line outside of the chunks; whether it is the last one."""
        self._lines += 1
        if self._lines > MAX_CHUNK_LINES:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the body comes in too many chunks")
        if self.between:
            if line:
                raise RefusedError(HTTPStatus.BAD_REQUEST, "a chunk is longer than it says")
            self.between = False
            return False
        if self._ended:
            return not line  # trailers are passed over
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "a chunk without a length")
        self.left = int(found[1], 16)
        self._ended = self.left == 0
        return False


@lru_cache(_REMEMBERED)
def _head(text: bytes, counted: bool) -> Head:
    """A head; counted: a length was taken out of it, so that there must be no other."""
    first, *lines = text.split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request")
    headers = _headers(lines, MAX_HEADERS - counted)
    if counted and b"content-length" in headers:
        raise _twice("content-length")
    old = found[3] == b"0"
    if not old and b"host" not in headers:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "a request without Host")
    words = {word.strip() for word in headers.get(b"connection", b"").lower().split(b",")}
    expected = headers.get(b"expect", b"").lower()
    head = Head(
        method=found[1].decode(),
        path=found[2].decode().partition("?")[0],
        length=_length(headers),
        chunked=_is_chunked(headers, old=old, counted=counted),
        last=old or b"close" in words,
        expects=bool(expected) and not old,
    )
    if expected not in (b"", b"100-continue"):
        raise RefusedError(HTTPStatus.EXPECTATION_FAILED, "only 100-continue is expected here")
    return head


def _headers(lines: list[bytes], most: int) -> dict[bytes, bytes]:
    """By name in lower case; a name that stands twice, with commas."""
    if len(lines) > most:
        raise RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "there are too many headers")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "a header cannot be read")
        name, value = name.lower(), value.strip(b" \t")
        if name in headers and name in _SINGLE:
            raise _twice(name.decode())
        headers[name] = headers[name] + b"," + value if name in headers else value
    return headers


def _is_length(text: bytes) -> bool:
    return len(text) <= MAX_LENGTH_DIGITS and text.isdigit()


def _twice(name: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, f"{name} stands there twice")


def _length(headers: dict[bytes, bytes]) -> int:
    text = headers.get(b"content-length")
    if text is None:
        return 0
    if not _is_length(text):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "Content-Length is no whole number")
    return int(text)


def _is_chunked(headers: dict[bytes, bytes], *, old: bool, counted: bool) -> bool:
    coding = headers.get(b"transfer-encoding")
    if coding is None:
        return False
    if old or counted or b"content-length" in headers:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "Transfer-Encoding beside what contradicts it")
    if coding.lower() != b"chunked":
        raise RefusedError(HTTPStatus.NOT_IMPLEMENTED, "the only transfer coding here is chunked")
    return True
