"""The studies: a page each."""
