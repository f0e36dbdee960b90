"""What each stage of a recipe does with an `Experiment`: what is not made, or was made otherwise, is made."""
