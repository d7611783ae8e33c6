"""Ground truth: real batched speculative decoding by the clock, and the simulator held to it."""
