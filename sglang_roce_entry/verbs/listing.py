"""The process that lists the devices of libibverbs; its answer, line by line.

``ok`` or ``not loaded <the loader's message>``; then ``device <name>`` for each, and ``end``; or, instead of them,
``no verbs`` (the kernel shows none) or ``unknown <why>``.
"""

from __future__ import annotations

import errno

from sglang_roce_entry.verbs.child import Answers
from sglang_roce_entry.verbs.loading import Libibverbs, NotLoadedError, VerbsError


def main(arguments: list[str]) -> None:
    """Answer within ``arguments[0]`` seconds."""
    answers = Answers(float(arguments[0]))
    try:
        library = Libibverbs()
        answers.say("ok")
        for name in library.devices():
            answers.say(f"device {name}")
        answers.say("end")
    except NotLoadedError as error:
        answers.say(f"not loaded {error}")
    except VerbsError as error:
        # ENOSYS: no abi_version in /sys/class/infiniband_verbs. No provider was asked.
        nothing = error.call == "ibv_get_device_list" and error.number == errno.ENOSYS
        answers.say("no verbs" if nothing else f"unknown {error}")
