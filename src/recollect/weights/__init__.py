"""Memory in the parameters of a model: a learner, methods of continual learning, and edits that can be undone.

Every method is a module of its own, `recollect.weights.replay` for one. Importing this package imports no torch.
"""
