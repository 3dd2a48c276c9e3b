"""Data sets: where they are, how they are had, what they are called."""
