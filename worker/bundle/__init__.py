"""Bundles: a session's inputs, frozen into one content-addressed object.

Rule: what a bundle says is data, and no credential of the home it was made from is in it.
"""

from __future__ import annotations

from worker.bundle.benchmark import Benchmark, Sample, read_benchmark
from worker.bundle.cache import BundleCache
from worker.bundle.open import Bundle, BundleReport, ToolDescription, open_bundle
from worker.bundle.pack import PackedBundle, pack

__all__ = [
    # making
    "PackedBundle",
    "pack",
    # reading
    "Benchmark",
    "Bundle",
    "BundleCache",
    "BundleReport",
    "Sample",
    "ToolDescription",
    "open_bundle",
    "read_benchmark",
]
