"""``--probe``: is the server of this pod alive, ready, started?"""
