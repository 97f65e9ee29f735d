"""DNS, the pod's host name, the address that SGLang uses as its own, proxies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address, ip_network

from sglang_roce_entry.check.items import CheckItem, Examined, listed, ok, skip, warn
from sglang_roce_entry.group.endpoint import literal

CLUSTER_DNS = "dnsPolicy: ClusterFirstWithHostNet"


def items(examined: Examined) -> tuple[CheckItem, ...]:
    """Return the lines on names and addresses."""
    return (
        _dns(examined),
        _hostname(examined),
        *_own_address(examined),
        _proxies(examined),
    )


def cluster_search(domains: Sequence[str] | None) -> bool:
    """Return whether a search list completes the name of a pod: ``svc.<cluster domain>``."""
    return any(domain.startswith("svc.") for domain in domains or ())


def _dns(examined: Examined) -> CheckItem:
    domains = examined.plan.facts.search_domains
    if domains is None:
        return skip("dns", "/etc/resolv.conf is not readable" if examined.live else "not in this recording")
    shown = f"search {' '.join(domains)}" if domains else "no search domain"
    identity = examined.plan.identity
    leader = identity.leader if identity is not None else None
    if not examined.in_group or leader is None or literal(leader) is not None or cluster_search(domains):
        return ok("dns", shown)
    return warn(
        "dns",
        f"{shown}: {leader} is not completed to {leader}.svc.<cluster domain>",
        f"with hostNetwork: true set {CLUSTER_DNS} in the pod spec",
    )


def _hostname(examined: Examined) -> CheckItem:
    own = examined.inspection.own_name
    if own is None:
        return skip("hostname", "the resolver did not answer" if examined.live else "not in this recording")
    shown = f"resolves to {listed([str(address) for address in own])}" if own else "does not resolve"
    looped = not own or any(address.is_loopback for address in own)
    shown = f"the host name of this pod {shown}"
    gloo = examined.plan.environment().get("GLOO_SOCKET_IFNAME")
    if not looped or not examined.in_group:
        return ok("hostname", shown)
    if gloo:
        return ok("hostname", f"{shown}; harmless, Gloo uses {gloo} (GLOO_SOCKET_IFNAME)")
    return warn(
        "hostname",
        f"{shown}: Gloo listens on a loopback address, and its peers are refused (connectFullMesh)",
        "set --interface (SGLANG_ROCE_INTERFACE), or correct the name in the node's /etc/hosts",
    )


def _own_address(examined: Examined) -> tuple[CheckItem, ...]:
    plan = examined.plan
    chosen = plan.environment().get("SGLANG_HOST_IP")
    from_node = examined.environ.get("HOST_IP")
    if chosen:
        outranks = f"; it outranks HOST_IP={from_node}" if from_node else ""
        fine = ok("own address", f"SGLANG_HOST_IP={chosen}{outranks}")
    elif from_node:
        fine = ok("own address", f"HOST_IP={from_node} is an address of this pod")
    else:
        fine = ok(
            "own address",
            "neither SGLANG_HOST_IP nor HOST_IP is set: SGLang uses the address of its default route",
        )
    control = plan.choice.control
    known = f"{control.interface}: {control.reason}" if control.interface else f"not set: {control.reason}"
    interface = examined.lines("interface", ok("interface", known))
    return (*interface, *examined.lines("own address", fine))


def is_excepted(host: str, no_proxy: str) -> bool:
    """Return whether ``requests`` goes past a proxy to ``host``.

    Its rule (``requests.utils.should_bypass_proxies``): networks and exact addresses for an IPv4
    address, endings for everything else, and urllib's ``*``, without anything else, for all.
    """
    if no_proxy == "*":
        return True
    entries = [entry for entry in no_proxy.replace(" ", "").split(",") if entry]
    if isinstance(literal(host), IPv4Address):
        return any(_covers(entry, host) for entry in entries)
    return any(host.endswith(entry) or host == entry.lstrip(".") for entry in entries)


def _covers(entry: str, host: str) -> bool:
    if "/" not in entry:
        return host == entry
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False


def _proxies(examined: Examined) -> CheckItem:
    proxy, plan = examined.inspection.proxy, examined.plan
    if proxy is None:
        return skip("proxy", "not in this recording")
    if proxy.variable is None:
        return ok("proxy", "no HTTP proxy is set")
    wanted = ["127.0.0.1", "localhost"]
    if plan.choice.control.address is not None:
        wanted.append(str(plan.choice.control.address))
    if plan.identity is not None and plan.identity.leader is not None:
        wanted.append(plan.identity.leader)
    missing = [host for host in wanted if not is_excepted(host, proxy.no_proxy)]
    shown = f"{proxy.variable} is set (to {proxy.host or '?'})"
    if not missing:
        return ok("proxy", f"{shown}, no_proxy excepts {listed(wanted)}")
    return warn(
        "proxy",
        f"{shown} without exceptions for {listed(missing)}: SGLang calls itself and its peers through it",
        f"add to no_proxy: {','.join(missing)} (and the pods' network, as CIDR)",
    )
