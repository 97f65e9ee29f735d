"""The changes to the two modules are made exactly where they are meant, or not at all."""

from __future__ import annotations

import struct

import pytest

from tests.kernel.archive import KernelUnavailableError
from tests.kernel.image import MODULE_SIGNATURE_MARK, with_roce_v1_gids, with_software_devices_movable

pytestmark = pytest.mark.kernel

V2_ONLY, V1_AND_V2 = bytes.fromhex("05308000"), bytes.fromhex("0530a000")
# mov $-95, %r12d; je +0x74; cmpb $0, shared - and the same with two nops for the jump
REFUSES, MOVES = bytes.fromhex("41bca1ffffff7474803d"), bytes.fromhex("41bca1ffffff9090803d")


def test_the_constant_is_changed_and_nothing_else() -> None:
    assert with_roce_v1_gids(b"before" + V2_ONLY + b"after") == b"before" + V1_AND_V2 + b"after"


def test_the_jump_is_removed_and_nothing_else() -> None:
    assert with_software_devices_movable(b"before" + REFUSES + b"after") == b"before" + MOVES + b"after"


@pytest.mark.parametrize("times", [0, 2])
def test_another_kernel_is_refused(times: int) -> None:
    with pytest.raises(KernelUnavailableError, match=f"rdma_rxe has .* not {times} times"):
        with_roce_v1_gids(b"|".join([b"", *[V2_ONLY] * times, b""]))
    with pytest.raises(KernelUnavailableError, match=f"ib_core has .* not {times} times"):
        with_software_devices_movable(b"|".join([b"", *[REFUSES] * times, b""]))


def test_the_signature_of_what_was_changed_is_cut_off() -> None:
    signature = b"s" * 300
    trailer = b"\0" * 8 + struct.pack(">I", len(signature)) + MODULE_SIGNATURE_MARK
    assert with_roce_v1_gids(V2_ONLY + signature + trailer) == V1_AND_V2
