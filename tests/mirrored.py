"""A book of scores and the mirror of it that the extender's process has, with all that goes over between them."""

from aggregator.feeds.extender_frames import HEADER_BYTES, Update, body_bytes, framed, read_update
from aggregator.feeds.extender_mirror import Mirror
from aggregator.feeds.extender_publication import Publication
from aggregator.scores.book import ScoreBook
from aggregator.scores.terms import Newcomer


class Wire:
    """A book, and a mirror that is told of it when somebody pushes."""

    def __init__(self) -> None:
        self.book = ScoreBook()
        self.publication = Publication(self.book)
        self.mirror = Mirror()
        self.now = 0.0
        self.told: list[Update] = []
        """What went over at the last push."""

    def push(self, *, leading: bool = True) -> None:
        """Tell what became another, through frames."""
        self.told = []
        for update in self.publication.updates(self.now, leading=leading):
            frame = framed(update)
            assert body_bytes(frame[:HEADER_BYTES]) == len(frame) - HEADER_BYTES
            self.told.append(read_update(frame[HEADER_BYTES:]))
            self.mirror.apply(self.told[-1])

    def want(self, pod: Newcomer) -> bool:
        """This pod is asked about; whether it is for the first time."""
        return self.publication.want(pod, self.now)
