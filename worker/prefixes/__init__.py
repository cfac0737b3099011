"""The prefix that all sessions share in the provider's cache: tools and system prompt.

Rule: who writes it is a matter of cost alone. Whatever goes wrong here, a call goes out.
"""

from __future__ import annotations
