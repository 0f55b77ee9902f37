#!/usr/bin/env python3
"""Runs a command and prints its wall time, CPU time and peak memory, anonymous and resident.

    python3 peak_memory.py -- trawl index build --corpus corpus.jsonl --model DIR --collection docs

Anonymous memory is what the program allocated itself; resident memory counts the pages of mapped files, too, which
the kernel takes back when it needs them. Anonymous memory is sampled every 20 ms, so shorter peaks are not seen.
Linux only; standard library only.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def main():
    command = sys.argv[1:]
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise SystemExit(__doc__)
    start = time.monotonic()
    process = subprocess.Popen(command)
    status = Path(f"/proc/{process.pid}/status")
    peak_anonymous = 0
    while process.poll() is None:
        try:
            for line in status.read_text().splitlines():
                if line.startswith("RssAnon:"):
                    peak_anonymous = max(peak_anonymous, int(line.split()[1]))
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.02)
    process.wait()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({
        "exit": process.returncode,
        "wall_s": round(time.monotonic() - start, 1),
        "user_s": round(usage.ru_utime, 1),
        "system_s": round(usage.ru_stime, 1),
        "peak_anonymous_mib": round(peak_anonymous / 1024, 1),
        "peak_resident_mib": round(usage.ru_maxrss / 1024, 1),
    }))
    raise SystemExit(process.returncode)


if __name__ == "__main__":
    main()
