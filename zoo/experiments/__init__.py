"""Everything that trains more than once: studies, tuning, reproducing, packing."""
