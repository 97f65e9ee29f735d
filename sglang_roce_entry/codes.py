"""What each code of the log means: the one table behind ``--explain`` and ``k8s/TROUBLESHOOTING.md``.

A test collects the codes from the source: each has an entry here, and each entry a code there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One code. ``alone`` is what happens without this program, ``see`` a command that shows it."""

    code: str
    means: str
    alone: str = ""
    see: str = ""
    do: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Entries of one subject, under a heading and a sentence that holds for all of them."""

    title: str
    about: str
    entries: tuple[Entry, ...]


_CHECK = "sglang-roce-entry --check"
_DRY_RUN = "sglang-roce-entry --dry-run"
_ENV = "env | grep -E '^(NCCL|GLOO|SGLANG|NVSHMEM|UCX|MC|MORI)_'"

_RDMA = Group(
    "RDMA on this node",
    "Errors end a launch with exit code 69 where RDMA is required, which it is in a group.",
    (
        Entry(
            "NO_USABLE_HCA",
            "RDMA is required, and no port can be used. The message lists the reason code of each port, or "
            "states that /sys/class/infiniband is empty: no RoCE HCA on this node, or RDMA is in exclusive mode "
            "and no device was moved into the pod.",
            "NCCL logs `NET/IB : No device found`, then `Using network Socket`, and runs over TCP.",
            f"ls /sys/class/infiniband /dev/infiniband; {_CHECK}",
            "Run on a node with RoCE HCAs, request the RDMA resource in the manifest, or follow the reason code. "
            "Without RDMA: --rdma off.",
        ),
        Entry(
            "SELECTOR_MATCHES_NOTHING",
            "The selector (--hca, or the pod's NCCL_IB_HCA) names no port that is usable here.",
            "NCCL does not report an unknown name: it finds no device and uses TCP.",
            _DRY_RUN,
            "Correct the selector; =mlx5_0:1,mlx5_1:1 names ports exactly, mlx5 is a prefix, ^mlx5_9 is all but "
            "that. Without one, the ports are found automatically.",
        ),
        Entry(
            "SETTING_MATCHES_NOTHING",
            "A setting (--subnets, --family, --hca, --interface) names what nothing on this node answers to: it "
            "has no effect, or leaves RDMA unused where that is optional.",
            see=_DRY_RUN,
            do="Correct it, or remove it: ports, GIDs and interface are found without it.",
        ),
        Entry(
            "MEMLOCK_TOO_LOW",
            "The limit on locked memory is 64 MiB or less and CAP_IPC_LOCK is not effective: no buffer can be "
            "pinned for RDMA.",
            "NCCL starts, and fails at the first connection: `Call to ibv_reg_mr failed with error Cannot "
            "allocate memory`.",
            "ulimit -l; grep CapEff /proc/self/status   # bit 14 is IPC_LOCK",
            "Add securityContext.capabilities.add: [IPC_LOCK] and run as root, or raise the container runtime's "
            "memlock limit on the node.",
        ),
        Entry(
            "MEMLOCK_LIMITED",
            "The limit on locked memory is above 64 MiB but not unlimited: connecting works, registering a larger "
            "buffer fails. Also where it is not known whether CAP_IPC_LOCK is effective.",
            "NCCL or Mooncake fails under load, with `Cannot allocate memory`.",
            "ulimit -l",
            "As for MEMLOCK_TOO_LOW.",
        ),
        Entry(
            "LIBIBVERBS_MISSING",
            "The dynamic loader cannot load libibverbs.so.1 in this image.",
            "NCCL logs `Failed to open libibverbs.so[.1]` at INFO level only and uses TCP.",
            "ldconfig -p | grep ibverbs",
            "Install libibverbs1 and ibverbs-providers in the image.",
        ),
        Entry(
            "LIBIBVERBS_BROKEN",
            "libibverbs crashed, hung or gave no sense when it was asked for its devices (in a process apart): "
            "most often for a provider of another release. Which devices NCCL will find is not known.",
            "NCCL makes the same call in SGLang's process, which then crashes or hangs while it loads.",
            "IBV_SHOW_WARNINGS=1 ibv_devices; echo $LD_PRELOAD",
            "Remove what LD_PRELOAD names, and providers of another rdma-core release (/etc/libibverbs.d, "
            "libibverbs/*.so in the library folder).",
        ),
        Entry(
            "SYSFS_FOREIGN",
            "The host's /sys is mounted into the pod: the interfaces, names and GIDs in it are those of the node.",
            "NCCL reads the types of GIDs from that /sys, and may connect with a GID that is not the pod's.",
            "ls /sys/class/net; ip -br link   # they must agree",
            "Remove the hostPath volume of /sys from the manifest.",
        ),
        Entry(
            "MTU_DIFFERS",
            "The interfaces of the used ports have different MTUs, and so their RoCE packets have different "
            "sizes.",
            "Within a node NCCL connects each pair of ports with one size. Between nodes, NCCL before 2.29 lets "
            "the receiver take the sender's MTU unreduced: transfers hang or fail.",
            "ip -br link; ibv_devinfo | grep active_mtu",
            "Give all interfaces, here and on the switches, the same MTU; 4200 carries 4096-byte packets.",
        ),
        Entry(
            "DEGRADED_LINK",
            "A used port runs slower than another of the same card model. It is used, and it slows its rail.",
            "NCCL uses the port without a message: every collective is as slow as its slowest rail.",
            "cat /sys/class/infiniband/*/ports/*/rate",
            "Check cable, transceiver and switch port.",
        ),
        Entry(
            "SELECTOR_TAKES_SLOWER",
            "The selector (--hca, or the pod's NCCL_IB_HCA) takes slower cards of another model and leaves out "
            "faster ones: usually a list copied from a node whose HCAs have other names.",
            "NCCL uses the listed cards without a message, at their rate (NVIDIA/nccl#1277).",
            "grep . /sys/class/infiniband/*/ports/*/rate",
            "Remove the selector: the ports are found at every start.",
        ),
        Entry(
            "RAIL_WITHOUT_ADDRESS",
            "A port of the same model and rate as the used ones is up and is left out, since its interface has no "
            "address that RoCE traffic can use: a rail that lost its address, or the second port of a card.",
            "NCCL uses such a port with a link-local GID, and its connections fail, or it uses fewer rails than "
            "the other nodes have.",
            "ip -br address; show_gids; rdma link",
            "Give the interface an address as on the other rails. If the port is left without on purpose, leave "
            "it out: --hca ^=mlx5_1:1.",
        ),
        Entry(
            "RAIL_DOWN",
            "A port of the same model as the used ones has no link and is left out, although its interface has an "
            "address, or no used port is as near to one of the GPUs.",
            "NCCL leaves it out without a message: the node has less bandwidth than the others, and all wait "
            "for it.",
            "rdma link; ip -br link; ethtool NETDEV",
            "Check cable, transceiver and switch port. If it is meant to be down, leave it out: --hca ^=mlx5_1:1.",
        ),
        Entry(
            "ADDRESS_TWICE",
            "Several interfaces of this node have the same address, and each is that of a used port.",
            "NCCL uses all of these ports; packets to the address arrive at one of them.",
            "ip -br address",
            "Give each interface an address of its own.",
        ),
        Entry(
            "LINK_LOCAL_FABRIC",
            "No port has another address than one of 169.254.0.0/16. It is used: two machines on one cable, as "
            "NVIDIA's guide sets DGX Sparks up, need no more.",
            "NCCL uses such an address like any other.",
            "ip -br address; show_gids",
            "Nothing for machines on one cable that both have such an address on it (without a warning: --subnets "
            "169.254.0.0/16). In a routed fabric give the ports their own addresses.",
        ),
        Entry(
            "BOND_WITHOUT_LAG",
            "Several HCAs have the GID of one address: their interfaces are in a bond, but the HCAs are not one "
            "RDMA device (RoCE LAG).",
            "NCCL uses both; packets may arrive at the HCA that has no queue pair for them.",
            "rdma link; cat /proc/net/bonding/*",
            "Make the bond one RDMA device: both ports of one card, mode 802.3ad, active-backup or balance-xor, "
            "made before any VF; or give each port its own address.",
        ),
        Entry(
            "PLUGIN_IDLE",
            "An NCCL net plugin of the cloud (Google gIB, aws-ofi-nccl) is in this container, and nothing tells "
            "NCCL to use it: neither NCCL_NET nor, for aws-ofi-nccl, LD_LIBRARY_PATH.",
            "NCCL uses its own transport, slower or not at all right for that fabric.",
            "ls /usr/local/gib /opt/amazon/ofi-nccl; env | grep -E 'NCCL|LD_LIBRARY_PATH'",
            "gIB: source /usr/local/gib/scripts/set_nccl_env.sh before the launcher. aws-ofi-nccl: put its lib "
            "folder into LD_LIBRARY_PATH. Without it on purpose: NCCL_NET_PLUGIN=none.",
        ),
        Entry(
            "UCX_IONIC",
            "NIXL transfers by UCX, whose transports need shared receive queues; AMD's Pollara (ionic) has none.",
            "UCX fails to create its endpoints, or moves the KV cache over TCP (sgl-project/sglang#30099).",
            "ibv_devinfo -v | grep max_srq",
            "Use --disaggregation-transfer-backend mooncake or mori.",
        ),
        Entry(
            "MORI_MAP",
            "--disaggregation-ib-device is a map of GPUs to HCAs, and MoRI carries the KV cache: SGLang hands it "
            "on as it is, and MoRI reads names with commas.",
            "MoRI finds no device of that name.",
            _DRY_RUN,
            "Remove the option: MORI_RDMA_DEVICES is filled in. Or write names with commas.",
        ),
        Entry(
            "NVLINK_ONLY",
            "No verbs device opens in this pod, but an IMEX channel does (GB200, GB300): inside one NVLink domain "
            "NCCL moves its data over NVLink, so that RDMA is not required unless a setting says so.",
            "The same; between NVLink domains NCCL uses TCP, and within one if its cuMem buffers are off, as "
            "SGLang before 0.5.23 has them.",
            "ls /dev/nvidia-caps-imex-channels /dev/infiniband",
            "Inside one NVLink domain set NCCL_CUMEM_ENABLE=1 (SGLang 0.5.23 does by itself). For groups over "
            "several racks request the RDMA resource, and set --rdma required.",
        ),
        Entry(
            "AMBIGUOUS_SUBNET",
            "A port has addresses of its own in several networks, and the lowest network is used.",
            "NCCL takes the first address in the GID table, whose order depends on the node's history.",
            "ip -br address; show_gids",
            "Name the fabric's network: --subnets 10.0.0.0/16 (SGLANG_ROCE_SUBNETS).",
        ),
        Entry(
            "FAMILY_MISMATCH",
            "The port has no address of the IP family that is used: the one of most of the bandwidth, unless a "
            "setting names one. An error where more is left out than kept. Also the reason code of these ports.",
            "NCCL looks for one family on all ports and ends at index 0 on this one.",
            "ip -br address",
            "Give the port an address of that family, or choose the other with --family.",
        ),
        Entry(
            "INDEX_MISMATCH",
            "The ports need different GID indices, and neither one number nor NCCL's own choice is right on all "
            "of them: those named are left out. Also the reason code of these ports.",
            "NCCL before 2.21 uses one index on every port: `Got completion from peer ... status=12` on some "
            "rails.",
            "show_gids; sglang-roce-entry --dry-run",
            "Use an image with NCCL 2.26 or later, which chooses per port, or reload the driver on the node, so "
            "that all ports build their GID tables in the same order. Remove NCCL_IB_GID_INDEX if it is set.",
        ),
        Entry(
            "TOO_MANY_PORTS",
            "More than 32 ports are usable, and NCCL reads 32 entries. Also the reason code of those left out.",
            "NCCL drops the rest without a message.",
            _DRY_RUN,
            "Choose the ports with --hca.",
        ),
        Entry(
            "TOPOLOGY_FILE",
            "The file that NCCL_TOPO_FILE names cannot be read or is not a topology; the kernel's PCI paths are "
            "used to pair GPUs and HCAs.",
            "",
            'ls -l "$NCCL_TOPO_FILE"',
            "Mount or correct the file, or remove NCCL_TOPO_FILE (pod or /etc/nccl.conf).",
        ),
    ),
)

_NCCL = Group(
    "Variables and files of NCCL, Gloo and SGLang",
    "A value that the pod or NCCL's own files set is kept, checked and warned about; with --strict it is an "
    "error.",
    (
        Entry(
            "GID_INDEX_WRONG",
            "A GID index that the pod sets is empty, of another kind, or another pod's on at least one used port: "
            "usually copied from a guide or another cluster.",
            "NCCL: `Got completion from peer ... status=12` (error 12), `ibv_modify_qp failed with 22 Invalid "
            "argument`, with 61 where the slot is empty, with 19 where the GID is another namespace's.",
            "show_gids; sglang-roce-entry --dry-run",
            "Remove the variable: the right index is found at every start.",
        ),
        Entry(
            "GID_INDEX_NOT_A_NUMBER",
            "A GID index that the pod sets is not a number.",
            "NCCL reads `auto` as 0, which on mlx5 is the link-local RoCE v1 GID.",
            _ENV,
            "Remove the variable, or write one integer.",
        ),
        Entry(
            "RDMA_DISABLED",
            "NCCL_IB_DISABLE=1 is set although RDMA is required.",
            "NCCL uses TCP, as configured.",
            _ENV,
            "Remove NCCL_IB_DISABLE, or state what is wanted: --rdma off.",
        ),
        Entry(
            "NCCL_NET_IB",
            "NCCL_NET allows only RDMA, but RDMA is off.",
            "NCCL fails: `network IB not found`, or from 2.27 `Failed to initialize any NET plugin`.",
            _ENV,
            "Remove NCCL_NET, or do not switch RDMA off (--rdma off, NCCL_IB_DISABLE).",
        ),
        Entry(
            "NCCL_NET_SOCKET",
            "NCCL_NET selects TCP although RDMA is required.",
            "NCCL uses TCP, as configured.",
            _ENV,
            "Remove NCCL_NET, or state what is wanted: --rdma off.",
        ),
        Entry(
            "HCA_UNKNOWN",
            "NCCL_IB_HCA names a device that this node does not have. Names differ between nodes.",
            "NCCL does not report an unknown name; if nothing is left, it finds no device and uses TCP.",
            "ls /sys/class/infiniband",
            "Remove NCCL_IB_HCA: the devices are found at every start.",
        ),
        Entry(
            "HCA_UNUSABLE",
            "NCCL_IB_HCA also selects a port that would be left out; the message gives the reason.",
            "NCCL does not look at addresses: it takes the port with what its GID table has, a link-local GID at "
            "least. Between two machines on one cable that works, over a router it does not.",
            _DRY_RUN,
            "Give the port's interface an address as the others have, exclude the port, or remove NCCL_IB_HCA.",
        ),
        Entry(
            "HCA_LIST_TOO_LONG",
            "NCCL_IB_HCA has more than 32 entries.",
            "NCCL drops the rest without a message.",
            _ENV,
            "Shorten the list, or use a prefix (mlx5).",
        ),
        Entry(
            "ADDR_FAMILY_UNKNOWN",
            "An address family is neither AF_INET nor AF_INET6.",
            "NCCL and NVSHMEM read anything else as AF_INET.",
            _ENV,
            "Write AF_INET or AF_INET6, or remove the variable.",
        ),
        Entry(
            "ADDR_RANGE_MALFORMED",
            "An address range is not one network with a prefix length.",
            "NCCL 2.21 and 2.22 crash without a '/'; later versions match nothing and take index 0.",
            _ENV,
            "Write one network like 10.0.0.0/16.",
        ),
        Entry(
            "ADDR_RANGE_OTHER_FAMILY",
            "The address range is of another IP version than the family that is looked for.",
            "NCCL ignores the range.",
            _ENV,
            "Set ..._ADDR_FAMILY to the family of the range, or remove the range.",
        ),
        Entry(
            "SOCKET_IFNAME_MATCHES_NOTHING",
            "NCCL_SOCKET_IFNAME, or NVSHMEM's variable of that kind, matches no interface of this pod.",
            "NCCL fails: `Bootstrap : no socket interface found`.",
            "ip -br link",
            "Remove it: the interface towards the leader is found.",
        ),
        Entry(
            "SOCKET_IFNAME_ELSEWHERE",
            "The pod puts NCCL, Gloo or NVSHMEM on another interface than the one on the route to the leader.",
            "They bind there; if the other nodes cannot be reached over it, the start hangs.",
            "ip route get LEADER_ADDRESS",
            "Remove the variable, unless the other nodes can be reached over that interface.",
        ),
        Entry(
            "SOCKET_FAMILY",
            "A socket family is set of which this pod has no address.",
            "NCCL finds no interface of that family: `Bootstrap : no socket interface found`.",
            "ip -br address",
            "Remove the variable: it is set where needed.",
        ),
        Entry(
            "GLOO_IFNAME_UNKNOWN",
            "GLOO_SOCKET_IFNAME names an interface that does not exist. Gloo takes exact names: '=', '^' and "
            "prefixes are NCCL's grammar.",
            "Gloo fails with `Unable to find address for: ^lo`.",
            "ip -br link",
            "Remove it, or name one interface.",
        ),
        Entry(
            "HOST_IP_FOREIGN",
            "SGLANG_HOST_IP, HOST_IP or SGLANG_ZMQ_SOURCE_IP is not an address of this pod, often the node's "
            "status.hostIP.",
            "SGLang puts its message queue on an address that nothing can reach, or calls from one it does not "
            "have: it hangs after NCCL has succeeded, without a timeout.",
            "ip -br address",
            "Remove the variable; status.hostIP is the node's address, not the pod's.",
        ),
        Entry(
            "PEERS_MALFORMED",
            "SGLANG_ZMQ_ALLOWED_PEERS holds something that is no address: a name, a network, a port.",
            "SGLang fails with a ValueError when it binds the first socket of attention DP.",
            "echo $SGLANG_ZMQ_ALLOWED_PEERS",
            "Write addresses with commas between them, or remove it: the meeting of the group fills it in.",
        ),
        Entry(
            "NCCL_CONF_FILE",
            "The file that NCCL_CONF_FILE names cannot be read.",
            "NCCL 2.23 and later then read neither this file nor ~/.nccl.conf, without a message.",
            'ls -l "$NCCL_CONF_FILE"',
            "Mount the file, or remove the variable.",
        ),
        Entry(
            "NCCL_FILE_CRLF",
            "A configuration file of NCCL has Windows line endings.",
            "NCCL before 2.30 reads the carriage return as part of each value.",
            "file /etc/nccl.conf",
            "sed -i 's/\\r$//' FILE",
        ),
        Entry(
            "NCCL_FILE_LINE",
            "A line of a configuration file of NCCL is not NAME=value without spaces.",
            "NCCL trims nothing: the line sets a variable that nothing reads.",
            "cat -A /etc/nccl.conf",
            "Write NAME=value, without spaces around '='.",
        ),
        Entry(
            "SERVICE_LINK",
            "SGLANG_PORT (or SGLANG_GRPC_PORT, SGLANG_TCP_STORE_PORT) holds a URL: Kubernetes injects it for a "
            "Service named 'sglang' ('sglang-grpc', 'sglang-tcp-store').",
            "SGLang reads it as a port number and exits.",
            "env | grep ^SGLANG_",
            "Set enableServiceLinks: false in the pod spec, or rename the Service.",
        ),
        Entry(
            "NONZERO_RANKS_RETURN",
            "SGLANG_BLOCK_NONZERO_RANK_CHILDREN=0 makes a worker exit right after loading. It is meant for "
            "SGLang's Python Engine.",
            "The group dies as soon as it has loaded.",
            _ENV,
            "Remove it.",
        ),
    ),
)

_LIBRARIES = Group(
    "NVSHMEM, Mooncake and UCX",
    "These read the same decision in grammars of their own, and only where SGLang's arguments use them.",
    (
        Entry(
            "DEVICE_UNKNOWN",
            "A variable names an HCA that this node does not have; NVSHMEM and Mooncake take exact names.",
            "The library does not find the HCA that was meant.",
            "ls /sys/class/infiniband",
            "Remove the variable: the devices are found at every start.",
        ),
        Entry(
            "MC_GID_INHERITED",
            "Mooncake reads NCCL_IB_GID_INDEX where MC_GID_INDEX is unset, and that index is wrong on a port.",
            "The KV transfer fails on that port, while NCCL may work.",
            "show_gids",
            "Remove NCCL_IB_GID_INDEX: both libraries then choose per port.",
        ),
        Entry(
            "MC_IB_PORT",
            "MC_IB_PORT is not a port number, or not a port of the used HCAs.",
            "",
            _ENV,
            "Remove it: Mooncake assumes 1, and another number is set where it is needed.",
        ),
        Entry(
            "MOONCAKE_GID",
            "No index fits all ports, and Mooncake's own choice is wrong on those listed.",
            "Requests over these ports fail or hang; prefill and decode lose the KV cache.",
            "show_gids",
            "Reload the driver on the node, so that all ports build their GID tables in the same order and one "
            "index fits all.",
        ),
        Entry(
            "KV_NETWORKS",
            "The HCAs that carry the KV cache are in several networks without a route between them in the main "
            "table, and Mooncake connects each of them with any of the other side's.",
            "Pairs whose networks are not routed to each other fail: requests hang, or prefill and decode lose "
            "the KV cache (NVIDIA-NeMo/RL#2935, kvcache-ai/Mooncake#3828).",
            "ip route get PEER_RAIL_ADDRESS from OWN_RAIL_ADDRESS, for two different rails",
            "Where policy routing connects them, nothing. Else MC_ENABLE_DEST_DEVICE_AFFINITY=1, if a rail's HCA "
            "has the same name on all nodes (where names differ Mooncake silently connects any), or HCAs of one "
            "network: --disaggregation-ib-device.",
        ),
        Entry(
            "MC_AFFINITY",
            "MC_ENABLE_DEST_DEVICE_AFFINITY is set to a value that reads as off; Mooncake asks only whether it is "
            "set.",
            "It is on: Mooncake connects HCAs of equal names.",
            _ENV,
            "Remove the variable to switch it off, or set it to 1.",
        ),
        Entry(
            "UCX_NO_ROUTE",
            "A rail's network holds its own link only, and no route of the main table leads beyond it by that "
            "interface.",
            "UCX, which NIXL uses, takes no RoCE path there and moves the KV cache over TCP (openucx/ucx#10996).",
            "ip route; ip rule; UCX_LOG_LEVEL=info",
            "Add a route to the other nodes' rail by each interface, or set UCX_IB_ROCE_REACHABILITY_MODE=all. If "
            "policy routing has the route, nothing.",
        ),
        Entry(
            "NVSHMEM_ONE_HCA",
            "The variables that map NVSHMEM's PEs to HCAs put all GPUs on one HCA in DeepEP's normal mode.",
            "DeepEP runs, at the bandwidth of one HCA (deepseek-ai/DeepEP#336).",
            _ENV,
            "Remove NVSHMEM_ENABLE_NIC_PE_MAPPING and the lists that go with it.",
        ),
        Entry(
            "NVSHMEM_PE_MAPPING",
            "NVSHMEM_HCA_PE_MAPPING is not name:port:count for each entry.",
            "",
            _ENV,
            "Remove it: NVSHMEM takes the nearest HCA of each GPU.",
        ),
        Entry(
            "NVSHMEM_PREFIX",
            "NVSHMEM looks only at HCAs whose name has NVSHMEM_HCA_PREFIX (mlx5) in it and skips the others.",
            "DeepEP finds no HCA, or fewer than there are.",
            "ls /sys/class/infiniband",
            "If they are ConnectX, set NVSHMEM_HCA_PREFIX to what their names have in common.",
        ),
        Entry(
            "NVSHMEM_VENDOR",
            "DeepEP is asked for, and the HCAs are no ConnectX, whose work requests its GPUs write (IBGDA).",
            "SGLang ends when DeepEP makes its first buffer (deepseek-ai/DeepEP#202, #759).",
            "cat /sys/class/infiniband/*/device/vendor (0x15b3 is ConnectX)",
            "Use another --moe-a2a-backend on these cards.",
        ),
        Entry(
            "UCX_GID",
            "UCX would take a wrong GID on some port: no index fits all, and no subnet separates the own GIDs "
            "from the others.",
            "NIXL's transfers fail on that port.",
            "show_gids; ucx_info -d",
            "Reload the driver on the node, so that all ports build their GID tables in the same order, or use "
            "Mooncake.",
        ),
        Entry(
            "UCX_GID_CONFLICT",
            "UCX_IB_GID_INDEX and UCX_IB_ROCE_SUBNETS are both set.",
            "UCX rejects the combination.",
            _ENV,
            "Remove one of them.",
        ),
        Entry(
            "UCX_NET_DEVICES_UNKNOWN",
            "UCX_NET_DEVICES names a device that this pod does not have; UCX takes exact names with ports.",
            "",
            "ucx_info -d",
            "Remove it, or name devices like mlx5_0:1.",
        ),
        Entry(
            "UCX_SILENCES_MAP",
            "UCX_NET_DEVICES is set together with --disaggregation-ib-device.",
            "SGLang then ignores its own option: every GPU uses the HCAs of UCX_NET_DEVICES.",
            _ENV,
            "Remove UCX_NET_DEVICES.",
        ),
        Entry(
            "UCX_WITHOUT_TCP",
            "UCX_NET_DEVICES has no network interface in it, so UCX has no TCP, which NIXL needs to reach itself.",
            "",
            _ENV,
            "Add the pod's interface (eth0), or remove UCX_NET_DEVICES.",
        ),
    ),
)

_IDENTITY = Group(
    "The group, its leader and the network between them",
    "Who this pod is, where the leader is, and whether it can be reached.",
    (
        Entry(
            "HALF_IDENTITY",
            "An incomplete identity: leader, size and index of the group must all be known, and one is missing. "
            "The variables of a controller count whole or not at all; a setting of the launcher's may complete "
            "them.",
            "SGLang starts as another rank, or waits forever.",
            "env | grep -E '^(LWS|RBG_LWP|SGLANG_ROCE)_'; sglang-roce-entry --dry-run",
            "Give what is missing: --leader-address, --group-size, --worker-index, or SGLANG_ROCE_LEADER_ADDRESS, "
            "SGLANG_ROCE_GROUP_SIZE, SGLANG_ROCE_WORKER_INDEX. LeaderWorkerSet v0.6 and later injects all three; "
            "k8s/other-controllers has the lines for other controllers.",
        ),
        Entry(
            "IDENTITY_NOT_EXPANDED",
            "SGLang's --dist-init-addr, --nnodes or --node-rank, or a variable of LeaderWorkerSet or "
            "RoleBasedGroup, is the text $(NAME): nobody has put the value there. It is never taken for unset.",
            "SGLang: DNS errors for ten minutes, or a usage error.",
            "env | grep -F '$('; kubectl get pod POD -o yaml",
            "The variable is set, but later in env: use args, or fieldRef. It is not set: correct its name, or "
            "the controller. For a shell's $((NAME + 1)): --worker-index $(NAME)+1. Run as a bare pod, a group's "
            "manifest needs --group-size 1 and no address.",
        ),
        Entry(
            "GROUP_SUSPECTED",
            "The pod starts as one node, but another controller (Trainer, Grove, Volcano, AIBrix, Kthena, an "
            "Indexed Job, Slurm, SkyPilot, dstack) has left variables of a group. They are not believed: most of "
            "these restart one pod of a group alone, which SGLang cannot take back. With strict it is an error "
            "(78).",
            "Each pod serves the model alone, or lacks memory for it.",
            "env | grep -E 'PET_|GROVE_|VC_|JOB_COMPLETION_INDEX|NODES'; sglang-roce-entry --dry-run",
            "Add the lines of the hint (k8s/other-controllers has whole manifests), or --group-size 1 if it is to "
            "serve alone.",
        ),
        Entry(
            "IDENTITY_CONTRADICTION",
            "SGLang's arguments (--dist-init-addr, --nnodes, --node-rank) contradict the group, or "
            "LeaderWorkerSet's variables those of RoleBasedGroup.",
            "SGLang believes its arguments: ranks are started twice or are missing, and the start hangs.",
            _DRY_RUN,
            "Remove these arguments: they are filled in from the group. Of two controllers, take out the "
            "variables that are not this pod's, or decide with --leader-address, --group-size and "
            "--worker-index.",
        ),
        Entry(
            "IDENTITY_NUMBER",
            "A group size or worker index is not a number, or is out of range.",
            "",
            "env | grep ^LWS_",
            "Write a number; LeaderWorkerSet v0.6 and later injects it. --worker-index may be a sum, 0+1.",
        ),
        Entry(
            "INDEX_OUT_OF_RANGE",
            "The worker index is not below the group size.",
            "SGLang does not check the rank: the group waits for one that never comes.",
            "env | grep ^LWS_",
            "Worker indices run from 0 (the leader) to size - 1: correct the size in the manifest.",
        ),
        Entry(
            "LEADER_ADDRESS",
            "The leader's address is not a host name or IP address (a scheme, a port or a space in it).",
            "SGLang retries the name for ten minutes.",
            "env | grep ^LWS_",
            "Write only the name or address; an IPv6 address in brackets.",
        ),
        Entry(
            "POD_NAME_DISAGREES",
            "The worker index and the ordinal in the pod's name differ.",
            "",
            "echo $POD_NAME; env | grep ^LWS_",
            "Check LWS_WORKER_INDEX and --worker-index in the manifest.",
        ),
        Entry(
            "LEADER_IS_LOOPBACK",
            "The leader's address is a loopback address: only processes of the same pod can reach it.",
            "The workers wait for themselves, until a timeout.",
            "getent hosts LEADER_NAME; cat /etc/hosts",
            "Use the leader pod's address or name; check /etc/hosts for the name.",
        ),
        Entry(
            "LEADER_UNRESOLVED",
            "A dry run or check could not resolve the leader's name. A launch waits for it.",
            "",
            "getent hosts LEADER_NAME; kubectl get pod,svc",
            "Check the leader pod and its headless Service; with hostNetwork set dnsPolicy: "
            "ClusterFirstWithHostNet.",
        ),
        Entry(
            "LEADER_TIMEOUT",
            "The leader was not reachable before --wait-deadline (exit code 124). Its name does not resolve: the "
            "pod is not scheduled, its headless Service is missing, or this pod does not use the cluster's DNS. "
            "Or it refuses connections: its SGLang has not opened the rendezvous yet, or it crashed.",
            "SGLang: `1/2 clients joined`, and an exit after 600 s.",
            "kubectl logs LEADER_POD; kubectl get pod,svc -o wide; sglang-roce-entry --check",
            "Correct what the message names. If loading simply takes longer: --wait-deadline.",
        ),
        Entry(
            "OWN_NAME_FOREIGN",
            "This pod is the leader, but the leader's name or address is not one of its own addresses: the record "
            "of the pod before it, or a wrong worker index.",
            "The workers connect to another pod; SGLang with attention DP cannot bind the address.",
            "getent hosts LEADER_NAME; ip -br address",
            "A launch waits for the record to change. If it never does, check the worker index and the Service, "
            "which must be headless.",
        ),
        Entry(
            "DIST_INIT_ELSEWHERE",
            "The leader's own --dist-init-addr gives no address of this pod: a Service's or NAT's. Plain tensor "
            "parallelism can work with it, since torch's store listens on all addresses. With attention DP SGLang "
            "binds that very address, which fails (exit code 78).",
            "With attention DP: `Cannot assign requested address` (ZeroMQ), after the imports.",
            "getent hosts NAME; ip -br address; kubectl get service",
            "A headless Service (clusterIP: None), so that the name is the pod's; under LeaderWorkerSet no "
            "--dist-init-addr at all.",
        ),
        Entry(
            "LEADER_IS_WORKER",
            "The leader's address is this worker's own, as with --dist-init-addr $(hostname):5000 on every node. "
            "As an address it is an error, as a name a warning: the record may be that of another pod.",
            "SGLang waits for a rank 0 that never comes.",
            "ip -br address; getent hosts NAME",
            "The same --dist-init-addr on all nodes, that of the leader; or another worker index.",
        ),
        Entry(
            "OWN_NAME_TIMEOUT",
            "The leader's own name did not resolve to this pod before --wait-deadline (exit code 124).",
            "SGLang's workers wait for an address that is not the leader's.",
            "getent hosts LEADER_NAME; kubectl get endpoints",
            "As for OWN_NAME_FOREIGN.",
        ),
        Entry(
            "INTERFACE_MISSING",
            "--interface names an interface that this pod does not have.",
            "",
            "ip -br link",
            "Name an existing one, or leave the choice to the route to the leader (auto).",
        ),
        Entry(
            "CONTROL_ON_LOOPBACK",
            "The address that leads to the other nodes is on lo (BGP unnumbered, routed hosts). NCCL and Gloo "
            "take the first address of an interface, there 127.0.0.1: no interface is set for them.",
            "NCCL never chooses lo by itself; with NCCL_SOCKET_IFNAME=lo no group can form (NVIDIA/nccl#1053).",
            "ip -br address show dev lo; ip route get LEADER_ADDRESS",
            "Put the address on a dummy interface of the node, or name another interface: --interface.",
        ),
        Entry(
            "CONTROL_ADDRESS_NOT_FIRST",
            "The address that leads to the other nodes is not the first of its interface, and NCCL and Gloo, told "
            "an interface only, take the first.",
            "The same.",
            "ip -br address",
            "Nothing, if the other nodes reach the first address too; else put the right one on an interface of "
            "its own.",
        ),
        Entry(
            "INTERFACE_WITHOUT_ADDRESS",
            "--interface names an interface without an address.",
            "",
            "ip -br address",
            "Name the interface that has the pod's address.",
        ),
        Entry(
            "NO_PROC",
            "The interfaces of this pod cannot be listed, because /proc is not mounted.",
            "SGLang needs it too.",
            "ls /proc/net",
            "Mount /proc in this container.",
        ),
        Entry(
            "PORT_TAKEN",
            "TCP ports that SGLang needs are held by another process: another pod on the host's network, or a "
            "predecessor that is still ending.",
            "SGLang: `EADDRINUSE`, exit code 137; with attention DP a worker too, after 3 s (0.5.23: 30 s). A "
            "prefill server whose bootstrap port is taken logs it once and stays healthy: no KV cache is sent.",
            "ss -ltnp",
            "End the other process, or choose another port: the message names the option.",
        ),
    ),
)

_REHEARSE = "sglang-roce-entry --rehearse"

_MEETING = Group(
    "The meeting: what differs between the nodes of a group",
    "The launchers of a group compare their nodes before SGLang starts. Each problem names the index and pod that "
    "stands alone, of two nodes both values; every pod logs the same, and ends with the same exit code.",
    (
        Entry(
            "INDEX_TWICE",
            "Two pods claim one worker index.",
            "torch accepts a rank twice, so that another is missing for ever.",
            "kubectl get pods -o wide; kubectl exec POD -- env | grep -E 'LWS_|INDEX'",
            "Give each pod an index of its own: remove LWS_WORKER_INDEX, --worker-index and --node-rank from the "
            "manifest, where the group injects it.",
        ),
        Entry(
            "GROUP_SIZE_DIFFERS",
            "The pods were told different sizes of their group.",
            "SGLang waits for ranks that nobody starts, and ends after 600 s.",
            "kubectl exec POD -- env | grep LWS_GROUP_SIZE",
            "Change the size in one place, and recreate the group.",
        ),
        Entry(
            "MACHINE_SHARED",
            "Two or more pods of the group run on one machine (one kernel). An error on the host network, "
            "where their TCP ports collide.",
            "SGLang's second server fails to bind a port; in the pod network both share the machine's NICs.",
            "kubectl get pods -o wide",
            "Let each pod request all GPUs of a node, or add a podAntiAffinity on kubernetes.io/hostname.",
        ),
        Entry(
            "SGLANG_DIFFERS",
            "The nodes run different releases of SGLang.",
            "Collectives and messages of two releases do not match: a hang, or an unpickling error after loading.",
            _REHEARSE,
            "Give all pods one image, named by digest: a tag may have been cached as another image.",
        ),
        Entry(
            "ARGUMENT_DIFFERS",
            "An argument of SGLang's differs. An error for what all ranks must share (sizes, model, weights, "
            "dtype, quantization, cache, schedule, backends, seeds), else a warning. Its spelling does not "
            "matter, and what belongs to the node or the leader's server (host, ports, logs, HTTP, keys) may "
            "differ.",
            "Shapes or schedules of the ranks differ: a hang in the first collective, an illegal memory "
            "access, or wrong text.",
            _REHEARSE,
            "Use one pod template for all nodes; look for a ConfigMap or an env that one of them has not got.",
        ),
        Entry(
            "GPUS_DIFFER",
            "The nodes have different numbers or models of GPUs, or an IMEX channel on some only. An error where "
            "SGLang's sizes are computed from the number.",
            "SGLang starts ranks that have no GPU, or all wait for the slowest.",
            "ls /dev/nvidia* /dev/nvidia-caps-imex-channels",
            "Request the same GPUs in every pod, and look for one that the node has lost: dmesg | grep Xid.",
        ),
        Entry(
            "RDMA_DIFFERS",
            "RDMA is on here and off there, or RoCE here and InfiniBand or a plugin there.",
            "NCCL fails at the first connection, or hangs, with one side on TCP.",
            _REHEARSE,
            "See the log of the node that is off for the reason of each port; on purpose without RDMA: --rdma "
            "off on all.",
        ),
        Entry(
            "FAMILY_DIFFERS",
            "The rails use IPv4 on some nodes and IPv6 on others.",
            "NCCL connects a GID of one family to one of the other: `ibv_modify_qp failed with 110` or status=12.",
            "show_gids; ip -br address",
            "Give the rails of every node an address of one family, or name it with --family.",
        ),
        Entry(
            "NO_COMMON_NETWORK",
            "Some nodes have their rails in networks that no other node has, and no gateway on them.",
            "`ibv_modify_qp failed with error Connection timed out` (110), or status=12, at the first collective.",
            "ip -br address; ip rule; ip route show table all",
            "Correct addresses, VLANs or --subnets, or route the rails' networks to each other.",
        ),
        Entry(
            "ROCE_MTU_DIFFERS",
            "The rails' RoCE MTUs differ between nodes. An error with NCCL before 2.29, whose receiver takes the "
            "sender's MTU unreduced.",
            "Small messages pass, large ones hang or end with status=12 (NVIDIA/nccl#1524).",
            "ibv_devinfo | grep active_mtu; ip -br link",
            "Give the interfaces of all rails, and the switches, one MTU: 4200 carries 4096-byte packets.",
        ),
        Entry(
            "RAILS_DIFFER",
            "The number, rate, order or network of rails differs between nodes.",
            "NCCL connects rails by position: it uses as many as the node with the fewest, or pairs unlike ones.",
            _REHEARSE,
            "Compare the ports that are left out with --dry-run on both nodes; check cables and addresses.",
        ),
        Entry(
            "VERSION_DIFFERS",
            "The nodes have different releases of NCCL, torch, Mooncake, NVSHMEM, the GPU driver or this "
            "launcher.",
            "Mostly nothing; some pairs of releases hang or are slow.",
            _REHEARSE,
            "Give all pods one image by digest, and bring the nodes to one driver.",
        ),
        Entry(
            "VARIABLE_DIFFERS",
            "A variable of NCCL, SGLang, Mooncake, UCX or NVSHMEM has another value on some nodes.",
            "Ranks that choose unlike algorithms, protocols or traffic classes hang or are slow.",
            _ENV,
            "Set it in the one pod template; look for /etc/nccl.conf on one node.",
        ),
        Entry(
            "CLOCK_DIFFERS",
            "The wall clocks of two nodes are more than 2 s apart.",
            "Logs of two pods cannot be read side by side; certificates and tokens may be refused.",
            "timedatectl; chronyc tracking",
            "Repair time synchronisation on that node.",
        ),
        Entry(
            "COMPARISON_INCOMPLETE",
            "Not everything was compared or sent: more than 64 kinds of nodes, more problems than fit, or a "
            "launcher of another release that knows more.",
            "",
            _REHEARSE,
            "Correct what was found, and rehearse again; see the leader's log for the whole list.",
        ),
        Entry(
            "MEETING_INCOMPLETE",
            "Not all pods of the group had called the leader's launcher when --wait-deadline was over. The "
            "message names who is missing and what DNS says of each.",
            "SGLang's leader says how many clients have joined, without names, and ends after 600 s.",
            "kubectl get pods -o wide; kubectl describe pod POD; kubectl logs POD",
            "A name that does not resolve: the pod is not scheduled, or not started. One that resolves: an image "
            "pull, another network, or a launcher that refused; its own log says which.",
        ),
        Entry(
            "REACH_FILTERED",
            "Neighbours of the group do not reach each other on a port besides the rendezvous, though a launcher "
            "listens there: a firewall lets the rendezvous alone through, or a proxy answers for everybody. Each "
            "was tried twice. The message names the pod that nobody reaches, or the one that reaches nobody.",
            "NCCL's bootstrap and Gloo: `No route to host`, `Connection refused`, or a hang, minutes later.",
            _REHEARSE,
            "Allow all TCP between the pods of a group: NetworkPolicy, firewalld's zone of the pod network, "
            'security group; no service mesh (sidecar.istio.io/inject: "false", linkerd.io/inject: disabled).',
        ),
        Entry(
            "REACH_TRANSLATED",
            "Connections between the pods arrive from an address that is no member's: NAT, or a forwarding proxy.",
            "Mostly nothing; SGLang's list of allowed peers (0.5.23) refuses such connections silently.",
            "kubectl exec POD -- ss -tnp",
            "Keep the pods of a group off the proxy (sidecar.istio.io/inject), without source NAT between them.",
        ),
        Entry(
            "PEERS_LEAVE_OUT",
            "SGLANG_ZMQ_ALLOWED_PEERS is set on the leader, and has no address as which a member is seen. "
            "An error with attention DP, whose sockets it closes; else a warning.",
            "Nothing is said: what that member sends never arrives, and the group hangs for ten minutes.",
            "sglang-roce-entry --rehearse",
            "Remove the variable: the meeting fills it in. Or add every member's address, on every node.",
        ),
        Entry(
            "RAIL_NO_WAY",
            "RDMA packets between two ports do not arrive, neither in a first try nor within 10 s in a second. "
            "The message names the node, or the two, and the direction.",
            "NCCL: `Got completion from peer ... status=12` (retries exceeded), without a name, minutes later.",
            "ping -I OWN PEER; ip neigh; on the switch: ACLs of UDP port 4791. InfiniBand: ibtracert",
            "Let UDP port 4791 pass in both directions; look at VLAN, cabling and routes behind the leaf. "
            "InfiniBand: both ports in one subnet, with a path for NCCL_IB_SL.",
        ),
        Entry(
            "RAIL_LARGE_LOST",
            "64 bytes pass between two ports, full packets do not: a hop has a smaller MTU than both ends.",
            "NCCL connects, and hangs or ends with status=12 at the first large message.",
            "ping -M do -s 4128 -I OWN PEER, of RoCE MTU 4096; the message has the size",
            "Give every switch and link on the way the MTU of the interfaces; 4200 carries RoCE MTU 4096.",
        ),
        Entry(
            "RAIL_NO_NEIGHBOUR",
            "The kernel finds no neighbour for the peer's rail address (ARP, ND), tried several times.",
            "NCCL: `ibv_modify_qp failed with 110 Connection timed out`.",
            "ip neigh show dev NETDEV; ip -br address",
            "Look at VLAN and switch port of this rail, at its gateway, and whether the peer has its address.",
        ),
        Entry(
            "RAIL_NO_ROUTE",
            "There is no route from a rail's address to its peer's.",
            "NCCL: `ibv_modify_qp failed with 101 Network is unreachable`, or 110 after a second.",
            "ip route get PEER from OWN; ip rule",
            "Give the rail a route, or a policy rule with a table, to the networks of its peers.",
        ),
        Entry(
            "RAIL_ACROSS",
            "NCCL_CROSS_NIC=1, or PXN that is switched off, has NCCL connect a rail to rails of other positions, "
            "and these do not reach each other: no gateway leads from network to network, or RDMA does not pass.",
            "NCCL: `ibv_modify_qp failed with 110 Connection timed out`, or status=12, from a number of nodes on.",
            "ip route get PEER_RAIL_ADDRESS from OWN_RAIL_ADDRESS, for two different rails",
            "NCCL_CROSS_NIC=0 on all nodes keeps NCCL to rails of one position. Or route the rails' networks to "
            "each other, where the fabric connects them.",
        ),
        Entry(
            "RAIL_GID_REFUSED",
            "The kernel refuses to connect the GIDs of the two ends: their families or types differ, or the "
            "interface of one is gone.",
            "NCCL: `ibv_modify_qp failed with 22 Invalid argument`.",
            "show_gids; ip -br address",
            "Let both ends use RoCE v2 GIDs of one family: addresses of the rails, NCCL_IB_GID_INDEX.",
        ),
        Entry(
            "RAIL_NO_SM",
            "InfiniBand: no subnet manager has brought a port up (state INIT or ARMED) or given it a LID.",
            "NCCL leaves the port out, or ends with status=12.",
            "ibstat; sminfo; the log of the subnet manager",
            "Start a subnet manager (opensm, UFM, a switch's own), or see why it does not reach this port.",
        ),
        Entry(
            "RAIL_NO_PARTITION",
            "The slot of the P_Key table that NCCL_IB_PKEY names (0, if it is not set) is not there, or the two "
            "ports of a rail are in no common partition in which one of them is a full member.",
            "NCCL: `ibv_modify_qp failed with 22 Invalid argument`, or status=12 minutes later.",
            "cat /sys/class/infiniband/*/ports/*/pkeys/0 (upper bit: full member)",
            "Let the subnet manager put all ports into one partition, and NCCL_IB_PKEY name its slot everywhere.",
        ),
        Entry(
            "RAIL_LID_REFUSED",
            "InfiniBand: the kernel refuses to connect a port to its peer's LID.",
            "NCCL: `ibv_modify_qp failed with 22 Invalid argument`.",
            "ibstat; show_gids",
            "Compare LID and subnet prefix of both ports; see the subnet manager's log.",
        ),
        Entry(
            "RAIL_LOSSY",
            "A rail carries RDMA, but loses packets, or carried everything only at a second, patient try.",
            "NCCL runs at a fraction of the rail's speed, or ends with status=12 under load.",
            "ethtool -S NETDEV | grep -iE 'discard|pause|err'; rdma statistic",
            "Look at cables and transceivers, and at PFC and ECN of the port and its switch.",
        ),
        Entry(
            "RAIL_GID_MOVED",
            "The GID index of a port does not hold the GID any more that was decided on a moment ago.",
            "NCCL uses whatever stands at the index: status=12, or another network.",
            "ip monitor address",
            "Find out who configures the interface while pods start, and start the group again.",
        ),
        Entry(
            "RAIL_LINK_DOWN",
            "A port that was active is down, or went down while it was tried.",
            "NCCL: `Got async event : port error`, or no device.",
            "rdma link; ethtool NETDEV",
            "Check cable, transceiver and switch port.",
        ),
        Entry(
            "RAIL_MEMLOCK",
            "No memory could be locked for the proof of a rail (32 KiB).",
            "NCCL: `ibv_reg_mr failed`, `Cannot allocate memory`.",
            "ulimit -l",
            "Add securityContext.capabilities.add: [IPC_LOCK], or raise the runtime's memlock limit.",
        ),
        Entry(
            "RAIL_NO_DEVICE",
            "The process that proves the rails cannot open a verbs device, or libibverbs does not list it.",
            "NCCL leaves the device out.",
            _CHECK,
            "Grant the pod its RDMA device, and install the card's verbs provider.",
        ),
        Entry(
            "RAIL_UNSOUND",
            "What arrived over a rail is not what was sent, or an HCA refused a write that was allowed.",
            "Unknown; NCCL may end with status=10, or compute with wrong data.",
            "ibv_rc_pingpong -g INDEX -c between the two ports",
            "Update the NIC's firmware and rdma-core, and report it.",
        ),
        Entry(
            "RAIL_NOT_PROVEN",
            "A rail could not be tried: the process that does it crashed, hung or was not answered, or the device "
            "has no queue pairs of this kind. Nothing is known of the rail, and the launch goes on.",
            "",
            "ibv_rc_pingpong -g INDEX between the two ports; sglang-roce-entry --check on both nodes",
            "See the reason in the message. --prove-rails off leaves the proof out.",
        ),
        Entry(
            "MEMBER_AHEAD",
            "The leader's launcher was restarted after it had let others go: SGLang of theirs waits for its "
            "store already. They count as present, and were not compared again.",
            "",
            "kubectl get pods -o wide (restarts, ages)",
            "Nothing, if the group serves. Else delete the leader's pod, so that the whole group starts again.",
        ),
        Entry(
            "NOFILE",
            "The limit on open files is too low for a leader that holds a connection to each node of its group.",
            "",
            "ulimit -Hn",
            "Raise the container runtime's limit: LimitNOFILE= of its unit, docker run --ulimit nofile=65536.",
        ),
    ),
)

_SGLANG = Group(
    "SGLang's arguments, GPUs and ports",
    "What SGLang would find out only after its imports, or never. Errors end a launch with exit code 78.",
    (
        Entry(
            "SGLANG_MISSING",
            "SGLang is not installed in the interpreter that runs this program.",
            "",
            "python3 -c 'import sglang'",
            "Build on an SGLang image and install sglang-roce-entry into the interpreter that has SGLang.",
        ),
        Entry(
            "ARGUMENT",
            "A value among SGLang's arguments is not a number in its range.",
            "SGLang rejects it after its imports.",
            _DRY_RUN,
            "Correct it in the container's args.",
        ),
        Entry(
            "CONFIG_FILE",
            "SGLang's --config file is missing, given twice, not .yaml or .yml, or not a mapping of options.",
            "SGLang exits after its imports.",
            "cat FILE",
            "Mount or correct the file; a relative path counts from the working directory.",
        ),
        Entry(
            "CONFIG_IGNORED",
            "SGLang accepts --config in this form (--config=FILE, or shortened) but never reads the file.",
            "SGLang starts with its defaults.",
            _DRY_RUN,
            "Write two words: --config FILE.yaml.",
        ),
        Entry(
            "CONFIG_KEY",
            "A key of SGLang's --config file is not spelled as an option.",
            "SGLang rejects the key.",
            "cat FILE",
            "Write it with dashes: tp-size, not tp_size.",
        ),
        Entry(
            "DIST_INIT_ADDR",
            "--dist-init-addr is not HOST:PORT.",
            "SGLang: DNS errors for ten minutes.",
            _DRY_RUN,
            "Remove --dist-init-addr: it is filled in from the group.",
        ),
        Entry(
            "TP_NODES",
            "The tensor parallel size cannot be divided among the nodes.",
            "SGLang rejects it after its imports: `tp_size must be divisible by number of nodes`.",
            _DRY_RUN,
            "Remove --tp: it is computed as GPUs x nodes / pp.",
        ),
        Entry(
            "TP_GPUS",
            "The parallel sizes need more GPUs on each node than there are, or the GPUs cannot be divided by "
            "them.",
            "SGLang fails while it places ranks on GPUs.",
            "nvidia-smi -L",
            "Remove --tp, which is computed in a group, or correct the pod's GPUs (nvidia.com/gpu).",
        ),
        Entry(
            "TP_UNKNOWN",
            "The number of GPUs is not known, so --tp-size cannot be computed.",
            "SGLang's own default is 1, which no group of several nodes can use.",
            "ls /dev/nvidia*; nvidia-smi -L",
            "Request GPUs in the manifest (nvidia.com/gpu), or give --gpus N or SGLang's --tp-size.",
        ),
        Entry(
            "PP_NODES",
            "The pipeline parallel size does not fit the nodes.",
            "SGLang's check passes, but ranks are missing or out of range.",
            _DRY_RUN,
            "Choose --pp-size so that it divides the nodes, or the nodes divide it.",
        ),
        Entry(
            "DP_NODES",
            "--dp-size over several nodes: SGLang has plain data parallelism on one node only.",
            "SGLang exits after its imports: `multi-node data parallel is not supported unless dp attention!`.",
            _DRY_RUN,
            "Add --enable-dp-attention (0.5.22 and later: --attn-dp-size), or scale the LeaderWorkerSet's "
            "replicas.",
        ),
        Entry(
            "ATTENTION_DP",
            "The tensor parallel size cannot be divided by the attention data parallel size.",
            "SGLang fails with an assertion after its imports.",
            _DRY_RUN,
            "Choose an attention data parallel size that divides it.",
        ),
        Entry(
            "GPUS_IDLE",
            "The parallel sizes use fewer GPUs than the node has.",
            "SGLang leaves the others idle without a message.",
            "nvidia-smi -L",
            "Remove --tp to use them all, or request fewer.",
        ),
        Entry(
            "GPUS_DISAGREE",
            "Two sources give different numbers of GPUs; the first one named is used.",
            "",
            "ls /dev/nvidia*; env | grep VISIBLE_DEVICES",
            "Correct the one that is wrong.",
        ),
        Entry(
            "VISIBLE_DEVICES",
            "CUDA_VISIBLE_DEVICES (or the ROCm variable) names a GPU that does not exist, names one twice, or has "
            "an entry that is not a GPU.",
            "CUDA ends the list at the first such entry and shows fewer GPUs, or none.",
            "env | grep VISIBLE_DEVICES; nvidia-smi -L",
            "Correct or remove it: the container runtime already shows only the pod's GPUs.",
        ),
        Entry(
            "MIG_UNSUPPORTED",
            "The pod has MIG instances.",
            "NCCL joins whole GPUs only, and no HCA is near to an instance.",
            "nvidia-smi -L",
            "Request whole GPUs (nvidia.com/gpu), or switch MIG off on the node.",
        ),
        Entry(
            "PORTS_OUT_OF_RANGE",
            "SGLang counts ports up from D or --port (attention DP: D to D+13), and they end beyond 65535.",
            "SGLang fails when it binds them.",
            _DRY_RUN,
            "Choose a lower --dist-init or --port.",
        ),
        Entry(
            "PORT_CLASH",
            "SGLang needs one port for two purposes: HTTP, rendezvous, attention DP, bootstrap, gRPC, ...",
            "One of the two cannot be bound: `EADDRINUSE`, after the imports; a bootstrap server then logs the "
            "error and is missing for ever.",
            _DRY_RUN,
            "Give one of the two another port; the message names both options.",
        ),
        Entry(
            "USE_RAY",
            "--use-ray in a group: Ray starts the ranks on all nodes from one SGLang.",
            "Every pod starts a server of its own, and they compete for the GPUs of Ray's cluster.",
            _DRY_RUN,
            "Give the workers 'ray start --block --address=...' as args (a bare word), or remove --use-ray.",
        ),
        Entry(
            "ATTENTION_DP_IPV6",
            "SGLang 0.5.4 to 0.5.9 binds the sockets of its attention DP ranks to IPv4 only; this group has "
            "IPv6 addresses.",
            "It hangs for ever and logs nothing.",
            "ss -ltnp; pip show sglang",
            "Use SGLang 0.5.10 or later, or IPv4 addresses for the group.",
        ),
        Entry(
            "RENDEZVOUS_OVERRIDDEN",
            "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE sends torch to a store of somebody else's: no SGLang opens "
            "the rendezvous port.",
            "The ranks meet at MASTER_ADDR:MASTER_PORT, if something listens there.",
            _ENV,
            "Make sure that the store is there before the pods, or remove the variable.",
        ),
        Entry(
            "IB_DEVICE",
            "--disaggregation-ib-device (or SGLang's option of that kind) names an HCA that does not exist or is "
            "not usable, misses a GPU, or has a form that this SGLang does not read.",
            "SGLang exits, or the KV transfer fails at the first request.",
            "ls /sys/class/infiniband; sglang-roce-entry --dry-run",
            "Remove the option: it is filled in.",
        ),
    ),
)

_OWN = Group(
    "This program's own command line and files",
    "These are not faults of the node.",
    (
        Entry(
            "USAGE",
            "The command line is wrong: an unknown option, a bad value, an option of ours among SGLang's, or no "
            "SGLang arguments (exit code 2).",
            see="sglang-roce-entry --help",
            do="Correct it. Options of ours go before SGLang's first argument.",
        ),
        Entry(
            "SETTING",
            "A setting in a variable or in the policy file has a value that cannot be read.",
            see="env | grep ^SGLANG_ROCE_",
            do="Write one of the values in the hint.",
        ),
        Entry(
            "SETTING_NOT_EXPANDED",
            "A setting is the text $(NAME): nobody has put the variable's value there (exit code 78). Kubernetes "
            "expands it in env from the entries before it, in command and args from all of them, and leaves an "
            "unknown name as it is.",
            see="env | grep -F '$('; kubectl get pod POD -o yaml",
            do="The variable is set, but later in env (JOB_COMPLETION_INDEX, PET_*, VC_*): give the setting in "
            "args, or by fieldRef. It is not set: correct its name, or the controller. In a policy file, or for a "
            "shell's $((...)) and $(command): write the value.",
        ),
        Entry(
            "UNKNOWN_VARIABLE",
            "A variable begins with SGLANG_ROCE_ and is not a setting; usually misspelled.",
            see="env | grep ^SGLANG_ROCE_",
            do="Correct or remove it. Those that Kubernetes injects for a Service are ignored.",
        ),
        Entry(
            "POLICY",
            "The policy file cannot be read, is not a YAML mapping, or has an unknown key or a value of the wrong "
            "kind.",
            see="cat FILE",
            do="Mount or correct it: one setting a line (hca_wait: 30), the keys as in --help with underscores.",
        ),
        Entry(
            "SNAPSHOT",
            "The snapshot cannot be read, is damaged, or has paths that a recording never has.",
            see="tar tzf FILE | head",
            do="Name a file that --save-snapshot wrote, or a packaged node.",
        ),
        Entry(
            "SNAPSHOT_WRITE",
            "The snapshot cannot be written there.",
            do="Name a writable place, or - for stdout.",
        ),
        Entry(
            "MEETING_FILE",
            "The saved meeting cannot be read, is damaged, or is of a newer release.",
            see="head -c 300 FILE",
            do="Name a file that --rehearse --save-meeting wrote, by this release or an earlier one.",
        ),
        Entry(
            "MEETING_WRITE",
            "The meeting cannot be saved there. Nothing else of the rehearsal is lost.",
            do="Name a writable place: in a pod a volume.",
        ),
        Entry(
            "OUTPUT",
            "stdout is closed or full.",
            do="Send it to a file or pipe that can be written.",
        ),
        Entry(
            "SGLANG_WRAPPED",
            "In a group, another program is told to start SGLang (sh -c, env, numactl, ...): the launcher only "
            "prepares its environment. It fills in no --nnodes, --node-rank, --dist-init-addr and --tp-size, and "
            "does not wait for the leader.",
            "SGLang: without ranks of its own every pod serves alone; with them nothing waits for the leader.",
            see="sglang-roce-entry --dry-run, section Command",
            do="Give SGLang's arguments alone: args: [--model-path, ...]; python3 -m sglang.launch_server or "
            "sglang serve in front of them is understood too. Variables belong into env.",
        ),
        Entry(
            "LIMIT_REACHED",
            "The kernel refuses this process memory or a thread: a limit of the container is reached.",
            "SGLang, which needs far more, ends with `can't start new thread` or `Cannot allocate memory`.",
            "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max; ulimit -a",
            "Raise resources.limits.memory, the pod's limit of processes (kubelet podPidsLimit), or the ulimit.",
        ),
        Entry(
            "EXEC",
            "The command cannot be executed (exit code 126): no permission, another architecture, arguments and "
            "environment larger than the kernel allows, or a NUL byte in them.",
            see="file PROGRAM; ls -l PROGRAM",
            do="Correct the file or the arguments.",
        ),
        Entry(
            "EXEC_NOT_FOUND",
            "The command was not found (exit code 127).",
            see="command -v PROGRAM",
            do="Check the spelling, the PATH of the image, and the interpreter line of a script.",
        ),
        Entry(
            "INTERNAL",
            "A defect of this program (exit code 70).",
            see="sglang-roce-entry --save-snapshot node.tar.gz",
            do="Report it with that file and the log.",
        ),
    ),
)

_REASONS = Group(
    "Why a port is left out",
    "Reason codes: in the decision of the log and of --dry-run, one for each port that is not used.",
    (
        Entry(
            "NOT_ROCE",
            "The port is not RoCE: InfiniBand, iWARP, or another kind of device.",
            see="cat /sys/class/infiniband/*/ports/*/link_layer",
            do="Use a node with a RoCE HCA.",
        ),
        Entry(
            "NO_VERBS",
            "The HCA is visible in /sys, as always, but its /dev/infiniband/uverbs* was not given to the pod.",
            "libibverbs does not list the HCA; if no other is left, NCCL logs `NET/IB : No device found` and uses "
            "TCP.",
            "ls /dev/infiniband",
            "Request the RDMA resource in the manifest (rdma/...), or mount /dev/infiniband in a privileged pod.",
        ),
        Entry(
            "VERBS_DENIED",
            "The verbs device is there and may not be opened. EPERM: mounted (hostPath) but not granted to the "
            "device cgroup. EACCES: its mode does not let this user in.",
            "NCCL logs `NET/IB : Unable to open device` and skips it, or hangs where only some ranks are refused.",
            "ls -l /dev/infiniband; id",
            "Request the RDMA resource in the manifest; for EACCES run as a user who may open the device.",
        ),
        Entry(
            "NO_PROVIDER",
            "The verbs device opens, but libibverbs does not list it: the image has no provider for the card, one "
            "built for another rdma-core release, or one that is too old for the driver of the node.",
            "NCCL does not see the device; if no other is left, it logs `NET/IB : No device found` and uses TCP.",
            "IBV_SHOW_WARNINGS=1 ibv_devices; ls /etc/libibverbs.d",
            "Install the provider in the image, of the same release as its libibverbs: ibverbs-providers, or all "
            "of the vendor's package (libionic, libbnxt_re, MLNX_OFED). One mounted from the node seldom fits.",
        ),
        Entry(
            "PORT_NOT_ACTIVE",
            "The port's state is not ACTIVE.",
            "NCCL skips the port without a message.",
            "cat /sys/class/infiniband/*/ports/*/state",
            "Bring the link up on the node (rdma link; ip link set ... up); check cable and switch port.",
        ),
        Entry(
            "NO_OWN_GID",
            "No RoCE v2 GID of this port is an address of this pod. The pod sees the node's and other pods' GIDs "
            "under the same names and has no address on the HCA itself.",
            "NCCL takes a GID that is not the pod's: `ibv_modify_qp failed with 19 No such device`, or packets "
            "that are never answered.",
            "show_gids; ip -br address",
            "hostNetwork: true, or a secondary network (Multus with SR-IOV or macvlan on the HCA's interface). "
            "Knowingly with the host's GIDs: --foreign-gids allow. IPv4 link-local addresses count only where no "
            "port has another one, or with --subnets 169.254.0.0/16.",
        ),
        Entry(
            "NETDEV_DOWN",
            "The interface of the port is down.",
            "NCCL uses the port, and its connections fail.",
            "ip -br link",
            "ip link set INTERFACE up",
        ),
        Entry(
            "SLOWER_RATE",
            "The port belongs to a slower card than the other ports: of another board, or beyond what GPUs need.",
            "NCCL does not look at speed: it uses a 25 Gb/s storage card beside 400 Gb/s rails.",
            "cat /sys/class/infiniband/*/ports/*/rate",
            "Nothing, if the card is not a rail; else name the ports with --hca.",
        ),
        Entry(
            "MANAGEMENT_NIC",
            "The port carries the default route and is no rail: not the nearest to any GPU, one more than the "
            "other GPUs have, or another card than the rails.",
            "NCCL uses it as a rail.",
            "ip route; sglang-roce-entry --dry-run",
            "Nothing; if it is a rail, name the ports with --hca.",
        ),
        Entry(
            "FAR_FROM_GPU",
            "InfiniBand is the fabric of this node, and this RoCE port is far from all GPUs or slower.",
            "NCCL uses both.",
            "nvidia-smi topo -m",
            "Nothing; if it is a rail, name the ports with --hca.",
        ),
        Entry(
            "OTHER_CARD",
            "Another model or board than most cards here have, and no GPU's rail: a card for storage, or the "
            "north-south card on the switch of one GPU. Every GPU keeps a port that is as near.",
            "NCCL counts it as one more rail.",
            "nvidia-smi topo -m; grep . /sys/class/infiniband/*/board_id",
            "Nothing; if it is a rail, name the ports with --hca.",
        ),
        Entry(
            "DUPLICATE_FUNCTION",
            "The physical function of a virtual function that is used: one cable, not two.",
            "NCCL counts them as two HCAs.",
            "ls -l /sys/class/infiniband/*/device/physfn",
            "Nothing; to use the physical function, name it with --hca.",
        ),
        Entry(
            "USER_EXCLUDED",
            "The selector (--hca, or the pod's NCCL_IB_HCA) does not name the port.",
            see=_DRY_RUN,
            do="Change the selector if the port should be used.",
        ),
        Entry(
            "RDMA_OFF",
            "RDMA is off: --rdma off, or NCCL_IB_DISABLE=1.",
            see=_DRY_RUN,
            do="Remove it to use RDMA.",
        ),
        Entry(
            "EXTERNAL_PLUGIN",
            "An external network plugin of NCCL decides which devices are used.",
            see="echo $NCCL_NET_PLUGIN; ls /opt/*/lib*/libnccl-net*.so",
            do="Nothing; to use RoCE without it, remove NCCL_NET_PLUGIN.",
        ),
    ),
)

_EXITS = Group(
    "Exit codes",
    "The first error in the order of the stages decides: settings, identity, command, RDMA, wait.",
    (
        Entry(
            "0",
            "A mode has shown what it should, and a launch would go ahead, also with warnings. After exec the "
            "exit code is SGLang's, whatever it is.",
        ),
        Entry(
            "1",
            "--probe: the server is not started, not ready or not alive; the line on stdout gives the reason.",
            do="See that line, and SGLang's log.",
        ),
        Entry("2", "The command line cannot be read, or stdout cannot be written.", do="See USAGE and OUTPUT."),
        Entry(
            "69",
            "RDMA is required but unusable: no HCA, no verbs device, no own GID, locked memory, no libibverbs or "
            "provider, a selector that matches nothing; with --strict also a wrong value of NCCL's.",
            "NCCL falls back to TCP, or the first connection hangs or fails after minutes.",
            _CHECK,
            "Follow the code in the log. Without RDMA: --rdma off.",
        ),
        Entry("70", "A defect of this program.", do="See INTERNAL."),
        Entry(
            "78",
            "The configuration is wrong: a setting, the policy file, the identity of the pod, SGLang's arguments, "
            "a taken port, or SGLang is missing.",
            "SGLang exits after its imports, or waits for a group that never forms.",
            _CHECK,
            "Follow the code in the log.",
        ),
        Entry(
            "124",
            "The leader, or on the leader its own name, was not reachable before --wait-deadline.",
            see="kubectl logs LEADER_POD; kubectl get pod,svc -o wide",
            do="See LEADER_TIMEOUT and OWN_NAME_TIMEOUT. --on-timeout exec launches anyway.",
        ),
        Entry("126", "The command cannot be executed.", do="See EXEC."),
        Entry("127", "The command was not found.", do="See EXEC_NOT_FOUND."),
        Entry("130", "Interrupted by SIGINT (Ctrl-C) before exec."),
        Entry(
            "143",
            "Ended by SIGTERM before exec: Kubernetes deletes the pod, or LeaderWorkerSet recreates the group.",
            see="kubectl get events",
            do="Look for the pod of the group that failed first.",
        ),
        Entry("141", "The reader of stdout ended before the output did (`| head`); nothing is wrong."),
    ),
)

GROUPS: tuple[Group, ...] = (_RDMA, _NCCL, _LIBRARIES, _IDENTITY, _MEETING, _SGLANG, _OWN, _REASONS, _EXITS)
EXITS, REASONS = _EXITS, _REASONS
BY_CODE: dict[str, Entry] = {entry.code: entry for group in GROUPS for entry in group.entries}
