"""Judges our btauth/1 by Bittensor's SDK 11 (`bittensor.http_auth`), in both directions.

    btauth_exchange.py sign      signs the requests on standard input and prints their headers
    btauth_exchange.py verify    verifies the signed requests on standard input and prints what was found

A request is an object with `scheme`, `uri` (the signer's secret URI), `method`, `path`, `body` (hex), `receiver`,
`nonce` and, for `verify`, `headers`, `self` and `now`.
"""

import json
import sys

from bittensor import http_auth
from bittensor.wallets import CRYPTO_ED25519, CRYPTO_SR25519, Keypair

CRYPTO_TYPES = {"sr25519": CRYPTO_SR25519, "ed25519": CRYPTO_ED25519}


def signed(request):
    keypair = Keypair.create_from_uri(request["uri"], crypto_type=CRYPTO_TYPES[request["scheme"]])
    headers = http_auth.sign(
        keypair,
        method=request["method"],
        path=request["path"],
        body=bytes.fromhex(request["body"]),
        receiver_ss58=request["receiver"],
        nonce_ns=request["nonce"],
    )
    return {"headers": headers, "sender": keypair.ss58_address}


def verified(request, store):
    try:
        caller = http_auth.verify(
            request["headers"],
            bytes.fromhex(request["body"]),
            method=request["method"],
            path=request["path"],
            self_hotkey_ss58=request["self"],
            now_ns=request["now"],
            nonce_store=store,
        )
    except http_auth.AuthError as error:
        return {"refused": type(error).__name__}
    return {"sender": caller.hotkey_ss58, "nonce": caller.nonce_ns}


def main():
    requests, store = json.load(sys.stdin), http_auth.InMemoryNonceStore()
    if sys.argv[1] == "sign":
        result = [signed(request) for request in requests]
    else:
        result = [verified(request, store) for request in requests]
    print("\n" + json.dumps(result))


main()
