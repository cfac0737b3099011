"""Celery's settings: each with the reason why it is not the default.

Rule: a message is a hint, and nothing is only in the broker. The measurements behind these lines are
in `docs/celery.md`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from kombu import Queue

from worker.core.commands import Queue as QueueName
from worker.settings import load_settings

_settings = load_settings()

broker_url = _settings.broker
result_backend = _settings.results
_on_redis = urlsplit(broker_url).scheme in {"redis", "rediss", "redis+socket", "sentinel"}
#: The task modules, as strings: `worker` never imports `tasks`.
include = ("tasks.diagnose", "tasks.preflight", "tasks.upkeep")

# --- delivery
# Nothing stays unacknowledged, so nothing is delivered twice after a timeout or a cut connection,
# and Celery 5.7.0's exit(1) on a lost broker is avoided. Retries are rows in `due`.
task_acks_late = False
task_reject_on_worker_lost = False
# A busy worker hoards nothing: another one takes the message, and LLEN is the true backlog.
worker_disable_prefetch = True
# What `worker_disable_prefetch` falls back to on a broker that is not Redis.
worker_prefetch_multiplier = 1
# Only a session has a result; the subtasks' would be one pub/sub channel and one key a call.
task_ignore_result = True
task_store_errors_even_if_ignored = False
result_expires = _settings.result_ttl_s
result_extended = False
# Publishing fails fast: the sweep announces again what was not told.
task_publish_retry = True
task_publish_retry_policy = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.2,
    "interval_max": 0.2,
}
# A misspelt queue is an error and not a black hole.
task_create_missing_queues = False
# A hint is not worth the two writes that kombu makes to keep a message until it is acknowledged: with
# `appendfsync always` each is an fsync, and the step is in `due` anyway. A request to diagnose is
# nowhere else, so `control` keeps its messages. Other brokers send all that is not to be acknowledged
# to the first worker that asks.
_kept = {name for name in QueueName if not _on_redis or name is QueueName.CONTROL}
task_queues = tuple(Queue(name.value, no_ack=name not in _kept) for name in QueueName)
task_default_queue = QueueName.CONTROL.value
# JSON only: pickle would be code from the broker.
task_serializer = "json"
result_serializer = "json"
accept_content = ("json",)
event_serializer = "json"

# --- connection
broker_connection_retry_on_startup = True
# The default gives up after 100 tries and the worker stops consuming for ever.
broker_connection_max_retries = None
# More threads than this publish at once only after waiting; the default of 10 blocks for ever.
broker_pool_limit = 64
broker_pool_acquire_timeout = 10
broker_transport_options: dict[str, Any] = {
    # Only what Celery itself leaves unacknowledged for a moment is concerned; the default is 1 h.
    "visibility_timeout": 120,
    # The default looks every 100 s.
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    # The default hangs for ever on a dead peer.
    "socket_timeout": 15,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "global_keyprefix": f"{_settings.key_prefix}:",
}
result_backend_transport_options = {"global_keyprefix": f"{_settings.key_prefix}:"}
redis_socket_timeout = 15.0
redis_socket_connect_timeout = 3.0
redis_socket_keepalive = True
redis_backend_health_check_interval = 10
# No effect on tasks that are acknowledged early; it protects one that a user adds with a late ack.
worker_cancel_long_running_tasks_on_connection_loss = True
# Celery 5.7.0 closes a lost connection twice and exits; see `worker.consumer`.
worker_consumer = "worker.consumer:SafeConsumer"

# --- observability
# Flower shows what it is told: tasks from the moment they are sent.
worker_send_task_events = True
task_send_sent_event = True
# A reader's log is ours (structlog, JSON); Celery must not take the root logger over.
worker_hijack_root_logger = False
worker_redirect_stdouts = False
# Arguments are ids; nothing deeper is ever shown.
resultrepr_maxsize = 512

# --- processes
# Only the prefork pool heeds these: a child is replaced before it can grow.
worker_max_tasks_per_child = 2_000
worker_max_memory_per_child = 600_000
