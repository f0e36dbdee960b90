"""What an installation has, what it lacks and what mends it; answers also in an empty environment."""
