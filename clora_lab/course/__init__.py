"""What the notebooks show: words, widgets, the derivation of the noise."""
