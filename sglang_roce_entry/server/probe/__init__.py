"""``--probe``: has the server of this pod started, is it ready, is it alive."""
