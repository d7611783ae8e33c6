"""How good a policy is: a bound that none can beat, an oracle, regret, intervals by resampling prompts, and sensitivity.

`report.compare` joins them into one table; everything here is a pure function of workloads, costs and policies.
"""
