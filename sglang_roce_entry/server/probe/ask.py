"""One question to SGLang's server in this pod, with a time limit that no server can stretch."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from sglang_roce_entry.group.endpoint import IpAddress, bracketed, literal
from sglang_roce_entry.server.probe.connection import Connection, connected
from sglang_roce_entry.server.probe.http import status_of

ANSWERED, NO_HEALTH, NOTHING_LISTENS, HUNG, NOT_HTTP, UNREACHABLE = (
    "answered",
    "no health service",
    "nothing listens",
    "hung",
    "not http",
    "unreachable",
)
#: Where a server that listens everywhere is asked. With ``::`` the kernel may leave IPv4 out.
_WILDCARDS = {"": ("127.0.0.1",), "0.0.0.0": ("127.0.0.1",), "::": ("::1", "127.0.0.1")}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server listens, by its command line."""

    host: str
    port: int
    secure: bool = False
    grpc: bool = False

    def __str__(self) -> str:
        """Return ``host:port``, an IPv6 address in brackets."""
        return f"{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of the question; ``status``, of HTTP or as HTTP has it, only with ``ANSWERED``."""

    kind: str
    detail: str
    status: int | None = None


def ask(target: Target, path: str, timeout_s: float) -> Answer:
    """Return what ``GET path``, or a gRPC server's health service, gives within ``timeout_s`` for all steps."""
    deadline = monotonic() + timeout_s
    reached = _reach(target, deadline)
    if isinstance(reached, Answer):
        return reached
    failures: list[str] = []
    for scheme in _schemes(target):
        try:
            with reached.again() if failures else reached as connection:
                if scheme in ("https", "grpcs"):
                    from sglang_roce_entry.server.probe.tls import secure

                    secure(connection, ("h2",) if scheme == "grpcs" else ())
                if scheme.startswith("grpc"):
                    return _health(connection, scheme, target)
                status = status_of(connection, path)
        except TimeoutError:
            asked = "its health service" if scheme.startswith("grpc") else path
            return Answer(HUNG, f"{target} accepts but does not answer {asked} within {timeout_s:g} s")
        except (OSError, ValueError) as failure:
            failures.append(f"{scheme}: {failure}"[:160])
        else:
            return Answer(ANSWERED, f"{scheme}://{target}{path} answered {status}", status)
    return Answer(NOT_HTTP, f"{target} accepts, but its answer is not HTTP ({'; '.join(failures)})")


def _schemes(target: Target) -> tuple[str, ...]:
    """Return in which ways to ask, the likely one first: a worker of a gRPC server has a small one of HTTP."""
    http = ("https", "http") if target.secure else ("http", "https")
    if not target.grpc:
        return http
    return ("grpcs", "grpc", *http) if target.secure else ("grpc", *http)


def _health(connection: Connection, scheme: str, target: Target) -> Answer:
    from sglang_roce_entry.server.probe.grpc import NO_WORD, SERVING, health_of

    health = health_of(connection, "https" if scheme == "grpcs" else "http")
    if health == NO_WORD:
        return Answer(NO_HEALTH, f"{scheme}://{target} answers, but has no word on its health (grpc.health.v1)")
    return Answer(ANSWERED, f"{scheme}://{target} is {health}", 200 if health == SERVING else 503)


def _reach(target: Target, deadline: float) -> Connection | Answer:
    """Return a connection to the first address that accepts, or why none does."""
    # Half of the time, to tell a resolver that hangs from a server that does.
    addresses = _addresses(target.host, (deadline - monotonic()) / 2)
    if isinstance(addresses, str):
        return Answer(UNREACHABLE, addresses)
    answer = Answer(UNREACHABLE, f"{target} is unreachable")
    for address in addresses:
        try:
            return connected(str(address), target.port, deadline)
        except TimeoutError:
            return Answer(
                HUNG, f"{target} does not even accept connections: its queue is full, or packets are filtered"
            )
        except (ConnectionRefusedError, ConnectionResetError):
            answer = Answer(NOTHING_LISTENS, f"nothing listens on {target}")
        except OSError:
            continue  # no IPv6 here, no route
    return answer


def _addresses(host: str, within_s: float) -> tuple[IpAddress, ...] | str:
    """Return the addresses of a host, or why there is none."""
    host = host.removeprefix("[").removesuffix("]")
    if host in _WILDCARDS:
        return tuple(address for text in _WILDCARDS[host] if (address := literal(text)) is not None)
    address = literal(host)
    if address is not None:
        return (address,)
    from sglang_roce_entry.server.probe.resolving import resolved

    return resolved(host, max(0.0, within_s))
