"""What every test may ask for, and how Hypothesis runs on machines that are busy or new."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

pytest_plugins = ("tests.services",)

# A shared machine stalls now and then, and on a new one the first text that is drawn makes a table
# of all Unicode characters. Neither says anything about the code; pytest-timeout ends what hangs.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("patient")

# How wide a terminal is says each test that reads what is printed; rich asks once, on import.
os.environ.pop("COLUMNS", None)

# A runner that was started in the background ignores SIGINT, and so would everything it starts; the
# tests of Ctrl-C mean a foreground.
signal.signal(signal.SIGINT, signal.default_int_handler)
