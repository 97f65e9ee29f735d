"""Decisions on the RDMA fabric: pure functions from facts to ports, GIDs and variables."""
