"""The bench: one run, one store, one comparison. It knows the library, and no study by name."""
