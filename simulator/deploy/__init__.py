"""Real engines: settings that run there what was simulated, and the drafter and the policies that run inside one."""
