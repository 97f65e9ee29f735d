"""The variables that decide something here: a snapshot holds these, and no others."""

from __future__ import annotations

#: Our own settings; a name that is none of them ends every run.
_SETTINGS = "SGLANG_ROCE_"
_NAMES = frozenset(
    [
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "GLOO_SOCKET_IFNAME",
        "HOST_IP",
        "LD_LIBRARY_PATH",
        "POD_IP",
        "POD_NAME",
        "LWS_GROUP_SIZE",
        "LWS_LEADER_ADDRESS",
        "LWS_WORKER_INDEX",
        "MC_GID_INDEX",
        "MC_IB_PORT",
        "MC_IB_SL",
        "MC_IB_TC",
        "MC_MS_FILTERS",
        "MC_TE_FILTERS",
        "MOONCAKE_DEVICE",
        "NCCL_CONF_FILE",
        "NCCL_CUMEM_ENABLE",
        "NCCL_DEBUG",
        "NCCL_DEBUG_FILE",
        "NCCL_DEBUG_SUBSYS",
        "NCCL_IB_ADDR_FAMILY",
        "NCCL_IB_ADDR_RANGE",
        "NCCL_IB_DISABLE",
        "NCCL_IB_GID_INDEX",
        "NCCL_IB_HCA",
        "NCCL_IB_ROCE_VERSION_NUM",
        "NCCL_IB_SL",
        "NCCL_IB_TC",
        "NCCL_NET",
        "NCCL_NET_PLUGIN",
        "NCCL_NVLS_ENABLE",
        "NCCL_SOCKET_FAMILY",
        "NCCL_SOCKET_IFNAME",
        "NCCL_TOPO_FILE",
        "NVSHMEM_BOOTSTRAP_UID_SOCK_FAMILY",
        "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME",
        "NVSHMEM_ENABLE_NIC_PE_MAPPING",
        "NVSHMEM_HCA_LIST",
        "NVSHMEM_HCA_PE_MAPPING",
        "NVSHMEM_HCA_PREFIX",
        "NVSHMEM_IB_ADDR_FAMILY",
        "NVSHMEM_IB_ADDR_RANGE",
        "NVSHMEM_IB_GID_INDEX",
        "NVSHMEM_IB_ROCE_VERSION_NUM",
        "NVSHMEM_IB_SL",
        "NVSHMEM_IB_TRAFFIC_CLASS",
        "SGLANG_BLOCK_NONZERO_RANK_CHILDREN",
        "SGLANG_HOST_IP",
        "SGLANG_LOCAL_IP_NIC",
        "SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS",
        "SGLANG_PORT",
        "UCX_IB_GID_INDEX",
        "UCX_IB_ROCE_SUBNETS",
        "UCX_IB_SL",
        "UCX_IB_TRAFFIC_CLASS",
        "UCX_NET_DEVICES",
    ]
)


def is_recorded(name: str) -> bool:
    """Return whether a variable of this name decides something here."""
    return name in _NAMES or name.startswith(_SETTINGS)
