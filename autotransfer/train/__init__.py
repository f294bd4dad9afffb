"""Networks cut into stages, frozen, given a head and trained; knows neither data sources nor Ray."""
