"""Tasks: data in three disjoint parts, a host, a loss and a score."""
