"""Measures what a decoder's operators cost on this machine, and makes a profile of them.

`grid` says what is measured, `bench` runs it, `journal` keeps it, `assemble` makes the profile; `measure` does all of it.
"""
