"""Engines that serve the model in processes of their own: vLLM, transformers serve."""
