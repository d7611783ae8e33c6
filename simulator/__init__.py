"""What would happen: drafters, budget policies, costs and the event simulator that joins them."""

from simulator.compiled import keep_compiled

keep_compiled()
