"""Quarantine of single devices, the edge: each back-end's objects are read and written here.

What is due is decided by ``policy/devices``.
"""
