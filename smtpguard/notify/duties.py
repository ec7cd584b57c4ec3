"""The duties of the notifying process, all in one place."""

from collections.abc import Sequence

from smtpguard.hooks import Task
from smtpguard.notify.heartbeat import HeartbeatDuty
from smtpguard.notify.helper import Duty, SayUp
from smtpguard.notify.listed_duty import ListedDuty
from smtpguard.notify.metrics_duty import MetricsDuty
from smtpguard.notify.notification import Notification


def make_duties(say: SayUp, wake: Task) -> Sequence[Duty]:
    """All there are; one that the settings do not want does nothing."""
    messages = Notification(say, wake)
    listed = ListedDuty(wake)  # after what keeps messages: it takes an occasion for told that comes by
    return (messages, HeartbeatDuty(wake), listed, MetricsDuty(messages, listed))
