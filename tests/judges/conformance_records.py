"""The records of SDK 11 and its `btcli`: the chain's own, decoded and otherwise left alone."""

from conformance import endpoint, must

NAMES = {
    "tempo": "tempo",
    "weights_rate_limit": "weights_rate_limit",
    "weights_version_key": "weights_version",
    "min_allowed_weights": "min_allowed_weights",
    "max_weight_limit": "max_weights_limit",
    "immunity_period": "immunity_period",
    "serving_rate_limit": "serving_rate_limit",
    "max_validators": "max_validators",
    "commit_reveal": "commit_reveal_weights_enabled",
    "reveal_period_epochs": "commit_reveal_period",
    "activity_cutoff": "activity_cutoff",
    "registration_allowed": "registration_allowed",
    "kappa": "kappa",
    "bonds_moving_average": "bonds_moving_avg",
    "burn_min": "min_burn",
    "burn_max": "max_burn",
}


def hyperparameters(found):
    absent = [name for name in NAMES.values() if name not in found]
    must(not absent, f"no {absent} among {sorted(found)}")
    return {ours: plain(found[theirs]) for ours, theirs in NAMES.items()}


def plain(value):
    return value if isinstance(value, bool) else int(getattr(value, "rao", value))


def neuron(raw):
    return {
        "uid": int(raw["uid"]),
        "hotkey": str(raw["hotkey"]),
        "coldkey": str(raw["coldkey"]),
        "axon": endpoint(raw["axon_info"]),
        "prometheus": endpoint(raw["prometheus_info"]),
        "staked": sum(int(amount) for _, amount in raw["stake"]),
        "validator_permit": bool(raw["validator_permit"]),
        "active": bool(raw["active"]),
        "last_update": int(raw["last_update"]),
        **{name: int(raw[name]) for name in ("incentive", "dividends", "consensus", "validator_trust", "emission")},
    }


def metagraph(found):
    rows = []
    for uid in range(int(found["num_uids"])):
        rows.append({
            "uid": uid,
            "hotkey": str(found["hotkeys"][uid]),
            "coldkey": str(found["coldkeys"][uid]),
            "axon": endpoint(found["axons"][uid]),
            "stake": int(found["total_stake"][uid]),
            "alpha_stake": int(found["alpha_stake"][uid]),
            "tao_stake": int(found["tao_stake"][uid]),
            "validator_permit": bool(found["validator_permit"][uid]),
            "active": bool(found["active"][uid]),
            "last_update": int(found["last_update"][uid]),
            "registered_at": int(found["block_at_registration"][uid]),
            "incentive": int(found["incentives"][uid]),
            "dividends": int(found["dividends"][uid]),
            "consensus": int(found["consensus"][uid]),
            "emission": int(found["emission"][uid]),
        })
    return {
        "block": int(found["block"]),
        "tempo": int(found["tempo"]),
        "owner_hotkey": str(found["owner_hotkey"]),
        "owner_coldkey": str(found["owner_coldkey"]),
        "burn": int(found["burn"]),
        "max_neurons": int(found["max_uids"]),
        "neurons": rows,
    }
