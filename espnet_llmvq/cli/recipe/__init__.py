"""Recipes and the systems in them."""
