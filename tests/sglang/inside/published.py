"""Runs inside one SGLang release: publishes the events of one rank as its scheduler does, and says what it listens on.

Arguments: the value of `--kv-events-config`, the rank, the number of ranks, the value of `--load-publish-endpoint`.
"""

from __future__ import annotations

import json
import sys

import psutil
from sglang.srt.disaggregation import kv_events

config, rank, size, load = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
publisher = kv_events.EventPublisherFactory.create(config, rank)
listening = {one.laddr.port for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN}
if hasattr(kv_events, "resolve_load_pub_range"):
    read = kv_events.KVEventsConfig.from_cli(config)
    found, _ = kv_events.resolve_load_pub_range(
        kv_endpoint=read.endpoint, replay_endpoint=read.replay_endpoint, dp_size=size, load_publish_endpoint=load
    )
    listening |= {found[1] + rank} if found else set()
print(json.dumps(sorted(listening)))
publisher.shutdown()
