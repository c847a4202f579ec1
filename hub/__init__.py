"""Folders of checkpoints: read safely, written whole or not at all, exported, uploaded."""
