"""A server for one model, `python -m tiny serve`, that clients of OpenAI's interface accept. README.md is the map."""
