"""Memory inside the network: a bounded state that every token updates.

Every system is a module of its own, `recollect.state.longmem` for one. Importing this package imports no torch.
"""
