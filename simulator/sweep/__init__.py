"""Many runs of one scenario: a grid over its keys or a search, on processes or on Ray, kept cell by cell as it goes."""
