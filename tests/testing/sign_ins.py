"""How an app signs in at each flavour."""

from __future__ import annotations

import pytest


def at_entra(provider, app, authority=None, **registration):
    client = provider.entra.register(**{**app.uris, **registration})
    return app.use(client, provider.ca_file, authority=authority or provider.entra.authority)


def at_b2c(provider, app, policy="B2C_1_signin", **registration):
    client = provider.b2c.register(**{**app.uris, **registration})
    return app.use(client, provider.ca_file, authority=provider.b2c.authority(policy))


def at_generic(provider, app, **registration):
    client = provider.generic.register(
        **{**app.uris, "backchannel_logout_uri": app.url + "/back", **registration}
    )
    return app.use(client, provider.ca_file, oidc_authority=provider.generic.oidc_authority)


FLAVOURS = pytest.mark.parametrize("flavour", [at_entra, at_b2c, at_generic])
