"""The demo: a provider, two apps on two sites, and a page that shows what stands in their sessions and token caches."""
