"""Speech encoders, trained here or elsewhere, and how many frames they make."""
