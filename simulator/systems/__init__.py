"""Published systems, a YAML file each: a composition of parts, no code. `built_in` finds them, `needs` says what they ask for."""
