"""Bittensor's SDK 11: other transport, other codec, no methods but intents."""

import bittensor as bt
from bittensor.intents.weights import normalize
from conformance import must
from conformance_records import hyperparameters, metagraph, neuron

CODEC = {"by": "codec"}


class Adapter:
    ABSENT = {
        "commit_weights": "makes no hash commits: it reveals what others have committed",
    }

    version = bt.__version__

    def __init__(self, url, folder, wallet):
        self.url, self.subtensor = url, bt.Subtensor(url)
        self.folder, self.name = folder, wallet

    def wallet(self, hotkey="first"):
        return bt.Wallet(name=self.name, hotkey=hotkey, path=self.folder)

    def execute(self, intent, hotkey="first", **more):
        answer = self.subtensor.execute(intent, self.wallet(hotkey), retries=2, **more)
        must(answer.success, answer.message)

    def compose(self, call, signer):
        return self.subtensor.submit_call(call, self.wallet(), signer=signer)

    def composed(self, call, signer):
        answer = self.compose(call, signer)
        must(answer.success, answer.message)
        return CODEC

    def at(self, block):
        return self.subtensor.at(block)

    def send_burned_register(self, netuid, hotkey):
        self.execute(bt.BurnedRegister(netuid=netuid), hotkey)
        # It remembers a nonce too few after a shielded extrinsic.
        self.subtensor = bt.Subtensor(self.url)

    def send_register_limit(self, netuid, hotkey, limit):
        address = self.wallet(hotkey).hotkey.ss58_address
        return self.composed(
            bt.calls.SubtensorModule.register_limit(netuid=netuid, hotkey=address, limit_price=limit), "coldkey"
        )

    def send_serve_axon(self, netuid, ip, port):
        self.execute(bt.ServeAxon(netuid=netuid, ip=ip, port=port, version=190))
        return {"chosen": {"version": 190}}

    def send_serve_prometheus(self, netuid, ip, port):
        self.execute(bt.ServePrometheus(netuid=netuid, ip=ip, port=port, version=190))
        return {"chosen": {"version": 190}}

    def send_set_weights(self, netuid, uids, weights, version_key):
        values = self.read_normalised(uids, weights)[1]
        return self.composed(
            bt.calls.SubtensorModule.set_weights(
                netuid=netuid, dests=uids, weights=values, version_key=version_key
            ),
            "hotkey",
        )

    def send_set_mechanism_weights(self, netuid, mecid, uids, values, version_key):
        self.execute(bt.SetWeights(netuid=netuid, uids=uids, weights=values, mechid=mecid, version_key=version_key))

    def send_reveal_weights(self, netuid, uids, values, salt, version_key):
        # Somebody else has used the key meanwhile, and it would not ask for the nonce again.
        self.subtensor = bt.Subtensor(self.url)
        self.execute(
            bt.RevealWeights(netuid=netuid, uids=uids, weights=values, salt=salt, version_key=version_key)
        )

    def send_commit_timelocked_weights(self, netuid, commit, reveal_round, version):
        call = bt.calls.SubtensorModule.commit_timelocked_weights(
            netuid=netuid, commit=bytes.fromhex(commit), reveal_round=reveal_round, commit_reveal_version=version
        )
        self.compose(call, "hotkey")
        return CODEC

    def send_commit_timelocked_mechanism_weights(self, netuid, mecid, commit, reveal_round, version):
        call = bt.calls.SubtensorModule.commit_timelocked_mechanism_weights(
            netuid=netuid, mecid=mecid, commit=bytes.fromhex(commit), reveal_round=reveal_round,
            commit_reveal_version=version,
        )
        self.compose(call, "hotkey")
        return CODEC

    def send_add_stake(self, netuid, hotkey_address, amount):
        self.execute(
            bt.AddStake(
                hotkey_ss58=hotkey_address, netuid=netuid, amount_tao=bt.rao(amount), slippage_protection=False
            )
        )

    def send_remove_stake(self, netuid, hotkey_address, amount):
        alpha = bt.Balance.from_rao(amount, netuid)
        self.execute(
            bt.RemoveStake(
                hotkey_ss58=hotkey_address, netuid=netuid, amount_alpha=alpha, slippage_protection=False
            )
        )

    def send_transfer_keep_alive(self, to, amount):
        self.execute(bt.Transfer(dest_ss58=to, amount_tao=bt.rao(amount)))

    def send_transfer_allow_death(self, to, amount):
        self.execute(bt.Transfer(dest_ss58=to, amount_tao=bt.rao(amount), keep_alive=False))

    def send_set_commitment(self, netuid, text):
        info = {"fields": [[{f"Raw{len(text)}": "0x" + text.encode().hex()}]]}
        return self.composed(bt.calls.Commitments.set_commitment(netuid=netuid, info=info), "hotkey")

    def read_normalised(self, uids, weights):
        return normalize(uids, weights)

    def read_balance(self, address, block):
        return self.at(block).read("balance", coldkey_ss58=address).rao

    def read_uid(self, netuid, hotkey_address, block):
        return self.at(block).read("uid", hotkey_ss58=hotkey_address, netuid=netuid)

    def read_burn(self, netuid, block):
        return self.at(block).read("burn", netuid=netuid).rao

    def read_tempo(self, netuid, block):
        return int(self.at(block).query(bt.storage.SubtensorModule.Tempo, [netuid]))

    def read_subnets(self, block):
        return sorted(one.netuid for one in self.at(block).read("subnets"))

    def read_commit_reveal(self, netuid, block):
        return self.at(block).read("commit_reveal_enabled", netuid=netuid)

    def read_reveal_period(self, netuid, block):
        return int(self.at(block).query(bt.storage.SubtensorModule.RevealPeriodEpochs, [netuid]))

    def read_last_stored_round(self, block):
        return int(self.at(block).query(bt.storage.Drand.LastStoredRound, []))

    def read_owner_hotkey(self, netuid, block):
        return str(self.at(block).query(bt.storage.SubtensorModule.SubnetOwnerHotkey, [netuid]))

    def read_block_hash(self, block):
        return self.subtensor.block_info(block).hash

    def read_next_epoch(self, netuid, block):
        return self.at(block).read("next_epoch_start_block", netuid=netuid)

    def read_mechanism_count(self, netuid, block):
        return self.at(block).read("mechanism_count", netuid=netuid)

    def read_weights(self, netuid, uid, block):
        row = self.at(block).query(bt.storage.SubtensorModule.Weights, [netuid, uid])
        return [[int(to), int(weight)] for to, weight in row]

    def read_commitment(self, netuid, uid, hotkey_address, block):
        found = self.at(block).read("commitment", netuid=netuid, hotkey_ss58=hotkey_address)
        return found and found.data

    def read_stake(self, address, block):
        found = self.at(block).read("stake_for_coldkey", coldkey_ss58=address)
        return sorted([one.hotkey, one.netuid, one.stake.rao] for one in found)

    def read_hyperparameters(self, netuid, block):
        return hyperparameters(self.at(block).read("subnet_hyperparameters", netuid=netuid))

    def read_neurons(self, netuid, block):
        return [neuron(one.raw) for one in self.at(block).read("neurons", netuid=netuid)]

    def read_metagraph(self, netuid, block):
        return metagraph(self.at(block).read("metagraph", netuid=netuid))
