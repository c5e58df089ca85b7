"""Starting a command on several hosts, and again on those that are left. Knows nothing of what the command does."""
