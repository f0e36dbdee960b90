"""Ground that everything stands on: errors, files, configs, processes."""
