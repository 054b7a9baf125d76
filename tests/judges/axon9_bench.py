"""How many signed requests Bittensor's SDK 9.0.0 verifies in a second on one core, and how many bare signatures.

Prints `{"signature": N, "request": N}`, best of three rounds: `signature` is the key's own check of the signed text,
`request` is what the axon does before its handler: headers to a synapse, then its own verification.
"""

import asyncio
import json
import time
import types

from axon9_synapses import Allocate

from bittensor.core.axon import Axon  # noqa: E402
from bittensor.core.chain_data import AxonInfo  # noqa: E402
from bittensor.core.dendrite import Dendrite  # noqa: E402
from bittensor_wallet import Keypair  # noqa: E402

COUNT = 300


def best_of_three(work):
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return COUNT / min(times)


def main():
    alice, bob = Keypair.create_from_uri("//Alice"), Keypair.create_from_uri("//Bob")
    wallet = types.SimpleNamespace(hotkey=bob, coldkeypub=bob)
    axon = Axon(wallet=wallet, port=9999, ip="127.0.0.1", external_ip="127.0.0.1", external_port=9999)
    dendrite = Dendrite(wallet=types.SimpleNamespace(hotkey=alice))
    dendrite.keypair = alice
    address = bob.ss58_address
    info = AxonInfo(version=190, ip="127.0.0.1", port=9999, ip_type=4, hotkey=address, coldkey=address)
    signed = [dendrite.preprocess_synapse_for_request(info, Allocate(), 60.0) for _ in range(COUNT)]
    headers = [synapse.to_headers() for synapse in signed]

    def signatures():
        for synapse in signed:
            end = synapse.dendrite
            text = f"{end.nonce}.{end.hotkey}.{address}.{end.uuid}.{synapse.body_hash}"
            assert alice.verify(text, end.signature)

    def requests():
        axon.nonces.clear()

        async def verified():
            for lines in headers:
                await axon.default_verify(Allocate.from_headers(lines))

        asyncio.run(verified())

    print(json.dumps({"signature": best_of_three(signatures), "request": best_of_three(requests)}))


main()
