"""autotransfer."""
