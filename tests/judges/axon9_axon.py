"""Judges our dendrite by the axon of Bittensor's SDK (9.0.0 to 10.5).

    axon9_axon.py          the axon of //Bob on a free port of loopback

Prints `{"port": N, "hotkey": SS58}` when it listens and ends when its standard input ends. Its answers: `Allocate` is
given, //Eve is blacklisted, //Late comes too late in the queue and //Busy finds no place in it; `Challenge` fails inside.
"""

import json
import sys
import time
import types
from typing import Tuple

from axon9_synapses import Allocate, Challenge, Specs

from bittensor.core.axon import Axon  # noqa: E402
from bittensor.core.errors import PriorityException  # noqa: E402
from bittensor_wallet import Keypair  # noqa: E402

KEYS = {name: Keypair.create_from_uri(f"//{name}").ss58_address for name in ("Eve", "Late", "Busy")}


def allocate(synapse: Allocate) -> Allocate:
    synapse.output = {"status": True, "info": "c2VhbGVk", "port": 4444, "asked": synapse.timeline}
    return synapse


def blacklist(synapse: Allocate) -> Tuple[bool, str]:
    return synapse.dendrite.hotkey == KEYS["Eve"], "Unrecognized hotkey"


def priority(synapse: Allocate) -> float:
    if synapse.dendrite.hotkey == KEYS["Late"]:
        raise TimeoutError("the queue is long")
    if synapse.dendrite.hotkey == KEYS["Busy"]:
        raise PriorityException("no place in the queue", synapse=synapse)
    return 3.0


def challenge(synapse: Challenge) -> Challenge:
    if synapse.challenge_hash == "fail":
        raise RuntimeError("inside")
    return synapse


def specs(synapse: Specs) -> Specs:
    synapse.specs_output = synapse.specs_input.upper()
    return synapse


def main():
    key = Keypair.create_from_uri("//Bob")
    wallet = types.SimpleNamespace(hotkey=key, coldkeypub=key)
    axon = Axon(wallet=wallet, port=9999, ip="127.0.0.1", external_ip="127.0.0.1", external_port=9999)
    axon.attach(forward_fn=specs)
    axon.attach(forward_fn=allocate, blacklist_fn=blacklist, priority_fn=priority)
    axon.attach(forward_fn=challenge)
    # The system gives a port when it listens; the SDK takes fixed ones only.
    axon.fast_config.host, axon.fast_config.port = "127.0.0.1", 0
    axon.start()
    for _ in range(3000):
        if axon.fast_server.started:
            break
        time.sleep(0.01)
    port = axon.fast_server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps({"port": port, "hotkey": key.ss58_address}), flush=True)
    sys.stdin.read()
    axon.stop()


main()
