"""Many runs of the chain: settings that vary, seeds, some at a time; their means, standard errors and differences."""
