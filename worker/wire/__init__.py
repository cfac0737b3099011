"""Pydantic models of all that enters or leaves the process."""

from __future__ import annotations
