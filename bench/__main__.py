"""Runs all benches, each in a process of its own, and ends with 1 if one of them broke a bound.

    python -m bench [--quick]

With `--quick`, on a machine that may be busy, times are told and not judged: only what is counted in instructions is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

COUNTS_INSTRUCTIONS = {"pass_through"} if shutil.which("valgrind") else set()
BENCHES = ("pass_through", "known_session", "logout_token", "whole_requests", "many_users", "shared_cache")


def main() -> int:
    """Run them in turn, so that none is in another's way."""
    broken = []
    for bench in BENCHES:
        print(f"\n== {bench}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{bench}", *sys.argv[1:]], check=False).returncode:  # noqa: S603
            broken.append(bench)
    print(f"\n{'BROKEN: ' + ', '.join(broken) if broken else 'all bounds kept'}")
    judged = COUNTS_INSTRUCTIONS if "--quick" in sys.argv else set(BENCHES)
    return int(not judged.isdisjoint(broken))


if __name__ == "__main__":
    sys.exit(main())
