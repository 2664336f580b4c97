"""Measures what a logout token costs: all checks of ours, beside other libraries' bare `decode`.

    python bench/logout_token.py [--quick]

Keys are held. All ways take turns in one process, each with the same tokens, so that the machine's moods hit all of
them; the A/A row is ours once more, and shows what the figures are worth. The raw signature check is cryptography's
alone, which all the others contain. Ends with 3 if a bound is broken.
"""

# ruff: noqa: D102, D103
from __future__ import annotations

import argparse
import base64
import gc
import json
import sys
import threading
import time
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from statistics import median
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwk as joserfc_jwk
from joserfc import jwt as joserfc_jwt

from bench.measuring import status
from msal_logout_middleware._drive import BlockingWorld, run
from msal_logout_middleware.keys import SigningKeys
from msal_logout_middleware.logout_token import LOGOUT_EVENT, Examined, LogoutToken, LogoutTokenRules, examine
from msal_logout_middleware.testing import signing
from msal_logout_middleware.trust import Issuer, Trust

ISS, CLIENT_ID = "https://op.example/realm", "22222222-2222-2222-2222-222222222222"
TOKENS = 20  # for each turn
BOUND = 1.25

OURS, AGAIN = "ours: all checks", "ours again (A/A)"
PYJWT, JOSERFC, AUTHLIB = "PyJWT decode", "joserfc decode", "Authlib decode"
RAW = "cryptography, signature only"

Way = Callable[[bytes], Any]


def tokens(keys: signing.SigningKeys, count: int) -> list[bytes]:
    now = int(time.time())
    claims = {
        "iss": ISS,
        "aud": CLIENT_ID,
        "iat": now,
        "exp": now + 3600,
        "sub": "248289761001",
        "sid": "08a5019c-17e1-4977-8f42-65a12843ea02",
        "events": {LOGOUT_EVENT: {}},
    }
    header = {"typ": "logout+jwt"}
    return [keys.sign({**claims, "jti": f"bWJq-{number}"}, header=header).encode() for number in range(count)]


class Served:
    """The keys at a URL on loopback, until they were fetched."""

    def __init__(self, document: Any) -> None:
        body = json.dumps(document).encode()

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def by_us(keys: signing.SigningKeys) -> Way:
    server = Served(keys.jwks)
    trust = Trust(((Issuer(ISS), SigningKeys(server.url)),))
    rules, world = LogoutTokenRules(maximum_age_seconds=3600), BlockingWorld()

    def read(token: bytes) -> LogoutToken:
        examined = examine(token, rules, client_id=CLIENT_ID, is_issuer=trust.is_issuer, now=time.time())
        if not isinstance(examined, Examined):
            raise SystemExit(f"the token was refused: {examined.reason}")
        verified = run(trust.verify(examined, world, wait_seconds=2))
        if not isinstance(verified, LogoutToken):
            raise SystemExit(f"the token was refused: {verified.reason}")
        return verified

    read(tokens(keys, 1)[0])
    server.close()
    return read


def by_pyjwt(keys: signing.SigningKeys) -> Way:
    key = jwt.PyJWK(keys.jwks["keys"][0])
    return lambda token: jwt.decode(token, key, algorithms=["RS256"], audience=CLIENT_ID, issuer=ISS)


def by_joserfc(keys: signing.SigningKeys) -> Way:
    key = joserfc_jwk.KeySet.import_key_set(keys.jwks)
    return lambda token: joserfc_jwt.decode(token.decode(), key, algorithms=["RS256"])


def by_authlib(keys: signing.SigningKeys) -> Way:
    with warnings.catch_warnings(record=True):  # it recommends joserfc, which has a row of its own
        from authlib.jose import JsonWebKey, JsonWebToken  # noqa: PLC0415 - only here it is quiet
    decoder, held = JsonWebToken(["RS256"]), JsonWebKey.import_key_set(keys.jwks)
    return lambda token: decoder.decode(token, held)


def by_cryptography(keys: signing.SigningKeys) -> Way:
    public, padding, digest = jwt.PyJWK(keys.jwks["keys"][0]).key, PKCS1v15(), SHA256()

    def verify(token: bytes) -> None:
        signed, _, signature = token.rpartition(b".")
        public.verify(base64.urlsafe_b64decode(signature + b"=="), signed, padding, digest)

    return verify


def take_turns(ways: dict[str, Way], keys: signing.SigningKeys, turns: int) -> dict[str, float]:
    """Return each way's median for a token, in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    batch = tokens(keys, TOKENS)
    for _ in range(turns):
        for name in order:
            way = ways[name]
            start = time.perf_counter()
            for token in batch:
                way(token)
            times[name].append((time.perf_counter() - start) * 1e6 / TOKENS)
        order = [*order[1:], order[0]]
    return {name: median(values) for name, values in times.items()}


def main() -> int:
    """Measure, print, and tell by the exit status whether the bound was kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few turns, and no bound is checked")
    quick = parser.parse_args().quick
    keys = signing.SigningKeys()
    makers = {
        OURS: by_us,
        AGAIN: by_us,
        PYJWT: by_pyjwt,
        JOSERFC: by_joserfc,
        AUTHLIB: by_authlib,
        RAW: by_cryptography,
    }
    ways = {name: maker(keys) for name, maker in makers.items()}
    gc.collect()
    gc.freeze()
    take_turns(ways, keys, 2)
    figures = take_turns(ways, keys, 20 if quick else 600)
    print(f"{'a logout token, keys held':34}{'median us':>12}{'of PyJWT':>12}")
    for name, figure in figures.items():
        print(f"{name:34}{figure:>12,.1f}{figure / figures[PYJWT]:>12.2f}")
    if quick:
        return 0
    ratio = figures[OURS] / figures[PYJWT]
    print(f"bound: {BOUND} of PyJWT's decode, {'kept' if ratio <= BOUND else 'BROKEN'}")
    return status(kept=ratio <= BOUND)


if __name__ == "__main__":
    sys.exit(main())
