"""All of Ray's plumbing, and none of the ideas."""
