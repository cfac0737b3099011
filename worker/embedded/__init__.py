"""The single-machine default: every part of the stack as a real server, without Docker or root.

Nothing here is a stand-in for a server: Valkey, SeaweedFS and llama.cpp come out of wheels and are
started as processes of their own. Only the teacher is simulated, and it too speaks HTTP.
"""

from __future__ import annotations
