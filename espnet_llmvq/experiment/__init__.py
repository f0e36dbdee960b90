"""What a recipe is about: systems and their phases, and recipes of one's own."""
