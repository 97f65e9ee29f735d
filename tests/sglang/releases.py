"""Which SGLang releases judge, and what each needs beside it to be imported without a GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """One release. `beside` names folders of `COMPANIONS`; `mocked` are packages that need a GPU build.

    `mocked` is enough for the arguments; a server needs the real triton, and mocks sgl_kernel.
    """

    version: str
    beside: str | None = None
    mocked: tuple[str, ...] = ("torchvision",)
    #: Its `--config` reads `host: no` as a word; 0.5.3 to 0.5.6 drop the key, and we follow the later ones.
    boolean_words: bool = True


#: Packages of another age than the environment's, each set in a folder of its own.
COMPANIONS = {
    "transformers-4.48": ("transformers==4.48.3", "tokenizers==0.21.4", "huggingface-hub==0.28.1"),
    "transformers-4.57": ("transformers==4.57.1", "tokenizers==0.22.1", "huggingface-hub==0.36.0"),
    "transformers-5.12": ("transformers==5.12.1", "tokenizers==0.22.2"),
    # What `--smg-grpc-mode` starts.
    "grpc": (
        *("smg-grpc-servicer==0.14.1", "smg-grpc-proto==0.4.28", "grpcio==1.85.3", "protobuf==7.36.2"),
        *("grpcio-reflection==1.85.1", "grpcio-health-checking==1.85.1"),
    ),
}

RELEASES = (
    Release("0.4.3.post2", "transformers-4.48", ("torchvision", "triton")),
    Release("0.4.6.post5", "transformers-4.57", ("torchvision", "triton")),
    Release("0.5.2", "transformers-4.57", ("torchvision", "sgl_kernel")),
    Release("0.5.6.post2", "transformers-4.57", ("torchvision", "sgl_kernel"), boolean_words=False),
    Release("0.5.9", "transformers-4.57"),
    Release("0.5.15.post1", "transformers-5.12"),
    Release("0.5.23"),
)

#: The release that runs as a server: the newest that does so on a CPU.
SERVER = RELEASES[-1]
