r"""Looking at processes that may be hostile, from helper processes that may be lost (THREATS 10 to 13).

    daemon --- control socket ---> fork-server --- fork ---> worker, worker, ...
       \-------------- one socket a worker --------------------/

The fork-server is forked early, while the daemon is small and has no threads; it forks workers without exec, so that
neither interpreter nor modules are opened again. A worker has two capabilities, no user's uid, and answers one
question at a time. One that is late is abandoned: nobody waits for it, and its place is taken by a fresh one.
"""

from smtpguard.enrich.looker.client import Looker, LookerStats
from smtpguard.enrich.looker.evidence import Evidence, render_evidence
from smtpguard.enrich.looker.protocol import Ancestor, Attribution

__all__ = ["Ancestor", "Attribution", "Evidence", "Looker", "LookerStats", "render_evidence"]
