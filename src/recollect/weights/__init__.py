"""Memory in the parameters: adapters, side memories and modulations, written by a gradient step or an edit."""
