"""What people write instead of a launcher's wait: look up, connect, sleep a fixed time, exec.

    python poller.py FIRST_PAUSE_S PAUSE_S HOST PORT COMMAND...

The first pause puts pollers that are started together out of step, as pods are.
"""

import os
import socket
import sys
import time


def main() -> None:
    """Poll, then become the command."""
    first_s, pause_s, host, port, *command = sys.argv[1:]
    time.sleep(float(first_s))
    while True:
        try:
            socket.create_connection((host, int(port)), 1.0).close()
        except OSError:
            time.sleep(float(pause_s))
        else:
            break
    os.closerange(3, 65536)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
