"""Ray: joining or starting a cluster, worker resources, signals."""
