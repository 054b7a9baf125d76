"""The synapses of NI Compute 1.9.0 as classes of Bittensor's SDK, for the judges of the v1.9.0 axon (SDK 9.0.0 to 10.5).

The SDK asks the internet for its own address when a dendrite or an axon is made; here it is told one.
"""

import sys

sys.argv = sys.argv[:1]  # the SDK reads the command line of whoever imports it

from bittensor.core.synapse import Synapse  # noqa: E402
from bittensor.utils import networking  # noqa: E402

networking.get_external_ip = lambda: "192.0.2.77"


class Specs(Synapse):
    specs_input: str = ""
    specs_output: str = ""


class Allocate(Synapse):
    timeline: int = 0
    device_requirement: dict = {}
    checking: bool = True
    output: dict = {}
    public_key: str = ""
    docker_requirement: dict = {
        "base_image": "ubuntu",
        "ssh_key": "",
        "ssh_port": 4444,
        "volume_path": "/tmp",
        "dockerfile": "",
    }
    docker_change: bool = False
    docker_action: dict = {"action": "", "ssh_key": "", "key_type": ""}


class Challenge(Synapse):
    challenge_hash: str = ""
    challenge_salt: str = ""
    challenge_mode: str = ""
    challenge_chars: str = ""
    challenge_mask: str = ""
    challenge_difficulty: int = 7
    output: dict = {}


class Unknown(Synapse):
    x: int = 1


BY_NAME = {kind.__name__: kind for kind in (Synapse, Specs, Allocate, Challenge, Unknown)}
