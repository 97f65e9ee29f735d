"""Run on a node by the installed interpreter: the seconds that reading all HCAs takes, the least of five."""

import time

from sglang_roce_entry.host.collect import live_host
from sglang_roce_entry.host.rdma import read_hcas


def _once() -> float:
    host = live_host()
    began = time.perf_counter()
    read_hcas(host.tree, host.answers.open_verbs)
    return time.perf_counter() - began


print(min(_once() for _ in range(5)))
