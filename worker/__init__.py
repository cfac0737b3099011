"""A distributed worker that diagnoses where a student model fails.

`worker` holds everything but the Celery entry points, which live in `tasks`.
"""

from __future__ import annotations
