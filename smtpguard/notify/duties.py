"""The duties of the notifying process, all in one place."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from smtpguard.hooks import Task
from smtpguard.notify.confinement import Confinement
from smtpguard.notify.customers_duty import CustomersDuty
from smtpguard.notify.heartbeat import HeartbeatDuty
from smtpguard.notify.helper import Duty, SayUp
from smtpguard.notify.listed_duty import ListedDuty
from smtpguard.notify.metrics_duty import MetricsDuty
from smtpguard.notify.notification import Notification


class _Outbox:
    """What both have sent; what waits is counted of messages alone, as customers' letters wait on purpose."""

    def __init__(self, messages: Notification, customers: CustomersDuty) -> None:
        self._messages = messages
        self._customers = customers

    @property
    def totals(self) -> Mapping[tuple[str, str, str], int]:
        return Counter(self._messages.totals) + Counter(self._customers.totals)

    def count_waiting(self) -> int:
        return self._messages.count_waiting()


def make_duties(say: SayUp, wake: Task) -> Sequence[Duty]:
    """All there are; one that the settings do not want does nothing.

    Customers come first: an occasion is in their file, too, when messages tell the daemon that it was taken.
    """
    messages, customers = Notification(say, wake), CustomersDuty(say, wake)
    listed = ListedDuty(wake)  # after what keeps messages: it takes an occasion for told that comes by
    others = (customers, messages, HeartbeatDuty(wake), listed, MetricsDuty(_Outbox(messages, customers), listed))
    return (Confinement(time.monotonic), *others)
