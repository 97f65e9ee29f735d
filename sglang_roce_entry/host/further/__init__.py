"""Facts that no plan rests on: what a check or the card of a meeting needs beside."""
