"""What the Web API answers, without the network."""
