"""Where bundles, long texts and results lie: S3, or memory in tests.

Rule: one technology a file, behind `worker.ports.Artifacts`; keys come from `worker.core.keys`.
"""

from __future__ import annotations
