"""ESPnet's task, trainer and processes around the model: the only room that imports them."""
