"""The nets that the studies compress."""
