"""The meeting of a group's launchers: cards in, one verdict for all out."""
