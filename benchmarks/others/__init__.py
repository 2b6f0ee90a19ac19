"""The same model behind other people's servers, as their guides show them, for `benchmarks/serving_speed.py`.

Each reads the model's path and picture side from THAW_BENCH_MODEL and THAW_BENCH_SIDE.
"""
