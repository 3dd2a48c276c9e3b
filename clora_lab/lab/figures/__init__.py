"""Figures of recorded rows: one style, one grammar of marks."""
