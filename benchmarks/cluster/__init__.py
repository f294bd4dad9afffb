"""What a search on a Ray cluster survives, and what the cluster costs and brings."""
