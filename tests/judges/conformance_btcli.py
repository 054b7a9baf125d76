"""What the adapters of both versions of `btcli` share: running it with a wallet and without a terminal."""

import json
import os
import subprocess
import sys

from conformance import must

# One run of btcli, which starts Python and asks the chain a few dozen things.
SECONDS_MAX = 120


class Btcli:
    def __init__(self, url, folder, wallet):
        self.url, self.folder, self.wallet = url, folder, wallet
        self.program = os.path.join(os.path.dirname(sys.executable), "btcli")
        self.version = self.run("--version").stdout.strip().splitlines()[-1]

    def run(self, *arguments):
        environment = {**os.environ, "COLUMNS": "100000", "NO_COLOR": "1", "TERM": "dumb"}
        return subprocess.run(
            [self.program, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env=environment, timeout=SECONDS_MAX,
        )

    def succeeds(self, *arguments):
        ended = self.run(*arguments)
        must(ended.returncode == 0, f"{arguments} ended with {ended.returncode}: {ended.stdout} {ended.stderr}")
        return ended.stdout

    def json(self, *arguments):
        """The last JSON value of what it prints; some commands print lines of text before it."""
        text = self.succeeds(*arguments)
        try:
            return json.loads(text)
        except ValueError:
            pass
        starts = [at for at in range(len(text)) if text[at] in "[{" and (at == 0 or text[at - 1] == "\n")]
        for at in starts:
            try:
                return json.loads(text[at:])
            except ValueError:
                continue
        must(False, f"{arguments} printed no JSON: {text}")


def coins(amount_rao):
    """Rao as the decimal coins of a command line, exactly."""
    return f"{amount_rao // 10**9}.{amount_rao % 10**9:09}"
