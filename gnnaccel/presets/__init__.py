"""One YAML a model; read by `gnnaccel.train.config.load_config`."""
