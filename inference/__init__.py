"""Questions and answers: the pipeline, what it remembers, chat, and what the model saw."""
