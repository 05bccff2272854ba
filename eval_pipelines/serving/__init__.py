"""From a model to an address that answers for exactly that model."""
