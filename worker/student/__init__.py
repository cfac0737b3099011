"""Students: the models under diagnosis, each behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations
