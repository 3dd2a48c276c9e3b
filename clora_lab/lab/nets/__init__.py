"""The nets of the studies; `registry` lists them and loads nothing."""
