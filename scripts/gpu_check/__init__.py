"""What a machine with a GPU can prove: `scripts/gpu_check.sh` runs it, docs/cuda.md says what comes of it.

`runner` starts each stage of `stages` as a process of its own (`child`) and keeps one JSON file of what they found.
A stage is a module with a function ``run(setting, rows)``: it adds rows as it goes, so that what it found before its
time limit is kept, and returns a line for the table. Nothing here but the stages imports the package, which the first
stage builds.
"""
