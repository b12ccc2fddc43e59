"""How codes are chosen: `rtn`, `gptq`, and the transforms that come before any of them (`awq`, `smoothquant`).

A method sees weights, statistics and the grid of a target; no container, no file. base.py has the seam.
"""
