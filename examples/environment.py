"""What every example reads from the environment.

Against a real tenant set `TENANT_ID`, `CLIENT_ID`, `CLIENT_SECRET` and `SECRET_KEY`, and register `BASE_URL`/redirect
as a redirect URI. `python -m examples NAME` sets all of it for the embedded provider.
Another API than Microsoft Graph is named by `API_URL` and `SCOPES`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from msal_logout_middleware import Provider

if missing := {"CLIENT_ID", "CLIENT_SECRET", "SECRET_KEY"} - os.environ.keys():
    sys.exit(
        f"set {', '.join(sorted(missing | {'TENANT_ID'}))} in the environment, or run: python -m examples NAME"
    )

CLIENT_ID, CLIENT_SECRET = os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"]
SECRET_KEY = os.environ["SECRET_KEY"]
BASE_URL = os.environ.get("BASE_URL", "http://localhost:5000")
API_URL = os.environ.get("API_URL", "https://graph.microsoft.com/v1.0/me")
SCOPES = os.environ.get("SCOPES", "User.Read").split()

# What MSAL, and `identity`, are told of the provider.
AUTHORITY: dict[str, str]
# Microsoft vouches for its own authorities only: another one is not asked for there.
INSTANCE_DISCOVERY: bool | None = None

if "TENANT_ID" in os.environ:
    AUTHORITY = {"authority": f"https://login.microsoftonline.com/{os.environ['TENANT_ID']}"}
elif "AUTHORITY" in os.environ:
    AUTHORITY = {"authority": os.environ["AUTHORITY"]}
    INSTANCE_DISCOVERY = False
elif "OIDC_AUTHORITY" in os.environ:
    AUTHORITY = {"oidc_authority": os.environ["OIDC_AUTHORITY"]}
else:
    sys.exit("set TENANT_ID in the environment, or OIDC_AUTHORITY for a provider that is not Microsoft's")


def provider() -> Provider:
    """Return the same provider as the middleware knows it."""
    if "TENANT_ID" in os.environ:
        return Provider.entra(os.environ["TENANT_ID"], CLIENT_ID)
    oidc = AUTHORITY.get("oidc_authority") or f"{AUTHORITY['authority']}/v2.0"
    return Provider.discover(oidc, CLIENT_ID)


def msal_arguments() -> dict[str, Any]:
    """Return what `msal.ConfidentialClientApplication` is made with, beside its token cache."""
    return {
        "client_id": CLIENT_ID,
        "client_credential": CLIENT_SECRET,
        "instance_discovery": INSTANCE_DISCOVERY,
        **AUTHORITY,
    }
