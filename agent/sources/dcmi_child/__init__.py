"""The process that touches DCMI, so that a call that hangs hangs nobody else.

Started by ``agent.sources.dcmi_process`` as ``python -I -S dcmi_child PARENT_PID DIAL_FD LIBRARY``. It imports nothing of
ours but itself, and no more than it must: its memory counts as the agent's.

- stdin: one request per line: its number, then chips to leave alone as ``card:chip``; end of file means "end now".
- stdout: one JSON object per line; ``kind`` is ``ready``, ``sample``, ``event`` or ``unavailable``. Numbers are raw, in
  DCMI's own units, which their names tell; ``agent.sources.dcmi_wire`` makes them ours.
- the dial: a page shared with the parent in which the sampler writes the call it is about to make, so that the
  parent can name a call that hangs without asking anybody.

Two threads of ours: the main one only reads stdin (``__main__``), one samples (``session``). Fault events come on
a thread of the driver's (``events``). None waits for another.
"""
