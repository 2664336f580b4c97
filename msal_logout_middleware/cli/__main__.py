"""`python -m msal_logout_middleware.cli`: the same as `msal-logout`."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
