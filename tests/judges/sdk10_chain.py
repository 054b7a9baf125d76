"""Bittensor's Python SDK 10 as a judge of the local chain.

    sdk10_chain.py create FOLDER NAME HOTKEY
        makes a wallet with the SDK's own wallet package.
    sdk10_chain.py chain URL NETUID FOLDER NAME HOTKEY TARGET
        reads the metagraph, sets and reads weights signed by that wallet on neuron TARGET, and registers and serves
        another hotkey of that wallet.

Prints one line for each thing that it found right; leaves with 1 at the first that is wrong.
"""

import sys

import bittensor as bt

NEWCOMER = "newcomer"
AXON_IP = "127.0.0.3"
AXON_PORT = 9010


def right(what):
    print(f"JUDGE sdk10: {what}", flush=True)


def must(condition, what):
    if not condition:
        sys.exit(f"JUDGE sdk10: WRONG: {what}")
    right(what)


def create(folder, name, hotkey):
    wallet = bt.Wallet(name=name, hotkey=hotkey, path=folder)
    wallet.create_new_coldkey(use_password=False, overwrite=True, suppress=True)
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    right(f"wallet {wallet.hotkey.ss58_address}")


def read(subtensor, netuid, hotkey):
    must(subtensor.subnet_exists(netuid), f"subnet {netuid} exists")
    must(subtensor.get_current_block() > 0, "blocks are made")
    metagraph = subtensor.metagraph(netuid, lite=False)
    must(hotkey in metagraph.hotkeys, f"the metagraph of {len(metagraph.hotkeys)} neurons lists the hotkey")
    uid = metagraph.hotkeys.index(hotkey)
    must(bool(metagraph.validator_permit[uid]), f"uid {uid} has a validator permit")
    must(float(metagraph.S[uid]) > 0, f"uid {uid} has stake {float(metagraph.S[uid])}")
    must(subtensor.get_uid_for_hotkey_on_subnet(hotkey, netuid) == uid, "the uid is that of the metagraph")
    must(len(subtensor.neurons_lite(netuid)) == len(metagraph.hotkeys), "neurons_lite agrees")
    must(len(subtensor.neurons(netuid)) == len(metagraph.hotkeys), "neurons agrees")
    hyperparameters = subtensor.get_subnet_hyperparameters(netuid)
    must(hyperparameters.tempo == subtensor.tempo(netuid), f"tempo {hyperparameters.tempo}")
    must(not hyperparameters.commit_reveal_weights_enabled, "commit-reveal is off")
    must(subtensor.recycle(netuid).rao > 0, "a registration has a price")
    must(len(subtensor.all_subnets()) >= 2, "all subnets are listed")
    return uid


def set_weights(subtensor, netuid, wallet, uid, target):
    answer = subtensor.set_weights(
        wallet=wallet,
        netuid=netuid,
        uids=[uid, target],
        weights=[0.25, 0.75],
        wait_for_inclusion=True,
        wait_for_finalization=True,
        mev_protection=False,
    )
    must(answer.success, f"weights were set ({answer.message})")
    rows = dict(subtensor.weights(netuid))
    must(dict(rows[uid]) == {uid: 21845, target: 65535}, f"the chain holds the weights {rows[uid]}")
    must(subtensor.blocks_since_last_update(netuid, uid) < 50, "the update is recorded")


def join(subtensor, netuid, folder, name):
    wallet = bt.Wallet(name=name, hotkey=NEWCOMER, path=folder)
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    answer = subtensor.burned_register(wallet=wallet, netuid=netuid, mev_protection=False)
    must(answer.success, f"a hotkey was registered ({answer.message})")
    for ip, accepted in (("127.0.0.1", False), (AXON_IP, True)):
        axon = bt.Axon(wallet=wallet, ip="127.0.0.1", port=AXON_PORT, external_ip=ip, external_port=AXON_PORT)
        answer = subtensor.serve_axon(netuid, axon, mev_protection=False)
        must(answer.success == accepted, f"serving {ip}: {answer.success} ({answer.message})")
    uid = subtensor.get_uid_for_hotkey_on_subnet(wallet.hotkey.ss58_address, netuid)
    served = subtensor.metagraph(netuid).axons[uid]
    must((served.ip, served.port) == (AXON_IP, AXON_PORT), f"uid {uid} is served at {served.ip}:{served.port}")


def chain(url, netuid, folder, name, hotkey, target):
    wallet = bt.Wallet(name=name, hotkey=hotkey, path=folder)
    subtensor = bt.Subtensor(network=url)
    must(subtensor.get_balance(wallet.coldkeypub.ss58_address).rao > 0, "the coldkey has coins")
    uid = read(subtensor, int(netuid), wallet.hotkey.ss58_address)
    set_weights(subtensor, int(netuid), wallet, uid, int(target))
    join(subtensor, int(netuid), folder, name)
    subtensor.close()


if __name__ == "__main__":
    {"create": create, "chain": chain}[sys.argv[1]](*sys.argv[2:])
