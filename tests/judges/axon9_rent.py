"""Rents through our v1.9.0 axon as the original's programs do: Bittensor's SDK 9.0.0 with an RSA key of its own.

Reads an object from standard input: `port` and `hotkey` of the node, and `steps`. A step has an `act` (check, mine, create,
destroy, exchange_key, restart, pause, unpause, resume or any other action), and may have the caller's secret `uri`, the name
of a `key` (one is made for each name that is new), `timeline`, `device_requirement`, `docker_requirement`, `docker_action`,
`timeout`, and `together` (how many of it are sent at once). `keys` is a file in which the keys outlive this process. Prints
a list with what each step came to: `output`, and `info` where it was there and the key opened it.
"""

import asyncio
import base64
import json
import os
import sys
import time
import types

from axon9_synapses import Allocate

from bittensor.core.chain_data import AxonInfo  # noqa: E402
from bittensor.core.dendrite import Dendrite  # noqa: E402
from bittensor_wallet import Keypair  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: E402

# What the original's validator asks for when it tests a machine, without the GPU, which test machines lack.
TEST_DEVICE = {
    "cpu": {"count": 1},
    "gpu": {},
    "hard_disk": {"capacity": 1073741824},
    "ram": {"capacity": 1073741824},
    "testing": True,
}
TEST_DOCKER = {"base_image": "pytorch/pytorch:2.7.0-cuda12.6-cudnn9-runtime"}


class Keys:
    def __init__(self, file):
        self.file = file
        self.pems = {}
        if file and os.path.exists(file):
            with open(file, encoding="utf-8") as stored:
                self.pems = json.load(stored)

    def private(self, name):
        if name not in self.pems:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            self.pems[name] = pem.decode()
            if self.file:
                with open(self.file, "w", encoding="utf-8") as stored:
                    json.dump(self.pems, stored)
        return serialization.load_pem_private_key(self.pems[name].encode(), password=None)

    def public(self, name):
        pem = self.private(name).public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return pem.decode()

    def opened(self, name, info):
        oaep = padding.OAEP(mgf=padding.MGF1(algorithm=hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        return json.loads(self.private(name).decrypt(base64.b64decode(info), oaep))


def synapse(step, keys):
    act = step["act"]
    key = step["public_key"] if "public_key" in step else keys.public(step.get("key", "one"))
    given = {name: step[name] for name in ("timeline", "device_requirement", "docker_requirement") if name in step}
    if act == "check":
        return Allocate(**{"timeline": 1, "checking": True, "device_requirement": TEST_DEVICE, **given})
    if act == "mine":
        return Allocate(timeline=0, checking=True, public_key=key)
    if act == "create":
        wanted = {"timeline": 1, "device_requirement": TEST_DEVICE, "docker_requirement": TEST_DOCKER, **given}
        return Allocate(checking=False, public_key=key, **wanted)
    if act == "destroy":
        return Allocate(timeline=0, device_requirement={}, checking=False, public_key=key)
    action = {"action": act, "ssh_key": "", **step.get("docker_action", {})}
    return Allocate(
        timeline=0, device_requirement={}, checking=False, public_key=key, docker_change=True, docker_action=action
    )


async def done(order, step, keys):
    pair = Keypair.create_from_uri(step.get("uri", "//Alice"))
    # A key is no wallet for every version of the SDK.
    dendrite = Dendrite(wallet=types.SimpleNamespace(hotkey=pair))
    dendrite.keypair = pair
    axon = AxonInfo(
        version=190, ip="127.0.0.1", port=order["port"], ip_type=4, hotkey=order["hotkey"], coldkey=order["hotkey"]
    )
    if "ip" in order:
        axon.ip = order["ip"]
    began = time.monotonic()
    answered = await dendrite.call(axon, synapse(step, keys), timeout=step.get("timeout", 60.0), deserialize=False)
    await dendrite.aclose_session()
    told = {
        "status": answered.dendrite.status_code,
        "message": answered.dendrite.status_message,
        "output": answered.output,
        "ssh_port": answered.docker_requirement.get("ssh_port"),
        "seconds": time.monotonic() - began,
    }
    if "info" in answered.output:
        try:
            told["info"] = keys.opened(step.get("key", "one"), answered.output["info"])
        except ValueError as error:
            told["unopened"] = str(error)
    return told


async def main():
    order = json.load(sys.stdin)
    keys = Keys(order.get("keys"))
    results = []
    for step in order["steps"]:
        if "together" in step:
            synapse(step, keys)
            results.append(list(await asyncio.gather(*[done(order, step, keys) for _ in range(step["together"])])))
        else:
            results.append(await done(order, step, keys))
    print(json.dumps(results))


asyncio.run(main())
