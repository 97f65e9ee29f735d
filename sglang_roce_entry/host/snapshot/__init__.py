"""Recorded nodes: what ``--save-snapshot`` writes and ``--snapshot`` replays."""
