"""Arrays, whole files, memory and threads: what every other package may use."""
