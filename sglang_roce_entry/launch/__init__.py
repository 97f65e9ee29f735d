"""Doing it: late hardware, the wait for the group, the handover to SGLang."""
