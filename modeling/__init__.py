"""The network and its configuration, which can be imported without the network."""
