"""The zoo's models, and reading checkpoints without running code in them."""
