"""Programs that train several times: studies, tuning, reproducing; and packing for elsewhere."""
