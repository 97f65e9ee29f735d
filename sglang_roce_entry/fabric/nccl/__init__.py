"""NCCL's language: its selector, its numbers, its files, and a model of its own choice of a GID."""
