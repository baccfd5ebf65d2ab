"""Many boots of one kernel: settings drawn, results kept in one file, clustered and compared.

A boot is a run of ``ci`` (`boot.py`); what runs many of them is a ``concurrent.futures.Executor``
(`engines.py`); what came of them is one SQLite file (`store.py`), read by everything else.
"""
