"""What you can do with a model: the commands of `python -m tiny`, and what they share."""
