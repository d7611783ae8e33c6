"""What brings a system from its closed form to what it takes, part by part."""
