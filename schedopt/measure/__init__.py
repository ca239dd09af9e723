"""Times and memory of a stage of a torch module, measured on this machine."""
