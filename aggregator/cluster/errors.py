# ruff: noqa: N818 - they are named after what they say, as HTTP names them
"""What an API server may answer instead of doing what it was asked for.

ApiError               the server refused; the message is its own, clipped
├── NotFound           404
├── Conflict           409: changed meanwhile, or exists already
├── Gone               410: this place in the history is forgotten, list again
├── TooManyRequests    429: wait ``retry_after_seconds``
├── Forbidden          401, 403
└── Unavailable        5xx, no connection, no answer in time, no sense in the answer
"""


class ApiError(Exception):
    """The API server did not do what it was asked for."""

    def __init__(
        self, message: str, *, status: int = 0, causes: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.causes = causes
        """``(reason, message)`` of each cause that the server names, as in ``DisruptionBudget``."""

    def cause(self, reason: str) -> str | None:
        """What the server says about a cause of this name; ``None`` where it does not name it."""
        return next((text for name, text in self.causes if name == reason), None)


class NotFound(ApiError):
    """There is no such object."""


class Conflict(ApiError):
    """The object was changed meanwhile, or exists already."""


class Gone(ApiError):
    """The server no longer remembers that far back."""


class TooManyRequests(ApiError):
    """The server asks for patience."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        retry_after_seconds: float,
        causes: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, status=status, causes=causes)
        self.retry_after_seconds = retry_after_seconds


class Forbidden(ApiError):
    """We may not do this, or the server does not know us."""


class Unavailable(ApiError):
    """The server cannot be reached, or cannot answer now."""
