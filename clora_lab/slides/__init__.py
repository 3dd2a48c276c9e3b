"""The C-LoRA slides: what they print, what does not add up, and their figures again."""
