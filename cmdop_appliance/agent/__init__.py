"""The program on a machine: it joins a hub and runs what the hub asks for."""
