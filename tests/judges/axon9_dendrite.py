"""Judges our v1.9.0 axon by the dendrite of Bittensor's SDK (9.0.0 to 10.5).

Reads an object from standard input: `port` and `hotkey` of the node, and `cases`. A case has the `synapse`'s name, its
`fields`, the caller's secret `uri`, and may have a `hotkey` (the receiver that is signed for), a `body` (sent instead of the
synapse's own) and `times` (how often the same signed request is sent). Prints a list with what each came to.
"""

import asyncio
import json
import sys
import types

from axon9_synapses import BY_NAME

from bittensor.core.chain_data import AxonInfo  # noqa: E402
from bittensor.core.dendrite import Dendrite  # noqa: E402
from bittensor_wallet import Keypair  # noqa: E402

TIMEOUT = 60.0


def target(order, case):
    return AxonInfo(
        version=190,
        ip="127.0.0.1",
        port=order["port"],
        ip_type=4,
        hotkey=case.get("hotkey", order["hotkey"]),
        coldkey=order["hotkey"],
    )


def told(synapse):
    fields = synapse.model_dump()
    return {
        "status": synapse.dendrite.status_code,
        "message": synapse.dendrite.status_message,
        "axon_status": synapse.axon.status_code,
        "caller": synapse.dendrite.hotkey,
        "took": synapse.axon.process_time,
        "fields": {name: fields[name] for name in type(synapse).model_fields if name not in ("axon", "dendrite")},
    }


async def sent_as_it_is(dendrite, order, case, synapse):
    """Signs with the SDK, then sends what the case says, as often as it says."""
    axon = target(order, case)
    synapse = dendrite.preprocess_synapse_for_request(axon, synapse, TIMEOUT)
    headers = {**synapse.to_headers(), "Content-Type": "application/json"}
    body = case.get("body") or json.dumps(synapse.model_dump())
    url = f"http://127.0.0.1:{order['port']}/{type(synapse).__name__}"
    answers = []
    for _ in range(case.get("times", 1)):
        async with (await dendrite.session).post(url, headers=headers, data=body) as response:
            answers.append({"status": response.status, "body": await response.json()})
    return answers


async def main():
    order = json.load(sys.stdin)
    results = []
    for case in order["cases"]:
        key = Keypair.create_from_uri(case["uri"])
        # A key is no wallet for every version of the SDK.
        dendrite = Dendrite(wallet=types.SimpleNamespace(hotkey=key))
        dendrite.keypair = key
        synapse = BY_NAME[case["synapse"]](**case.get("fields", {}))
        if "body" in case or "times" in case:
            results.append(await sent_as_it_is(dendrite, order, case, synapse))
        else:
            answered = await dendrite.call(target(order, case), synapse, timeout=TIMEOUT, deserialize=False)
            results.append(told(answered))
        await dendrite.aclose_session()
    print(json.dumps(results))


asyncio.run(main())
