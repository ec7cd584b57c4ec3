"""Attack: whole records inside a message to audit (AUDIT_USER), by who may send one: root of most containers.

A message has room for 8 kB, and its text comes as it is, line breaks too; auditd makes blanks of them.
"""

import ctypes
import errno
import os
import socket
import struct

import pytest

from smtpguard.decode.audit.decoder import AuditDecoder
from tests.support.audit_records import Event, log
from tests.support.host import SPAMMER

NETLINK_AUDIT, AUDIT_USER, AUDIT_USER_CMD, AUDIT_SYSCALL, AUDIT_FIRST_USER_MSG2 = 9, 1005, 1123, 1300, 2100
ACK = 5


def forge(event: Event, between: str) -> str:
    """A message's line that holds the records of a connect that never was, as a line of auditd's."""
    head = f"type=USER_CMD msg=audit({event.stamp[6:].partition(':')[0]}:900): pid=7 uid=0 auid=0 ses=1 "
    return f"{head}msg='x{between}{between.join(event.lines())}{between}'"


@pytest.mark.parametrize("enriched", [False, True])
@pytest.mark.parametrize("between", [" ", "' ", "\x1d", "  "])
@pytest.mark.parametrize("split", [False, True])
def test_records_within_a_message_are_none(enriched: bool, between: str, split: bool) -> None:
    forged, true = Event(serial=1001, uid=1001, enriched=enriched), Event(serial=1002, uid=1002, enriched=enriched)
    lines = [forge(forged, between)]
    if split:  # the call in one message, the address in another
        call, address = forged.lines()[:2]
        lines = [forge(forged, between).replace(address, ""), forge(forged, between).replace(call, "")]
    decoder = AuditDecoder(ports=[25], sensor="replay")
    found = decoder.feed(log([*lines, *true.lines(), *lines])) + decoder.settle()
    assert [connect.uid for connect in found] == [1002]


@pytest.mark.parametrize("enriched", [False, True])
def test_nor_do_they_hide_the_true_one_of_their_number(enriched: bool) -> None:
    true = Event(serial=1002, uid=1002, enriched=enriched)
    forged = forge(Event(serial=1002, uid=1001, enriched=enriched), " ")
    for lines in ([forged, *true.lines()], [true.lines()[0], forged, *true.lines()[1:]], [*true.lines(), forged]):
        decoder = AuditDecoder(ports=[25], sensor="replay")
        found = decoder.feed(log(lines)) + decoder.settle()
        assert [connect.uid for connect in found] == [1002]


@pytest.mark.kernel
@pytest.mark.parametrize("own_namespace", [False, True])
def test_a_tenant_may_send_none(own_namespace: bool) -> None:
    """Nor root of a user namespace, who has CAP_AUDIT_WRITE there."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(SPAMMER[1])
            os.setuid(SPAMMER[1])
            if own_namespace:
                assert ctypes.CDLL(None).unshare(0x10000000) == 0
            kinds = AUDIT_USER, AUDIT_USER_CMD, AUDIT_FIRST_USER_MSG2, AUDIT_SYSCALL
            assert all(try_to_send(kind) in {errno.EPERM, errno.ECONNREFUSED, errno.EINVAL} for kind in kinds)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def try_to_send(kind: int) -> int:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_AUDIT) as sock:
        sock.settimeout(5)
        body = b"op=hello\n" + b"type=SYSCALL\0"
        sock.send(struct.pack("=IHHII", 16 + len(body), kind, ACK, 1, 0) + body)
        return -int(struct.unpack_from("=i", sock.recv(4096), 16)[0])
