"""Judges: who says whether an output is right where no scorer can.

Rule: one technology a file, behind `worker.steps.context.JudgePort`.
"""

from __future__ import annotations
