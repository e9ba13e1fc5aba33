"""The live side of the hub: agents' connections, commands under way, their output."""
