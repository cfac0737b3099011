"""How fast and how many at once the fleet calls somebody else's servers.

Rule: limits belong to an account and a group of models, or to a student's server, and to the whole
fleet; money is never held while a call waits here.
"""

from __future__ import annotations
