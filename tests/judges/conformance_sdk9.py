"""Bittensor's Python SDK 9.0.0, as the original pins it."""

import bittensor as bt
import numpy
from bittensor.core.extrinsics.commit_weights import reveal_weights_extrinsic
from bittensor.core.settings import version_as_int
from bittensor.utils.balance import Balance
from bittensor.utils.weight_utils import convert_weights_and_uids_for_emit
from conformance import endpoint, must, parts, rao
from scalecodec.utils.ss58 import ss58_encode

CODEC = {"by": "codec"}
WAIT = {"wait_for_inclusion": True, "wait_for_finalization": True}


class Adapter:
    ABSENT = {
        "next_epoch": "computes epochs by the old rule, block + netuid + 1 over tempo + 1",
        "commit_reveal_version": "knows the version that its own code writes",
        "mechanism_count": "is older than mechanisms",
    }

    version = bt.__version__

    def __init__(self, url, folder, wallet):
        self.subtensor = bt.Subtensor(network=url)
        self.folder, self.name = folder, wallet

    def wallet(self, hotkey="first"):
        return bt.wallet(name=self.name, hotkey=hotkey, path=self.folder)

    def compose(self, module, function, params, signer, hotkey="first"):
        call = self.subtensor.substrate.compose_call(module, function, params)
        sent = self.subtensor.sign_and_send_extrinsic(call, self.wallet(hotkey), sign_with=signer, **WAIT)
        return CODEC, sent

    def composed(self, *arguments):
        by, (success, message) = self.compose(*arguments)
        must(success, message)
        return by

    def send_burned_register(self, netuid, hotkey):
        must(self.subtensor.burned_register(self.wallet(hotkey), netuid, **WAIT), "not registered")

    def send_register_limit(self, netuid, hotkey, limit):
        address = self.wallet(hotkey).hotkey.ss58_address
        params = {"netuid": netuid, "hotkey": address, "limit_price": limit}
        return self.composed("SubtensorModule", "register_limit", params, "coldkey")

    def send_serve_axon(self, netuid, ip, port):
        axon = bt.Axon(wallet=self.wallet(), ip="127.0.0.1", port=port, external_ip=ip, external_port=port)
        must(self.subtensor.serve_axon(netuid, axon, **WAIT), "not served")
        return {"chosen": {"version": version_as_int}}

    def send_serve_prometheus(self, netuid, ip, port):
        params = {"netuid": netuid, "version": 190, "ip": int(numpy.int64(ip_number(ip))), "port": port, "ip_type": 4}
        by = self.composed("SubtensorModule", "serve_prometheus", params, "hotkey")
        return {**by, "chosen": {"version": 190}}

    def send_set_weights(self, netuid, uids, weights, version_key):
        answer = self.subtensor.set_weights(
            self.wallet(), netuid, numpy.array(uids), numpy.array(weights, dtype=numpy.float32),
            version_key=version_key, **WAIT,
        )
        must(answer[0], answer[1])

    def send_set_mechanism_weights(self, netuid, mecid, uids, values, version_key):
        params = {"netuid": netuid, "mecid": mecid, "dests": uids, "weights": values, "version_key": version_key}
        return self.composed("SubtensorModule", "set_mechanism_weights", params, "hotkey")

    def send_commit_weights(self, netuid, uids, values, salt, version_key):
        # The method makes the hash itself and swallows the chain's answer; what it sent is what counts.
        self.subtensor.commit_weights(
            self.wallet(), netuid, salt, uids, values, version_key, max_retries=1, **WAIT
        )

    def send_reveal_weights(self, netuid, uids, values, salt, version_key):
        reveal_weights_extrinsic(self.subtensor, self.wallet(), netuid, uids, values, salt, version_key, **WAIT)


    def send_commit_timelocked_weights(self, netuid, commit, reveal_round, version):
        params = {"netuid": netuid, "commit": f"0x{commit}", "reveal_round": reveal_round,
                  "commit_reveal_version": version}
        return self.compose("SubtensorModule", "commit_timelocked_weights", params, "hotkey")[0]

    def send_commit_timelocked_mechanism_weights(self, netuid, mecid, commit, reveal_round, version):
        params = {"netuid": netuid, "mecid": mecid, "commit": f"0x{commit}", "reveal_round": reveal_round,
                  "commit_reveal_version": version}
        return self.compose("SubtensorModule", "commit_timelocked_mechanism_weights", params, "hotkey")[0]

    def send_add_stake(self, netuid, hotkey_address, amount):
        must(self.subtensor.add_stake(self.wallet(), hotkey_address, netuid, Balance.from_rao(amount), **WAIT), "no")

    def send_remove_stake(self, netuid, hotkey_address, amount):
        must(self.subtensor.unstake(self.wallet(), hotkey_address, netuid, Balance.from_rao(amount), **WAIT), "no")

    def send_transfer_keep_alive(self, to, amount):
        params = {"dest": to, "value": amount}
        return self.composed("Balances", "transfer_keep_alive", params, "coldkey")

    def send_transfer_allow_death(self, to, amount):
        # Its one way to transfer, whatever `keep_alive` says.
        must(self.subtensor.transfer(self.wallet(), to, Balance.from_rao(amount), **WAIT), "not transferred")

    def send_set_commitment(self, netuid, text):
        must(self.subtensor.commit(self.wallet(), netuid, text), "not committed")

    def read_normalised(self, uids, weights):
        return convert_weights_and_uids_for_emit(numpy.array(uids), numpy.array(weights, dtype=numpy.float64))

    def read_balance(self, address, block):
        return rao(self.subtensor.get_balance(address, block))

    def read_uid(self, netuid, hotkey_address, block):
        return self.subtensor.get_uid_for_hotkey_on_subnet(hotkey_address, netuid, block)

    def read_burn(self, netuid, block):
        return rao(self.subtensor.recycle(netuid, block))

    def read_tempo(self, netuid, block):
        return self.subtensor.tempo(netuid, block)

    def read_subnets(self, block):
        return sorted(self.subtensor.get_subnets(block))

    def read_commit_reveal(self, netuid, block):
        return self.subtensor.commit_reveal_enabled(netuid, block)

    def read_reveal_period(self, netuid, block):
        return self.subtensor.get_subnet_reveal_period_epochs(netuid, block)

    def read_last_stored_round(self, block):
        return self.subtensor.last_drand_round()

    def read_owner_hotkey(self, netuid, block):
        return address(self.subtensor.get_metagraph_info(netuid, block).owner_hotkey)

    def read_block_hash(self, block):
        return self.subtensor.get_block_hash(block)

    def read_weights(self, netuid, uid, block):
        row = dict(self.subtensor.weights(netuid, block)).get(uid, [])
        return [[int(to), int(weight)] for to, weight in row]

    def read_commitment(self, netuid, uid, hotkey_address, block):
        return self.subtensor.get_commitment(netuid, uid, block)

    def read_stake(self, address, block):
        found = self.subtensor.get_stake_for_coldkey(address, block)
        return sorted([one.hotkey_ss58, one.netuid, rao(one.stake)] for one in found)

    def read_hyperparameters(self, netuid, block):
        found = self.subtensor.get_subnet_hyperparameters(netuid, block)
        return hyperparameters(found)

    def read_neurons(self, netuid, block):
        return [neuron(one) for one in self.subtensor.neurons_lite(netuid, block)]

    def read_metagraph(self, netuid, block):
        return metagraph(self.subtensor.get_metagraph_info(netuid, block))


def ip_number(ip):
    return sum(int(part) << shift for part, shift in zip(ip.split("."), (24, 16, 8, 0)))


def address(account):
    """This version leaves the owner's keys as the bytes in their tuple."""
    return account if isinstance(account, str) else ss58_encode(bytes(account[0]), 42)


def hyperparameters(found):
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
        "owner_hotkey": address(found.owner_hotkey),
        "owner_coldkey": address(found.owner_coldkey),
        "burn": rao(found.burn),
        "max_neurons": found.max_uids,
        "neurons": rows,
    }
