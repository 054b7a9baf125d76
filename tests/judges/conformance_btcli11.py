"""The `btcli` that comes with SDK 11."""

import re

from conformance import must
from conformance_btcli import Btcli, coins
from conformance_records import hyperparameters, metagraph, neuron

CODEC = "has no command for it, and composes no calls by name"


class Adapter(Btcli):
    ABSENT = {
        "register_limit": CODEC,
        "set_weights": "sets the weights of a mechanism (set_mechanism_weights)",
        "commit_weights": CODEC,
        "commit_timelocked_weights": "makes the commit itself, for a beacon that it must reach",
        "commit_timelocked_mechanism_weights": "makes the commit itself, for a beacon that it must reach",
        "set_commitment": CODEC,
        "normalised": "keeps it to itself",
        "last_stored_round": "asks the beacon itself",
        "owner_hotkey": "shows it within the metagraph alone",
        "weights": "shows them as shares of one; the SDK itself is compared",
        "block_hash": "is not asked: it shows a block (block-info) for people; the SDK itself is compared",
    }

    def succeeded(self, *arguments, hotkey="first"):
        keys = ["--wallet-path", self.folder, "-w", self.wallet, "-H", hotkey, "-n", self.url]
        self.succeeds("tx", *arguments, *keys, "--yes", "--json")

    def query(self, *arguments):
        return self.json("query", *arguments, "-n", self.url, "--json")

    def send_burned_register(self, netuid, hotkey):
        self.succeeded("burned-register", "--netuid", netuid, hotkey=hotkey)

    def send_serve_axon(self, netuid, ip, port):
        self.succeeded("serve-axon", "--netuid", netuid, "--ip", ip, "--port", port, "--version", 190)
        return {"chosen": {"version": 190}}

    def send_serve_prometheus(self, netuid, ip, port):
        self.succeeded("serve-prometheus", "--netuid", netuid, "--ip", ip, "--port", port, "--version", 190)
        return {"chosen": {"version": 190}}

    def send_set_mechanism_weights(self, netuid, mecid, uids, values, version_key):
        lists = ["--uids", uids, "--weights", values]
        self.succeeded("set-weights", "--netuid", netuid, *lists, "--mechid", mecid, "--version-key", version_key)

    def send_reveal_weights(self, netuid, uids, values, salt, version_key):
        lists = ["--uids", uids, "--weights", values, "--salt", salt]
        self.succeeded("reveal-weights", "--netuid", netuid, *lists, "--version-key", version_key)

    def send_add_stake(self, netuid, hotkey_address, amount):
        where = ["--netuid", netuid, "--hotkey", hotkey_address, "--amount-tao", coins(amount)]
        self.succeeded("add-stake", *where, "--no-slippage-protection")

    def send_remove_stake(self, netuid, hotkey_address, amount):
        where = ["--netuid", netuid, "--hotkey", hotkey_address, "--amount-alpha", coins(amount)]
        self.succeeded("remove-stake", *where, "--no-slippage-protection")

    def send_transfer_keep_alive(self, to, amount):
        self.succeeded("transfer", "--dest", to, "--amount-tao", coins(amount))

    def send_transfer_allow_death(self, to, amount):
        self.succeeded("transfer", "--dest", to, "--amount-tao", coins(amount), "--no-keep-alive")

    def read_balance(self, address, block):
        return rao(self.query("balance", "--coldkey", address))

    def read_uid(self, netuid, hotkey_address, block):
        return self.query("uid", "--netuid", netuid, "--hotkey", hotkey_address)

    def read_burn(self, netuid, block):
        return rao(self.query("burn", "--netuid", netuid))

    def read_subnets(self, block):
        return sorted(one["netuid"] for one in self.query("subnets"))

    def read_tempo(self, netuid, block):
        return next(one["tempo"] for one in self.query("subnets") if one["netuid"] == netuid)

    def read_commit_reveal(self, netuid, block):
        return self.query("commit-reveal-enabled", "--netuid", netuid)

    def read_reveal_period(self, netuid, block):
        return self.query("subnet-hyperparameters", "--netuid", netuid)["commit_reveal_period"]

    def read_next_epoch(self, netuid, block):
        return self.query("next-epoch-start-block", "--netuid", netuid)

    def read_mechanism_count(self, netuid, block):
        return self.query("mechanism-count", "--netuid", netuid)

    def read_commitment(self, netuid, uid, hotkey_address, block):
        found = self.query("commitment", "--netuid", netuid, "--hotkey", hotkey_address)
        return found and found["data"]

    def read_stake(self, address, block):
        found = self.query("stake-for-coldkey", "--coldkey", address)
        return sorted([one["hotkey"], one["netuid"], rao(one["stake"])] for one in found)

    def read_hyperparameters(self, netuid, block):
        return hyperparameters(self.query("subnet-hyperparameters", "--netuid", netuid))

    def read_neurons(self, netuid, block):
        return [neuron(one["raw"]) for one in self.query("neurons", "--netuid", netuid)]

    def read_metagraph(self, netuid, block):
        return metagraph(self.query("metagraph", "--netuid", netuid))


def rao(shown):
    """An amount such as τ1,234.567890123 or 0.5α in rao; it has nine digits behind the point."""
    whole, point, behind = re.sub(r"[^0-9.]", "", str(shown)).partition(".")
    must(not point or len(behind) == 9, f"{shown} has no nine digits behind the point")
    return int(whole) * 10**9 + int(behind or 0)
