"""Folders of checkpoints: read safely, written at once, exported with their code and a card, uploaded."""
