"""Programs that start runs: on this machine, on Cloud TPU VMs, on clusters."""
