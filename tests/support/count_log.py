"""What a report has to say, worked out from an event log alone: nothing of smtpguard is imported here.

python3 -I count_log.py LOG SINCE UNTIL    (times as seconds since the epoch) prints JSON
"""

import json
import re
import sys
from collections import Counter, defaultdict
from datetime import datetime

FIELD = re.compile(r' ([A-Z0-9]+)=("[^"]*"|\S*)')


def main() -> None:
    """Count."""
    log, since, until = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    users: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    places: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    visitors: defaultdict[str, set[str]] = defaultdict(set)
    scripts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    ports: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    minutes: defaultdict[str, Counter[int]] = defaultdict(Counter)
    hours: Counter[int] = Counter()
    verdicts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    ends_at: list[str] = []
    uids: dict[str, int] = {}
    times: dict[str, int] = {}
    with open(log, encoding="ascii") as lines:  # noqa: PTH123 - a script by itself
        for line in lines:
            stamp = line[:16] + line[26:32]
            second = times.get(stamp)
            if second is None:
                second = times[stamp] = int(datetime.fromisoformat(stamp).timestamp())
            second += int(line[17:19])
            if not since <= second < until:
                continue
            row = dict(FIELD.findall(line))
            event, user = row["EVENT"], row["USER"]
            uids[user] = int(row["UID"])
            if event == "CONNECT":
                refused = row["RESULT"] == "refused"
                place = f"{row['DST']} {row['PORT']}"
                script = re.sub(r":\d+$", "", row["SCRIPT"].strip('"'))
                for sums in (users[user], places[place], scripts[script], ports[row["PORT"]]):
                    sums[0] += 1
                    sums[1] += refused
                visitors[place].add(user)
                minutes[user][second // 60] += not refused
                hours[second // 3600] += 1
            elif event == "EXCEEDED":
                verdicts[f"{row['RULE']} {row['ACTION']} {row['MODE']}"] += 1
                users[user][2] += 1
                users[user][3] += row["MODE"] == "dry-run"
            else:
                ends[event] += 1
                ends_at += [row["UNTIL"]] if event == "BLOCK" else []
    peaks = {
        f"{user} {length}": max(sum(found[minute - n] for n in range(length)) for minute in found)
        for user, found in minutes.items()
        for length in (60,)
    }
    print(
        json.dumps(
            {
                "users": users,
                "uids": uids,
                "places": places,
                "visitors": {place: len(found) for place, found in visitors.items()},
                "scripts": scripts,
                "ports": ports,
                "hours": hours,
                "verdicts": verdicts,
                "ends": ends,
                "ends_at": sorted(ends_at),
                "peaks": peaks,
            }
        )
    )


main()
