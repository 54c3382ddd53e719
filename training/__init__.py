"""How the weights come to be."""
