"""The real daemon with a file of metrics renewed twice a second: `python quick_metrics.py --config F`."""

import sys

from smtpguard.daemon import service
from smtpguard.model import NS
from tests.support.own_daemon import run_daemon

if __name__ == "__main__":
    service.METRICS_NS = NS // 2
    sys.exit(run_daemon(sys.argv[-1], lambda: None))
