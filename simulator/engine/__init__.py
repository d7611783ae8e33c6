"""The event engine: batch state and compiled decode loop, one SimPy process per replica, the cluster around them."""
