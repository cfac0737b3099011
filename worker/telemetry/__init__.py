"""Logs and metrics: what operators see."""

from __future__ import annotations
