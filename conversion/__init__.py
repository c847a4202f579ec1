"""Checkpoints of the original LLaVA-NeXT code: converting them to ours, and back.

Start with the tables: `weight_names`, `original_config`, `recipes`. `plan` reads a checkpoint's headers and decides,
`convert` streams, `command` is the command line, `direct_loading` does without files of its own.
"""
