"""What the reference is run on, what that costs, and where its results are kept."""
