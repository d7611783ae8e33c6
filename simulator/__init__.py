"""What would happen: drafters, budget policies, costs and the event simulator that joins them."""
