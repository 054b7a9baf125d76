"""Bittensor's Python SDK 10."""

import bittensor as bt
import numpy
from bittensor.core.settings import version_as_int
from bittensor.utils.balance import Balance
from bittensor.utils.weight_utils import convert_and_normalize_weights_and_uids, generate_weight_hash
from conformance import endpoint, must, parts, rao

CODEC = {"by": "codec"}
# In the clear: what the shield hides is compared with SDK 11.
CLEAR = {"mev_protection": False}
WAIT = {"wait_for_inclusion": True, "wait_for_finalization": True}


class Adapter:
    ABSENT = {}

    version = bt.__version__

    def __init__(self, url, folder, wallet):
        self.subtensor = bt.Subtensor(network=url)
        self.folder, self.name = folder, wallet

    def wallet(self, hotkey="first"):
        return bt.Wallet(name=self.name, hotkey=hotkey, path=self.folder)

    def compose(self, module, function, params, signer):
        call = self.subtensor.compose_call(module, function, params)
        return self.subtensor.sign_and_send_extrinsic(call, self.wallet(), sign_with=signer, **WAIT)

    def composed(self, module, function, params, signer):
        succeeded(self.compose(module, function, params, signer))
        return CODEC

    def send_burned_register(self, netuid, hotkey):
        succeeded(self.subtensor.burned_register(self.wallet(hotkey), netuid, **CLEAR))

    def send_register_limit(self, netuid, hotkey, limit):
        succeeded(self.subtensor.register_limit(self.wallet(hotkey), netuid, Balance.from_rao(limit), **CLEAR))

    def send_serve_axon(self, netuid, ip, port):
        axon = bt.Axon(wallet=self.wallet(), ip="127.0.0.1", port=port, external_ip=ip, external_port=port)
        succeeded(self.subtensor.serve_axon(netuid, axon, **CLEAR))
        return {"chosen": {"version": version_as_int}}

    def send_serve_prometheus(self, netuid, ip, port):
        number = sum(int(part) << shift for part, shift in zip(ip.split("."), (24, 16, 8, 0)))
        params = {"netuid": netuid, "version": 190, "ip": number, "port": port, "ip_type": 4}
        by = self.composed("SubtensorModule", "serve_prometheus", params, "hotkey")
        return {**by, "chosen": {"version": 190}}

    def send_set_weights(self, netuid, uids, weights, version_key):
        params = {"netuid": netuid, "dests": uids, "weights": self.read_normalised(uids, weights)[1],
                  "version_key": version_key}
        return self.composed("SubtensorModule", "set_weights", params, "hotkey")

    def send_set_mechanism_weights(self, netuid, mecid, uids, values, version_key):
        sent = self.subtensor.set_weights(
            wallet=self.wallet(), netuid=netuid, mechid=mecid, uids=uids, weights=[float(one) for one in values],
            version_key=version_key, **CLEAR, **WAIT,
        )
        succeeded(sent)

    def send_commit_weights(self, netuid, uids, values, salt, version_key):
        digest = generate_weight_hash(
            self.wallet().hotkey.ss58_address, netuid, uids, values, version_key, salt
        )
        self.compose("SubtensorModule", "commit_weights", {"netuid": netuid, "commit_hash": digest}, "hotkey")
        return CODEC

    def send_reveal_weights(self, netuid, uids, values, salt, version_key):
        params = {"netuid": netuid, "uids": uids, "values": values, "salt": salt, "version_key": version_key}
        self.compose("SubtensorModule", "reveal_weights", params, "hotkey")
        return CODEC


    def send_commit_timelocked_weights(self, netuid, commit, reveal_round, version):
        params = {"netuid": netuid, "commit": bytes.fromhex(commit), "reveal_round": reveal_round,
                  "commit_reveal_version": version}
        self.compose("SubtensorModule", "commit_timelocked_weights", params, "hotkey")
        return CODEC

    def send_commit_timelocked_mechanism_weights(self, netuid, mecid, commit, reveal_round, version):
        params = {"netuid": netuid, "mecid": mecid, "commit": bytes.fromhex(commit), "reveal_round": reveal_round,
                  "commit_reveal_version": version}
        self.compose("SubtensorModule", "commit_timelocked_mechanism_weights", params, "hotkey")
        return CODEC

    def send_add_stake(self, netuid, hotkey_address, amount):
        succeeded(self.subtensor.add_stake(self.wallet(), netuid, hotkey_address, Balance.from_rao(amount), **CLEAR))

    def send_remove_stake(self, netuid, hotkey_address, amount):
        alpha = Balance.from_rao(amount).set_unit(netuid)
        succeeded(self.subtensor.unstake(self.wallet(), netuid, hotkey_address, alpha, **CLEAR))

    def send_transfer_keep_alive(self, to, amount):
        succeeded(self.subtensor.transfer(self.wallet(), to, Balance.from_rao(amount), **CLEAR))

    def send_transfer_allow_death(self, to, amount):
        sent = self.subtensor.transfer(self.wallet(), to, Balance.from_rao(amount), keep_alive=False, **CLEAR)
        succeeded(sent)

    def send_set_commitment(self, netuid, text):
        succeeded(self.subtensor.set_commitment(self.wallet(), netuid, text, **CLEAR))

    def read_normalised(self, uids, weights):
        return convert_and_normalize_weights_and_uids(numpy.array(uids), numpy.array(weights, dtype=numpy.float64))

    def read_balance(self, address, block):
        return rao(self.subtensor.get_balance(address, block))

    def read_uid(self, netuid, hotkey_address, block):
        return self.subtensor.get_uid_for_hotkey_on_subnet(hotkey_address, netuid, block)

    def read_burn(self, netuid, block):
        return rao(self.subtensor.recycle(netuid, block))

    def read_tempo(self, netuid, block):
        return self.subtensor.tempo(netuid, block)

    def read_subnets(self, block):
        return sorted(int(one) for one in self.subtensor.get_all_subnets_netuid(block))

    def read_commit_reveal(self, netuid, block):
        return self.subtensor.commit_reveal_enabled(netuid, block)

    def read_reveal_period(self, netuid, block):
        return self.subtensor.get_subnet_reveal_period_epochs(netuid, block)

    def read_last_stored_round(self, block):
        return self.subtensor.last_drand_round()

    def read_owner_hotkey(self, netuid, block):
        return self.subtensor.get_subnet_owner_hotkey(netuid, block)

    def read_next_epoch(self, netuid, block):
        return self.subtensor.get_next_epoch_start_block(netuid, block)

    def read_mechanism_count(self, netuid, block):
        return self.subtensor.get_mechanism_count(netuid, block)

    def read_block_hash(self, block):
        return self.subtensor.get_block_hash(block)

    def read_weights(self, netuid, uid, block):
        row = dict(self.subtensor.weights(netuid, 0, block)).get(uid, [])
        return [[int(to), int(weight)] for to, weight in row]

    def read_commitment(self, netuid, uid, hotkey_address, block):
        return self.subtensor.get_commitment(netuid, uid, block)

    def read_stake(self, address, block):
        found = self.subtensor.get_stake_info_for_coldkey(address, block)
        return sorted([one.hotkey_ss58, one.netuid, rao(one.stake)] for one in found)

    def read_hyperparameters(self, netuid, block):
        found = self.subtensor.get_subnet_hyperparameters(netuid, block)
        return {
            "tempo": found.tempo,
            "weights_rate_limit": found.weights_rate_limit,
            "weights_version_key": found.weights_version,
            "min_allowed_weights": found.min_allowed_weights,
            "max_weight_limit": found.max_weight_limit,
            "immunity_period": found.immunity_period,
            "serving_rate_limit": found.serving_rate_limit,
            "max_validators": found.max_validators,
            "commit_reveal": bool(found.commit_reveal_weights_enabled),
            "reveal_period_epochs": found.commit_reveal_period,
            "activity_cutoff": found.activity_cutoff,
            "registration_allowed": bool(found.registration_allowed),
            "kappa": found.kappa,
            "bonds_moving_average": found.bonds_moving_avg,
            "burn_min": rao(found.min_burn),
            "burn_max": rao(found.max_burn),
        }

    def read_neurons(self, netuid, block):
        return [neuron(one) for one in self.subtensor.neurons_lite(netuid, block)]

    def read_metagraph(self, netuid, block):
        return metagraph(self.subtensor.get_metagraph_info(netuid, 0, block=block))


def succeeded(answer):
    must(answer.success, answer.message)


def neuron(one):
    return {
        "uid": one.uid,
        "hotkey": one.hotkey,
        "coldkey": one.coldkey,
        "axon": endpoint(one.axon_info),
        "prometheus": endpoint(one.prometheus_info),
        "staked": rao(one.stake),
        "validator_permit": bool(one.validator_permit),
        "active": bool(one.active),
        "last_update": one.last_update,
        "incentive": parts(one.incentive),
        "dividends": parts(one.dividends),
        "consensus": parts(one.consensus),
        "validator_trust": parts(one.validator_trust),
        "emission": round(one.emission * 1e9),
    }


def metagraph(found):
    rows = []
    for uid in range(found.num_uids):
        rows.append({
            "uid": uid,
            "hotkey": found.hotkeys[uid],
            "coldkey": found.coldkeys[uid],
            "axon": endpoint(found.axons[uid]),
            "stake": rao(found.total_stake[uid]),
            "alpha_stake": rao(found.alpha_stake[uid]),
            "tao_stake": rao(found.tao_stake[uid]),
            "validator_permit": bool(found.validator_permit[uid]),
            "active": bool(found.active[uid]),
            "last_update": found.last_update[uid],
            "registered_at": found.block_at_registration[uid],
            "incentive": parts(found.incentives[uid]),
            "dividends": parts(found.dividends[uid]),
            "consensus": parts(found.consensus[uid]),
            "emission": rao(found.emission[uid]),
        })
    return {
        "block": found.block,
        "tempo": found.tempo,
        "owner_hotkey": found.owner_hotkey,
        "owner_coldkey": found.owner_coldkey,
        "burn": rao(found.burn),
        "max_neurons": found.max_uids,
        "neurons": rows,
    }
