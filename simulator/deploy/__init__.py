"""What runs inside real engines: the drafter and the policies that are simulated, by the interfaces of those engines."""
