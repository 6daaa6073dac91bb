"""The worker's side: all that takes rights is asked of the broker. Nothing else in the pipeline knows of it."""
