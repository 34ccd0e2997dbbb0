"""θ is learnt: losses, the loop, checkpoints, loggers, and how the shipped denoiser was made."""
