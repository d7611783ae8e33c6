"""A real decoder with random weights: what the harness feeds batches through, by the clock.

`runner.Runner` runs a ragged `batch.Batch`; `decoder.Decoder` is the forward pass; torch is imported here and nowhere else.
"""
