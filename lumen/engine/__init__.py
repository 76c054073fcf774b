"""Runner, hooks and optimizer wrappers."""
