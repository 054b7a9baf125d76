"""Bittensor's Python SDK 11 as a judge of the local chain.

    sdk11_chain.py create FOLDER NAME HOTKEY
        makes a wallet with the SDK.
    sdk11_chain.py chain URL NETUID FOLDER NAME HOTKEY TARGET
        reads the metagraph, sets and reads weights signed by that wallet on neuron TARGET, and serves its hotkey.

Prints one line for each thing that it found right; leaves with 1 at the first that is wrong.
"""

import sys

import bittensor as bt

AXON_IP = "127.0.0.3"
AXON_PORT = 9010


def right(what):
    print(f"JUDGE sdk11: {what}", flush=True)


def must(condition, what):
    if not condition:
        sys.exit(f"JUDGE sdk11: WRONG: {what}")
    right(what)


def create(folder, name, hotkey):
    wallet = bt.Wallet(name=name, hotkey=hotkey, path=folder)
    wallet.create_new_coldkey(use_password=False, overwrite=True, suppress=True)
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    right(f"wallet {wallet.hotkey.ss58_address}")


def read(subtensor, netuid, hotkey):
    metagraph = subtensor.subnets.metagraph(netuid)
    must(metagraph is not None, f"subnet {netuid} exists")
    must(metagraph.block > 0, "blocks are made")
    must(hotkey in metagraph.hotkeys, f"the metagraph of {len(metagraph.hotkeys)} neurons lists the hotkey")
    neuron = metagraph.neurons[metagraph.hotkeys.index(hotkey)]
    must(neuron.validator_permit, f"uid {neuron.uid} has a validator permit")
    must(neuron.total_stake.rao > 0, f"uid {neuron.uid} has stake {neuron.total_stake}")
    must(len(subtensor.read("neurons", netuid=netuid)) == len(metagraph.hotkeys), "the list of neurons agrees")
    return neuron.uid


def set_weights(subtensor, netuid, wallet, uid, target):
    answer = subtensor.execute(
        bt.SetWeights(netuid=netuid, weights={uid: 0.25, target: 0.75}), wallet, retries=2
    )
    answer.raise_for_failure()
    right("weights were set")
    row = subtensor.query(bt.storage.SubtensorModule.Weights, [netuid, uid])
    pairs = {int(pair[0]): int(pair[1]) for pair in row}
    must(pairs == {uid: 21845, target: 65535}, f"the chain holds the weights {pairs}")


def serve(subtensor, netuid, wallet, uid):
    refused = subtensor.execute(bt.ServeAxon(netuid=netuid, ip="127.0.0.1", port=AXON_PORT), wallet)
    must(not refused.success, f"serving 127.0.0.1 is refused ({refused.message})")
    subtensor.execute(bt.ServeAxon(netuid=netuid, ip=AXON_IP, port=AXON_PORT), wallet).raise_for_failure()
    served = subtensor.subnets.metagraph(netuid).neurons[uid].axon
    must(served == f"{AXON_IP}:{AXON_PORT}", f"uid {uid} is served at {served}")


def chain(url, netuid, folder, name, hotkey, target):
    wallet = bt.Wallet(name=name, hotkey=hotkey, path=folder)
    with bt.Subtensor(url) as subtensor:
        balance = subtensor.balances.get(wallet.coldkeypub.ss58_address)
        must(balance.rao > 0, "the coldkey has coins")
        uid = read(subtensor, int(netuid), wallet.hotkey.ss58_address)
        set_weights(subtensor, int(netuid), wallet, uid, int(target))
        serve(subtensor, int(netuid), wallet, uid)


if __name__ == "__main__":
    {"create": create, "chain": chain}[sys.argv[1]](*sys.argv[2:])
