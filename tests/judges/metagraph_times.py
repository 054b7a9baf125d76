"""How long Python's SDK takes for a metagraph.

    metagraph_times.py URL NETUID METHOD ROUNDS

METHOD is `get_metagraph_info`, one runtime call, or `metagraph`, what most programs use. Prints the nanoseconds of each
round on its last line, after one round that is not counted.
"""

import sys
import time

import bittensor as bt


def main(url, netuid, method, rounds):
    subtensor = bt.Subtensor(network=url)
    read = getattr(subtensor, method)
    read(int(netuid))
    times = []
    for _ in range(int(rounds)):
        began = time.perf_counter_ns()
        read(int(netuid))
        times.append(time.perf_counter_ns() - began)
    print(*times)


if __name__ == "__main__":
    arguments, sys.argv[1:] = sys.argv[1:], []
    main(*arguments)
