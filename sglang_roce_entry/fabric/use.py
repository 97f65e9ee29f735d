"""Which libraries one launch uses, and how: what SGLang's arguments mean for the fabric."""

from __future__ import annotations

from dataclasses import dataclass

MOONCAKE, NIXL, MORI = "mooncake", "nixl", "mori"


@dataclass(frozen=True, slots=True)
class NamedHcas:
    """HCAs that the user has named by an SGLang option.

    ``text`` as written, ``file_text`` the content of the file that it names (``None``: it cannot be read).
    """

    where: str
    text: str
    file_text: str | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """What a launch uses besides NCCL.

    ``kv_backend`` carries the KV cache between prefill and decode. ``named`` are the user's own HCAs.
    ``gpus`` are the numbers of the visible GPUs that SGLang will use. What SGLang's release can read:
    ``has_option`` (``--disaggregation-ib-device`` at all), ``reads_map`` (a map of GPUs to HCAs in it),
    ``nixl_reads_option``. ``reindexed``: each process sees one GPU, as number 0.
    """

    kv_backend: str | None = None
    mooncake: bool = False
    nixl: bool = False
    mori: bool = False
    nvshmem: bool = False
    named: tuple[NamedHcas, ...] = ()
    transfer_hcas: NamedHcas | None = None  # by --disaggregation-ib-device
    gpus: tuple[int, ...] = ()
    reindexed: bool = False
    sglang_version: str | None = None
    mooncake_version: tuple[int, ...] | None = None
    has_option: bool = True
    reads_map: bool = False
    nixl_reads_option: bool = False
