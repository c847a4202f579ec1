"""transformers' own shared tests, run against our classes: the contract of a model in transformers.

`python -m tests.contract` prints a table; `test_contract.py` compares it with `differences.py`. The shared tests lie in
transformers' source distribution, which is fetched into a cache outside the repository (`source.py`); the classes and
settings they are given are in `subjects.py` and `suites.py`.
"""
