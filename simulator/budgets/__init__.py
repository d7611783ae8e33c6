"""How many tokens to draft: budget policies, from what an engine knows at the start of a decode step."""
