"""A slow name service: stands where glibc looks for nscd first, takes each question, and gives up after a second.

Every getpwnam(3) that is not answered from memory waits for it. Usage: slow_names.py SOCKET; runs until it is ended.
"""

import os
import socket
import sys
import threading
import time

DELAY_S = 1.0


def give_up(connection: socket.socket) -> None:
    """Let one caller wait, then go on with /etc/nsswitch.conf."""
    time.sleep(DELAY_S)
    connection.close()


def main() -> None:
    """Listen."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        os.chmod(sys.argv[1], 0o666)  # noqa: PTH101, S103 - anybody may ask
        listener.listen(128)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=give_up, args=[connection], daemon=True).start()


main()
