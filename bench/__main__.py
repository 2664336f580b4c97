"""Runs all benches, each in a process of its own; ends with 1 if one broke a bound, with 2 if one crashed.

    python -m bench [--quick]

With `--quick`, on a machine that may be busy, times are told and not judged: only what is counted in instructions is.
A bench that crashed has measured nothing, and is never passed over.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from bench.measuring import BROKE_A_BOUND

COUNTS_INSTRUCTIONS = {"pass_through"} if shutil.which("valgrind") else set()
BENCHES = (
    *("pass_through", "known_session", "logout_token", "whole_requests", "many_users", "shared_cache"),
    *("engines", "capacity"),
)


def main() -> int:
    """Run them in turn, so that none is in another's way."""
    broken, crashed = [], []
    for bench in BENCHES:
        print(f"\n== {bench}", flush=True)
        command = [sys.executable, "-m", f"bench.{bench}", *sys.argv[1:]]
        status = subprocess.run(command, check=False).returncode  # noqa: S603
        if status == BROKE_A_BOUND:
            broken.append(bench)
        elif status:
            crashed.append(bench)
    print(f"\n{'BROKEN: ' + ', '.join(broken) if broken else 'no bound broken'}")
    if crashed:
        print(f"CRASHED: {', '.join(crashed)}")
        return 2
    judged = COUNTS_INSTRUCTIONS if "--quick" in sys.argv else set(BENCHES)
    return int(not judged.isdisjoint(broken))


if __name__ == "__main__":
    sys.exit(main())
