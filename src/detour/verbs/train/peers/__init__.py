"""Settings files of other trainers: what each of their keys becomes here, and which have no counterpart."""

from detour.verbs.train.peers.fates import Fate
from detour.verbs.train.peers.read import PEERS, PeerName, PeerSettings, read_peer

__all__ = ["PEERS", "Fate", "PeerName", "PeerSettings", "read_peer"]
