"""The teacher: a large model behind the Messages API.

Rule: one technology a file, behind `worker.ports.Teacher`; nothing here decides what is asked, or
whether to ask again.
"""

from __future__ import annotations
