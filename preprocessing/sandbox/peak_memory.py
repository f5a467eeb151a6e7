"""The most memory a process has held."""


def peak_memory_mb(pid: int) -> float:
    """Return the largest resident size of a process so far in MB; 0.0 where it is gone.

    `getrusage` will not do: what it tells of a process begins with the peak of whoever started it.
    """
    try:
        with open(f"/proc/{pid}/status") as status:
            peak = next((line for line in status if line.startswith("VmHWM")), "VmHWM: 0")
    except OSError:
        return 0.0
    return int(peak.split()[1]) / 1024
