"""Names of what is in a module inside wrappers, such as those of torch.compile and DataParallel."""

# The names under which wrappers hold the module: data parallel, torch.compile, FSDP, activation checkpointing.
_INSIDE = frozenset(["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])


def plain_name(name: str) -> str:
    """The name without what wrappers put into it, at its beginning or in its middle."""
    return ".".join(part for part in name.split(".") if part not in _INSIDE)
