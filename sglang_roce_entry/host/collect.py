"""From a host, live or recorded, to :class:`~sglang_roce_entry.host.facts.HostFacts`."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.facts import Hca, HostFacts, Interface
from sglang_roce_entry.host.gpus import read_gpus
from sglang_roce_entry.host.installed import oldest_version, rccl_as_nccl
from sglang_roce_entry.host.network import main_routes, search_domains, sysfs_netdevs
from sglang_roce_entry.host.rdma import read_hcas
from sglang_roce_entry.named_file import NotAFileError
from sglang_roce_entry.problems import ConfigurationError

IMEX_CHANNEL = "/dev/nvidia-caps-imex-channels/channel"
_VIRTUAL_TOPOLOGY = "/var/run/nvidia-topologyd/virtualTopology.xml"


def read_fabric(host: Host) -> tuple[tuple[Hca, ...], tuple[Interface, ...]]:
    """Return the HCAs and the interfaces.

    Interfaces are read after the GIDs: an address that is configured in between is then known for
    the GID that it made, never the other way round.
    """
    return read_hcas(host.tree, host.answers.open_verbs), host.answers.interfaces()


def collect(
    host: Host,
    environ: Mapping[str, str],
    *,
    rdma: bool = True,
) -> HostFacts:
    """Return the present facts of ``host``; ``rdma=False`` leaves the HCAs out.

    What libibverbs answers is the caller's business.
    """
    hcas, interfaces = read_fabric(host) if rdma else ((), host.answers.interfaces())
    known, memlock = host.answers.memlock()
    installed, sglang = host.answers.sglang()
    gpus = read_gpus(host)
    nccl, rocm = host.answers.nccl_versions(environ), None
    if not nccl and gpus.vendor == "amd":
        rocm = host.answers.rocm()
        nccl = rccl_as_nccl(rocm, sglang) or nccl
    files = _nccl_files(host, environ, oldest_version(nccl))
    here = {interface.name for interface in interfaces}
    routes = main_routes(host.tree, interfaces)
    return HostFacts(
        hcas=hcas,
        interfaces=interfaces,
        gpus=gpus,
        imex_channels=_imex_channels(host, hcas),
        foreign_netdevs=tuple(sorted(sysfs_netdevs(host.tree) - here)),
        default_route_interfaces=routes.default,
        routed_interfaces=routes.beyond_link,
        memlock_bytes=memlock,
        memlock_known=known,
        ipc_lock=host.answers.ipc_lock(host.tree),
        uid=host.answers.uid(),
        nccl_versions=nccl,
        rocm_version=rocm,
        sglang_version=sglang,
        sglang_installed=installed,
        mooncake_version=host.answers.mooncake() if len(hcas) > 1 else None,
        nccl_files=files,
        net_plugin_paths=host.answers.net_plugins(environ, gpus.vendor),
        topology_file=_topology_file(host, environ, files) if len(hcas) > 1 else None,
        search_domains=search_domains(host.tree),
    )


def _imex_channels(host: Host, hcas: tuple[Hca, ...]) -> dict[str, str]:
    """Return the answers of opening the channels of multi-node NVLink: IMEX gives a pod the one of its domain.

    They decide something only where no verbs device opens.
    """
    if any(hca.verbs_answer == "ok" for hca in hcas):
        return {}
    return {path: host.answers.open_node(path) for path in host.answers.device_nodes(IMEX_CHANNEL)}


def _nccl_files(
    host: Host, environ: Mapping[str, str], version: tuple[int, ...] | None
) -> tuple[tuple[str, str], ...]:
    found = []
    for path in host.answers.nccl_file_paths(environ, version):
        try:
            found.append((path, host.tree.text(path)))
        except NotAFileError as failure:
            raise _endless("NCCL_CONF_FILE", path) from failure
        except OSError:
            continue  # no such file, or not readable: NCCL skips it silently as well
    return tuple(found)


def _endless(code: str, path: str) -> ConfigurationError:
    return ConfigurationError(
        code,
        f"{path} is no regular file: NCCL would read it without end",
        "mount a file there, or remove the variable that names it (NCCL_CONF_FILE, NCCL_TOPO_FILE)",
    )


def _topology_file(
    host: Host, environ: Mapping[str, str], nccl_files: tuple[tuple[str, str], ...]
) -> tuple[str, str | None] | None:
    """Return the topology file that NCCL reads: ``NCCL_TOPO_FILE``, else the one a cloud puts there.

    (NVIDIA/nccl ``graph/topo.cc``, ``ncclTopoGetSystem``.)
    """
    named = environ.get("NCCL_TOPO_FILE") or next(
        (
            line.partition("=")[2].rstrip("\r")
            for _, text in nccl_files
            for line in text.split("\n")
            if line.startswith("NCCL_TOPO_FILE=")
        ),
        "",
    )
    try:
        return named or _VIRTUAL_TOPOLOGY, host.tree.text(named or _VIRTUAL_TOPOLOGY)
    except NotAFileError as failure:
        raise _endless("TOPOLOGY_FILE", named) from failure
    except OSError:
        return (named, None) if named else None
