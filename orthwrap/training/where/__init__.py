"""Where training runs: devices and processes."""
