"""The search: survey, candidates, policy, and the executors that run its jobs."""
