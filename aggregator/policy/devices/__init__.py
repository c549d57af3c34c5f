"""Quarantine of single devices: which ones, by which back-ends, and what to write next. Pure.

A node is tainted first and at once, as always. Where a scheduler can keep pods from one device, that device is taken out
by itself, and once that is seen to hold the node's taint is relaxed, so that its healthy devices serve on.
``aggregator/cluster/devices`` reads and writes.
"""
