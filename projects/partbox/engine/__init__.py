"""Training and evaluation runs: configuration, objectives, the step, hooks, checkpoints."""
