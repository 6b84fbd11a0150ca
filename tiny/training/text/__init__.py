"""How tiny-mixtral was trained: its texts, its recipe, and what it can do."""
