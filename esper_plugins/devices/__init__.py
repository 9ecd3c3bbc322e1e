"""Device strategies: executor x placement. `single` runs on one device with the `loop` executor."""
