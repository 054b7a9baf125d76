"""One of Bittensor's clients, told line by line what to send and what to read.

    conformance.py CLIENT URL FOLDER WALLET

CLIENT is `sdk9`, `sdk10`, `sdk11`, `btcli9` or `btcli11`: the module `conformance_CLIENT.py` beside this one holds its
adapter. Every line of standard input is a JSON object {"act": "send" or "read", "name": …, "with": {…}} and is answered
by one JSON object on a line of standard output:

    {"by": "method" or "codec", "chosen": {…}}  it was sent; `codec` where the client has no method of its own for it and
                                                composed the call by name; `chosen` are arguments that it decided itself
    {"value": …}                                what was read, in rao, blocks and parts of 65535
    {"not_offered": why}                        the client cannot do this
    {"failed": why}                             it could, and did not

An adapter has methods `send_NAME` and `read_NAME`, and says in ABSENT why one is missing; no name is passed over.
"""

import importlib
import ipaddress
import json
import os
import sys
import traceback


class Failed(Exception):
    """The client did not do what it offers."""


def must(condition, message):
    if not condition:
        raise Failed(str(message))


def parts(share):
    """A share between 0 and 1 as the chain's integer of 65535."""
    return round(float(share) * 65535)


def rao(amount):
    """An amount of any client in rao."""
    return int(getattr(amount, "rao", amount))


def endpoint(info):
    """An announced address of any client, or None where nothing was announced."""
    ip, port, version, kind = (
        info[name] if isinstance(info, dict) else getattr(info, name) for name in ("ip", "port", "version", "ip_type")
    )
    if str(ip).isdigit():
        ip = ipaddress.IPv6Address(int(ip)) if int(kind) == 6 else ipaddress.IPv4Address(int(ip))
    if not int(port) or str(ip) in ("0.0.0.0", "::"):
        return None
    return {"ip": str(ip), "port": int(port), "version": int(version)}


def answer(adapter, request):
    act, name = request["act"], request["name"]
    method = getattr(adapter, f"{act}_{name}", None)
    if method is None:
        why = adapter.ABSENT.get(name)
        if why is None:
            return {"failed": f"the adapter neither has {act}_{name} nor says why"}
        return {"not_offered": why}
    found = method(**request["with"])
    return {"by": "method", "chosen": {}, **(found or {})} if act == "send" else {"value": found}


def say(answers, found):
    answers.write(f"{json.dumps(found)}\n")
    answers.flush()


def main(client, url, folder, wallet):
    # Answers go out alone: whatever the client prints, from whichever thread, goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    adapter = importlib.import_module(f"conformance_{client}").Adapter(url, folder, wallet)
    say(answers, {"version": adapter.version, "version_key": getattr(adapter, "version_key", None)})
    for line in sys.stdin:
        try:
            found = answer(adapter, json.loads(line))
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
        say(answers, found)


if __name__ == "__main__":
    # The adapters use this module's helpers, and must not get a second copy of it.
    sys.modules["conformance"] = sys.modules["__main__"]
    arguments, sys.argv[1:] = sys.argv[1:], []
    main(*arguments)
