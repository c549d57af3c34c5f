"""What the agent counts about itself. One owner: the event loop."""

from contract.metrics import Tally


class AgentStats:
    """Plain numbers since the process started; whoever does a thing counts it."""

    def __init__(self) -> None:
        self.reports_sent = 0
        self.reports_acked = 0
        self.reconnects = 0
        self.events_dropped = 0
        self.kmsg_lines = 0
        self.kmsg_malformed = 0
        self.kmsg_overruns = 0
        """Times the kernel overwrote its ring buffer before we had read it."""
        self.kmsg_lost = 0
        """Records that were overwritten before we had read them."""
        self.directives_refused = 0
        self.directives: Tally[tuple[str, str]] = Tally(overflow=("other", "other"))
        """(kind, state) → how many came into that state."""
        self.sample_seconds = 0.0
        """Time spent in reading the sources, all ticks together."""
        self.check_seconds = 0.0
        """Time spent in the checks, all ticks together."""
        self.xid_events: Tally[tuple[int, str]] = Tally(overflow=(0, "other"))
        """(XID, subject) → how many."""
        self.last_xid: dict[str, int] = {}
        """Subject → its newest XID. Only subjects that are GPUs of this node are ever read."""

    def xid(self, code: int, subject: str, count: int = 1) -> None:
        """Count XID events of one GPU (``gpu:0000:3b:00.0``)."""
        self.xid_events.add((code, subject), count)
        if subject in self.last_xid or len(self.last_xid) < MAX_SUBJECTS:
            self.last_xid[subject] = code


MAX_SUBJECTS = 64
"""More GPUs than any machine has; the kernel log is not trusted to name real ones only."""
