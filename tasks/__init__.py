"""Celery entry points: parse, call one function, say what came of it."""

from __future__ import annotations
