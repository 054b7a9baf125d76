"""Bittensor's own libraries judge weights by commit and reveal. Nothing here opens a connection.

    reveal.py open     opens the commits on standard input with the round's signature and says what they hold
    reveal.py seal     seals the weights on standard input for a round of drand's quicknet
    reveal.py hash     hashes the weights on standard input as a commit does
    reveal.py round    says which rounds the library would choose for the schedules on standard input, and when it said so

Reads a list of objects, prints a list with an answer for each. Weights are `hotkey` (hex of the key), `uids`, `values` and
`version_key`. A library that does not have an operation answers null.
"""

import json
import sys
import time

try:
    import bittensor_core as library
except ImportError:
    try:
        import bittensor_drand as library
    except ImportError:
        import bittensor_commit_reveal as library


def compact(number):
    if number < 1 << 6:
        return bytes([number << 2])
    if number < 1 << 14:
        return (number << 2 | 1).to_bytes(2, "little")
    return (number << 2 | 2).to_bytes(4, "little")


def vector(numbers):
    return compact(len(numbers)) + b"".join(number.to_bytes(2, "little") for number in numbers)


def payload(weights):
    hotkey = bytes.fromhex(weights["hotkey"])
    listed = vector(weights["uids"]) + vector(weights["values"])
    return compact(len(hotkey)) + hotkey + listed + weights["version_key"].to_bytes(8, "little")


def take_compact(data):
    mode = data[0] & 3
    size = (1, 2, 4)[mode]
    return int.from_bytes(data[:size], "little") >> 2, data[size:]


def take_vector(data):
    count, data = take_compact(data)
    numbers = [int.from_bytes(data[2 * i : 2 * i + 2], "little") for i in range(count)]
    return numbers, data[2 * count :]


def parsed(data):
    length, data = take_compact(data)
    hotkey, data = data[:length], data[length:]
    uids, data = take_vector(data)
    values, data = take_vector(data)
    assert len(data) == 8, data.hex()
    version_key = int.from_bytes(data, "little")
    return {"hotkey": hotkey.hex(), "uids": uids, "values": values, "version_key": version_key}


def opened(asked):
    """The libraries open an envelope: the commit behind its length, and the round."""
    commit = bytes.fromhex(asked["commit"])
    envelope = compact(len(commit)) + commit + asked["round"].to_bytes(8, "little")
    return parsed(bytes(library.decrypt_with_signature(envelope, asked["signature"])))


def sealed(asked):
    envelope = bytes(library.encrypt_at_round(payload(asked), asked["round"])[0])
    length, rest = take_compact(envelope)
    commit = rest[:length]
    assert rest[length:] == asked["round"].to_bytes(8, "little"), rest[length:].hex()
    return commit.hex()


def hashed(asked):
    try:
        from bittensor.utils.weight_utils import generate_weight_hash
    except ImportError:
        return None
    return generate_weight_hash(
        asked["address"], asked["netuid"], asked["uids"], asked["values"], asked["version_key"], asked["salt"]
    )


def chosen(asked):
    before = time.time()
    _, reveal_round = library.get_encrypted_commit_v2(
        uids=[0],
        weights=[1],
        version_key=0,
        last_epoch_block=asked["last_epoch"],
        pending_epoch_at=0,
        subnet_epoch_index=asked["index"],
        tempo=asked["tempo"],
        blocks_since_last_step=asked["block"] - asked["last_epoch"],
        current_block=asked["block"],
        subnet_reveal_period_epochs=asked["period"],
        block_time=asked["block_ms"] / 1000,
        hotkey=bytes(32),
    )
    return {"round": reveal_round, "before_s": before, "after_s": time.time()}


OPERATIONS = {"open": opened, "seal": sealed, "hash": hashed, "round": chosen}

if __name__ == "__main__":
    operation = OPERATIONS[sys.argv[1]]
    print(json.dumps([operation(asked) for asked in json.load(sys.stdin)]))
