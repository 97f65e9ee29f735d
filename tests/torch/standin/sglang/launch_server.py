"""What `python -m sglang.launch_server` runs behind the wait: one rank of a torch rendezvous.

World size, rank and address come from SGLang's own arguments, as the launcher has given them. Rank 0
opens the store and waits for its workers as `torch.distributed.init_process_group` does; then every
rank must read what rank 0 has written, and is counted.

STANDIN_RECORD     file that gets the record (JSON); beside it `.begun` once the store is being built
STANDIN_TORCH      site-packages with torch
STANDIN_IMPORT     compiled (torch._C alone), full (`import torch.distributed`) or wire (no torch at all)
STANDIN_LIBUV      1 or 0: which back-end of the store
STANDIN_TIMEOUT_S  patience of the store
STANDIN_TOKEN      what rank 0 writes; the others do not have it
"""

import time

BEGUN_S = time.monotonic()

import argparse  # noqa: E402 - the first thing is the time
import ctypes  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import types  # noqa: E402
import warnings  # noqa: E402
from datetime import timedelta  # noqa: E402
from typing import Any  # noqa: E402


def compiled_store(site_packages: str) -> Any:
    """Return torch's compiled TCPStore without torch's Python: 0.2 s of processor time instead of 1.1 s.

    `import torch` loads a thousand modules; 64 workers at once on two cores would measure that. The
    store lies in `torch._C`, which needs a library loaded beforehand and packages of these names to
    exist, and looks up the Python side of a few classes when it initialises c10d.
    """
    package = site_packages + "/torch"
    ctypes.CDLL(package + "/lib/libtorch_global_deps.so", mode=ctypes.RTLD_GLOBAL)
    for name, path in (("torch", [package]), ("torch.distributed", [])):
        module = types.ModuleType(name)
        module.__path__ = path
        sys.modules[name] = module
    core = importlib.import_module("torch._C")
    if not core._c10d_init():
        raise ImportError("this torch was built without torch.distributed")
    return core._distributed_c10d.TCPStore


def full_store(site_packages: str) -> Any:
    """Return the same class by torch's own front door."""
    sys.path.append(site_packages)
    warnings.simplefilter("ignore")
    return importlib.import_module("torch.distributed").TCPStore


def wire_store(_site_packages: str) -> Any:
    """Return the client that only speaks torch's protocol; it lies beside this module."""
    return importlib.import_module("sglang.wire").WireStore


STORES = {"compiled": compiled_store, "full": full_store, "wire": wire_store}


def arguments() -> argparse.Namespace:
    """Return what SGLang would make of its arguments, as far as it matters here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nnodes", type=int, required=True)
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument("--dist-init-addr", required=True)
    return parser.parse_known_args()[0]


def write(path: str, content: object) -> None:
    """Write JSON, complete or not at all."""
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w", encoding="ascii") as out:
        json.dump(content, out)
    os.rename(draft, path)


def expect(store: Any, key: str, count: int, within_s: float) -> None:
    """Wait until `count` ranks have added themselves to `key`. Raises RuntimeError."""
    end_s = time.monotonic() + within_s
    while (seen := store.add(key, 0)) < count:
        if time.monotonic() > end_s:
            raise RuntimeError(f"{key}: {seen} of {count} ranks")
        time.sleep(0.02)


def main() -> int:
    """Join, be counted, record; returns the exit code."""
    told = arguments()
    host, _, port = told.dist_init_addr.rpartition(":")
    store_class = STORES[os.environ["STANDIN_IMPORT"]](os.environ["STANDIN_TORCH"])
    timeout_s = float(os.environ["STANDIN_TIMEOUT_S"])
    record: dict[str, Any] = {"rank": told.node_rank, "world": told.nnodes, "pid": os.getpid(), "begun_s": BEGUN_S}
    write(os.environ["STANDIN_RECORD"] + ".begun", record)

    record["building_s"] = time.monotonic()
    try:
        store = store_class(
            host,
            int(port),
            told.nnodes,
            told.node_rank == 0,
            timedelta(seconds=timeout_s),
            use_libuv=os.environ["STANDIN_LIBUV"] == "1",
        )
        record["joined_s"] = time.monotonic()
        if told.node_rank == 0:
            store.set("token", os.environ["STANDIN_TOKEN"])
        record["token"] = store.get("token").decode()
        record["rank_joined_as"] = store.add("joined", 1)
        expect(store, "joined", told.nnodes, timeout_s)
        record["done_s"] = time.monotonic()
        # The store lives in rank 0: it leaves last.
        if told.node_rank == 0:
            expect(store, "left", told.nnodes - 1, timeout_s)
        else:
            store.add("left", 1)
    except RuntimeError as failure:  # torch's DistError among them
        record["failure"] = str(failure).splitlines()[0]
        print(f"standin: {record['failure']}", file=sys.stderr)
    else:
        record["libuv"] = store.libuvBackend
        record["class"] = f"{type(store).__module__}.{type(store).__qualname__}"
        record["modules"] = len(sys.modules)
    write(os.environ["STANDIN_RECORD"], record)
    sys.stdout.flush()
    sys.stderr.flush()
    # torch's threads are not asked: what was to be said is on disk.
    os._exit(1 if "failure" in record else 0)


if __name__ == "__main__":
    sys.exit(main())
