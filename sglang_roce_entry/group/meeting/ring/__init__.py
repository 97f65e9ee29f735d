"""The ring of neighbours: who dials whom on other ports than D, and a member's own part in it."""
