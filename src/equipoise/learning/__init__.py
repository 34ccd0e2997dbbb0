"""θ: objectives, the training loop, checkpoints."""
