"""What NetworkPolicies allow, after https://kubernetes.io/docs/concepts/services-networking/network-policies/.

Only what is used here is known: pod selectors by ``matchLabels`` within one namespace, ports by number or name;
anything else raises ``ValueError`` instead of passing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.manifests.manifest_set import Manifest

DIRECTIONS = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}


@dataclass(frozen=True)
class Pod:
    """A pod of the policies' namespace; ``ports`` are those that its containers declare, by name."""

    labels: Mapping[str, str]
    ports: Mapping[str, int]
    address: str = ""


@dataclass(frozen=True)
class Allowed:
    """Whom one rule lets through: ``peers`` ``None`` is everybody; ``port`` ``None`` is every port of any protocol."""

    peers: tuple[Mapping[str, str], ...] | None
    protocol: str = "TCP"
    port: int | None = None

    def covers(self, other: Mapping[str, str] | None, protocol: str, port: int) -> bool:
        """Return whether a connection with a pod of these labels (``None``: no pod) is let through."""
        known = self.peers is None or (other is not None and any(_selects(one, other) for one in self.peers))
        return known and (self.port is None or (self.protocol, self.port) == (protocol, port))


def _selects(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return wanted.items() <= labels.items()


def _labels(selector: Mapping[str, Any]) -> Mapping[str, str]:
    if set(selector) - {"matchLabels"}:
        raise ValueError(f"a selector without a rule: {sorted(selector)}")
    labels: Mapping[str, str] = selector.get("matchLabels", {})
    return labels


def _peers(entries: Sequence[Manifest]) -> Iterator[Mapping[str, str]]:
    for entry in entries:
        if set(entry) != {"podSelector"}:
            raise ValueError(f"a peer without a rule: {sorted(entry)}")
        yield _labels(entry["podSelector"])


def allowed(policies: Sequence[Manifest], pod: Pod, direction: str) -> list[Allowed] | None:
    """Return what is let through in one direction; ``None``: all, since no policy selects the pod."""
    of_pod = [
        policy["spec"]
        for policy in policies
        if _selects(_labels(policy["spec"]["podSelector"]), pod.labels)
        and direction in policy["spec"]["policyTypes"]
    ]
    if not of_pod:
        return None
    rules, peers_of = DIRECTIONS[direction]
    found = []
    for rule in (rule for spec in of_pod for rule in spec.get(rules, [])):
        peers = tuple(_peers(rule[peers_of])) if rule.get(peers_of) else None
        for port in rule.get("ports") or [{}]:
            number = port.get("port")
            if isinstance(number, str):
                number = pod.ports[number]
            found.append(Allowed(peers, port.get("protocol", "TCP"), number))
    return found


def chains(policies: Sequence[Manifest], pod: Pod, others: Sequence[Pod]) -> Iterator[tuple[str, ...]]:
    """Yield the rules of the packet filter (``iptables`` words) that enforce the policies in the pod's namespace."""
    for direction, chain, interface, side in (("Ingress", "INPUT", "-i", "-s"), ("Egress", "OUTPUT", "-o", "-d")):
        rules = allowed(policies, pod, direction)
        if rules is None:
            continue
        yield "-A", chain, interface, "lo", "-j", "ACCEPT"
        yield "-A", chain, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"
        for rule in rules:
            port = () if rule.port is None else ("-p", rule.protocol.lower(), "--dport", str(rule.port))
            if rule.peers is None:
                yield "-A", chain, *port, "-j", "ACCEPT"
                continue
            for other in others:
                if any(_selects(one, other.labels) for one in rule.peers):
                    yield "-A", chain, side, other.address, *port, "-j", "ACCEPT"
        yield "-A", chain, "-j", "REJECT"
