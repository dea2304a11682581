"""Memory in the attention cache of a RoPE decoder of transformers; see docs/context.md.

Every policy is a module of its own, `recollect.context.infllm` for one. Importing this package imports no torch.
"""
