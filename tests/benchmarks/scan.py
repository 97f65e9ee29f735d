"""Run on a node by the installed interpreter: the seconds that reading all HCAs takes, once."""

import time

from sglang_roce_entry.host.answers import live_host
from sglang_roce_entry.host.rdma import read_hcas

host = live_host()
began = time.perf_counter()
read_hcas(host.tree, host.answers.open_verbs)
print(time.perf_counter() - began)
