"""The cmdop appliance: hub, agent, command line and SDK in one package."""

__version__ = "0.1.0"
