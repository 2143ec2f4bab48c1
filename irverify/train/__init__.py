"""Training of certifiably robust networks by recipe: networks, recipes, the training loop, checkpoints, logs."""
