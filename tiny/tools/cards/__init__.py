"""The cards of the embedded models: how each was trained, what that cost, what it can do, and what it cannot."""
