"""`python -m worker.cli`: the same as `diagnosis`, where the script is not on the path."""

from __future__ import annotations

from worker.cli import main

main()
