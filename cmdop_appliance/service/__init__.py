"""cmdop on a machine for good: where it is installed, and the services that keep it running."""
