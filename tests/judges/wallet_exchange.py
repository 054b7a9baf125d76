"""Judges our wallet files by Bittensor's own packages, in both directions.

Runs under bittensor-wallet 4.x and under Bittensor's SDK 11; both have the same `Wallet`.

    wallet_exchange.py make ROOT            writes wallets and prints what is in them
    wallet_exchange.py check ROOT           reads wallets described on standard input and prints what it found
    wallet_exchange.py prompt BINARY ROOT   makes an encrypted coldkey by typing its password on a terminal

Descriptions are JSON lists of objects with `name`, `coldkey_password` (or null) and, printed, `coldkey`, `hotkey`,
`mnemonic`, and signatures of both keys over `MESSAGE`.
"""

import json
import os
import pty
import select
import signal
import sys
import time

MESSAGE = b"nicompute wallet exchange"
PROMPT_SECONDS_MAX = 120

try:
    from bittensor_wallet import Wallet
except ImportError:
    from bittensor import Wallet


def open_wallet(root, name):
    return Wallet(name=name, hotkey="default", path=root)


def coldkey_of(wallet, password):
    if password is None:
        return wallet.coldkey
    return wallet.get_coldkey(password=password)


def described(wallet, name, password):
    coldkey, hotkey = coldkey_of(wallet, password), wallet.hotkey
    assert wallet.coldkeypub.ss58_address == coldkey.ss58_address, "the public half differs"
    return {
        "name": name,
        "coldkey_password": password,
        "coldkey": coldkey.ss58_address,
        "hotkey": hotkey.ss58_address,
        "coldkey_encrypted": wallet.coldkey_file.is_encrypted(),
        "coldkey_signature": bytes(coldkey.sign(MESSAGE)).hex(),
        "hotkey_signature": bytes(hotkey.sign(MESSAGE)).hex(),
    }


def make(root):
    found = []
    for name, password, crypto_type, words in [
        ("plain", None, 1, 12),
        ("sealed", "Correct-Horse-9-Battery", 1, 24),
        ("edwards", None, 0, 12),
    ]:
        wallet = open_wallet(root, name)
        wallet.create_new_coldkey(
            n_words=words,
            use_password=password is not None,
            coldkey_password=password,
            overwrite=False,
            suppress=True,
            crypto_type=crypto_type,
        )
        wallet.create_new_hotkey(use_password=False, overwrite=False, suppress=True)
        found.append(described(open_wallet(root, name), name, password))
    wallet = open_wallet(root, "from-seed")
    wallet.regenerate_coldkey(
        seed="0x" + "11" * 32, use_password=False, overwrite=False, suppress=True
    )
    wallet.create_new_hotkey(use_password=False, overwrite=False, suppress=True)
    wallet = open_wallet(root, "from-seed")
    # Version 4 of the package cannot read this coldkey again itself: it wrote raw bytes as the seed.
    found.append(
        {
            "name": "from-seed",
            "coldkey_password": None,
            "coldkey": wallet.coldkeypub.ss58_address,
            "hotkey": wallet.hotkey.ss58_address,
            "coldkey_signature": None,
            "hotkey_signature": bytes(wallet.hotkey.sign(MESSAGE)).hex(),
        }
    )
    return found


def check(root):
    found = []
    for asked in json.load(sys.stdin):
        wallet = open_wallet(root, asked["name"])
        if asked["coldkey_password"] is not None:
            refuses_wrong_password(root, asked["name"])
        found.append(described(wallet, asked["name"], asked["coldkey_password"]))
    return found


def refuses_wrong_password(root, name):
    try:
        open_wallet(root, name).get_coldkey(password="not this one")
    except Exception:  # each package has its own class
        return
    raise AssertionError("a wrong password opened the coldkey")


def prompt(binary, root):
    """Types the password twice, with a correction, and gives what stood on the terminal."""
    password = "typed-Password-7"
    pid, terminal = pty.fork()
    if pid == 0:
        arguments = ["wallet", "new-coldkey", "--wallet.path", root, "--wallet.name", "typed"]
        os.execv(binary, [binary, *arguments])
    seen, answers = b"", [b"typo\x7f\x7f\x7f\x7f" + password.encode() + b"\n"] * 2
    deadline = time.monotonic() + PROMPT_SECONDS_MAX
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            more = os.read(terminal, 4096)
        except OSError:
            break
        if not more:
            break
        seen += more
        if answers and seen.count(b": ") > 2 - len(answers):
            os.write(terminal, answers.pop())
    if time.monotonic() >= deadline:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = seen.decode()
    assert status == 0, text
    assert password not in text and "typo" not in text, "the password was echoed"
    wallet = open_wallet(root, "typed")
    coldkey = wallet.get_coldkey(password=password)
    assert coldkey.ss58_address in text, text
    return [{"name": "typed", "coldkey": coldkey.ss58_address}]


def main():
    command, *rest = sys.argv[1:]
    result = {"make": make, "check": check, "prompt": prompt}[command](*rest)
    # The packages print to standard output as well; the answer is the last line.
    print("\n" + json.dumps(result))


main()
