"""Enters a lease as the original's validator does: paramiko, a password, any host key, ten seconds, no second try.

Reads an object from standard input: `host`, `port`, `username`, `password`, and maybe `python` (the interpreter in the
lease). Uploads a script to /tmp, has it hashed there, runs it, writes by `echo`, reads a file back from /dev/shm. Anything on
standard error is a failure, as it is there. Prints what happened with its times.
"""

import hashlib
import json
import sys
import tempfile
import time

import paramiko

SCRIPT = b"""
import hashlib, os, sys
mode = sys.argv[2]
if mode == "info":
    print('{"num_gpus": 0, "gpu_names": []}')
elif mode == "compute":
    seeds = open("/tmp/seeds.txt").read().split()
    block = hashlib.sha256(" ".join(seeds).encode()).digest() * 32768
    open("/dev/shm/responses_gpu_0.npy", "wb").write(block)
    print("Root hashes:", hashlib.sha256(block).hexdigest())
"""
REMOTE = "/tmp/miner_script.py"


def run(client, command):
    _, out, err = client.exec_command(command)
    said, complained = out.read().decode(), err.read().decode()
    if complained:
        raise RuntimeError(f"{command}: {complained}")
    return said.strip(), out.channel.recv_exit_status()


def session(order):
    python = order.get("python", "/opt/conda/bin/python")
    times, began = {}, time.monotonic()

    def lap(name):
        nonlocal began
        now = time.monotonic()
        times[name] = now - began
        began = now

    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        order["host"], port=order["port"], username=order["username"], password=order["password"], timeout=10
    )
    lap("connect")
    sftp = client.open_sftp()
    with tempfile.NamedTemporaryFile() as local:
        local.write(SCRIPT)
        local.flush()
        sftp.put(local.name, REMOTE)
    lap("put")
    hasher = f"import hashlib; print(hashlib.sha256(open('{REMOTE}', 'rb').read()).hexdigest())"
    hashed, _ = run(client, f'{python} -c "{hasher}"')
    lap("hash")
    info, status = run(client, f"{python} {REMOTE} --mode info")
    run(client, "echo '64' > /tmp/seeds.txt")
    run(client, "echo '0 11 22' >> /tmp/seeds.txt")
    root, _ = run(client, f"{python} {REMOTE} --mode compute")
    lap("run")
    with tempfile.NamedTemporaryFile() as local:
        sftp.get("/dev/shm/responses_gpu_0.npy", local.name)
        got = hashlib.sha256(local.read()).hexdigest()
    lap("get")
    whoami, _ = run(client, "id -un")
    _, out, _ = client.exec_command("exit 7")
    code = out.channel.recv_exit_status()
    sftp.close()
    client.close()
    return {
        "hash_is_right": hashed == hashlib.sha256(SCRIPT).hexdigest(),
        "info": json.loads(info),
        "status": status,
        "file_is_right": root.split()[-1] == got,
        "user": whoami,
        "code": code,
        "seconds": times,
    }


def main():
    order = json.load(sys.stdin)
    try:
        told = session(order)
    except paramiko.AuthenticationException as error:
        told = {"refused": str(error)}
    except (OSError, EOFError, RuntimeError, paramiko.SSHException) as error:
        told = {"failed": f"{type(error).__name__}: {error}"}
    print(json.dumps(told))


main()
