"""How tiny-pixtral was trained: its pictures, its recipe, and what it can do."""
