"""What a training costs, before it is run."""
