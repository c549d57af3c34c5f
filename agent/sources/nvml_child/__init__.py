"""The process that touches NVML, so that a call that hangs for minutes hangs nobody else.

Started by ``agent.sources.nvml_process`` as ``python -I -S nvml_child PARENT_PID DIAL_FD LIBRARY_FOLDER``. It imports
nothing of ours but itself, and no more than it must: its memory counts as the agent's. There it is the package
``nvml_child``, for ``agent.sources`` would bring msgspec; so its files import each other relatively.

- stdin: a request number per line; end of file means "end now", also while a call hangs.
- stdout: one JSON object per line; ``kind`` is ``ready``, ``sample``, ``event`` or ``unavailable``. Numbers are raw,
  in NVML's own units, which their names tell; ``agent.sources.nvml_wire`` makes them ours. Every sample has every
  value: what is read seldom is kept here, as text, so that repeating it costs nothing.
- the dial: a page shared with the parent in which the sampler writes the call it is about to make, so that the
  parent can name a call that hangs without asking anybody.

Three threads: the main one only reads stdin (``__main__``), one samples (``session``), one waits for events
(``events``). None waits for another.
"""
