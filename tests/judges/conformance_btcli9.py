"""The `btcli` of SDK 10's time."""

from bittensor_cli.version import __version_as_int__
from conformance import must, parts
from conformance_btcli import Btcli, coins
from conformance_records import NAMES

ALONE = "has no command for it"
CODEC = "has no command for it, and composes no calls by name"


class Adapter(Btcli):
    ABSENT = {
        "burned_register": "registers with a limit (register_limit)",
        "serve_prometheus": CODEC,
        "set_mechanism_weights": "has no command for it",
        "set_weights": "asks for a parameter by a name that no chain has, and gives up",
        "commit_weights": "asks for a parameter by a name that no chain has, and gives up",
        "commit_timelocked_weights": CODEC,
        "commit_timelocked_mechanism_weights": CODEC,
        "set_commitment": CODEC,
        "normalised": "keeps it to itself",
    } | dict.fromkeys(
        [
            "uid", "burn", "tempo", "commit_reveal", "reveal_period", "last_stored_round", "owner_hotkey", "next_epoch",
            "mechanism_count", "block_hash", "weights", "commitment", "neurons",
        ],
        ALONE,
    )

    def signed(self, *arguments, hotkey="first"):
        keys = ["-p", self.folder, "--wallet-name", self.wallet, "-H", hotkey, "--network", self.url]
        return self.succeeds(*arguments, *keys, "--no-prompt")

    def send_register_limit(self, netuid, hotkey, limit):
        self.signed("subnets", "register", "--netuid", netuid, "--safe", "--tolerance", "0.5", hotkey=hotkey)

    def send_serve_axon(self, netuid, ip, port):
        self.signed("axon", "set", "--netuid", netuid, "--ip", ip, "--port", port)
        return {"chosen": {"version": 0}}

    # The version key of everything that it says about weights.
    version_key = __version_as_int__

    def send_reveal_weights(self, netuid, uids, values, salt, version_key):
        lists = [",".join(map(str, one)) for one in (uids, values, salt)]
        self.signed("weights", "reveal", "--netuid", netuid, "-u", lists[0], "-w", lists[1], "-s", lists[2])

    def send_add_stake(self, netuid, hotkey_address, amount):
        where = ["--netuid", netuid, "--include-hotkeys", hotkey_address, "--amount", coins(amount)]
        self.signed("stake", "add", *where, "--unsafe", "--no-mev-protection")

    def send_remove_stake(self, netuid, hotkey_address, amount):
        where = ["--netuid", netuid, "--hotkey-ss58-address", hotkey_address, "--amount", coins(amount)]
        self.signed("stake", "remove", *where, "--unsafe", "--no-mev-protection")

    def send_transfer_keep_alive(self, to, amount):
        self.signed("wallet", "transfer", "--dest", to, "--amount", coins(amount))

    def send_transfer_allow_death(self, to, amount):
        self.signed("wallet", "transfer", "--dest", to, "--amount", coins(amount), "--allow-death")

    def read_subnets(self, block):
        found = self.json("subnets", "list", "--network", self.url, "--json-output")
        return sorted(int(netuid) for netuid in found["subnets"])

    def read_balance(self, address, block):
        found = self.json("wallet", "balance", "--ss58", address, "--network", self.url, "--json-output")
        return next(rao(one["free"]) for one in found["balances"].values() if one["coldkey"] == address)

    def read_stake(self, address, block):
        found = self.json("stake", "list", "--ss58", address, "--network", self.url, "--no-prompt", "--json-output")
        rows = found["stake_info"].items()
        return sorted([hotkey, one["netuid"], rao(one["stake_value"])] for hotkey, row in rows for one in row)

    def read_hyperparameters(self, netuid, block):
        found = self.json("subnets", "hyperparameters", "--netuid", netuid, "--network", self.url, "--json-output")
        found = {one["hyperparameter"]: one["value"] for one in found}
        absent = [name for name in NAMES.values() if name not in found]
        must(not absent, f"no {absent} among {sorted(found)}")
        return {ours: found[theirs] for ours, theirs in NAMES.items()}

    def read_metagraph(self, netuid, block):
        which = ["--netuid", netuid, "--mechid", 0, "--network", self.url]
        found = self.json("subnets", "metagraph", *which, "--no-prompt", "--json-output")
        rows = []
        for one in found["uids"]:
            amounts = {name: rao(one[name]) for name in ("stake", "alpha_stake", "tao_stake")}
            shares = {name: parts(one[name]) for name in ("incentive", "dividends")}
            rows.append({"uid": one["uid"], "hotkey": one["hotkey"], "coldkey": one["coldkey"], **amounts, **shares})
        return {"tempo": found["tempo"]["tempo"], "owner_coldkey": found["owner"], "neurons": rows}


def rao(shown):
    """An amount that it shows as a floating-point number of coins."""
    return round(float(shown) * 10**9)
