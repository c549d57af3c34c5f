"""One example per code of the catalogue: the snapshots that must raise it, oldest first.

Each module has ``EXAMPLES: dict[str, list[Snapshot]]``; ``tests/unit/test_every_code.py`` plays them through all checks.
"""
