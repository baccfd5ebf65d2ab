"""The counts that no CI has the time for: ``make thorough``, or ``TOPIC=fuzz`` of it alone.

One file a topic, ``test_TOPIC.py``; nothing here is run by ``make test``. A test that needs QEMU
takes the fixture `qemu` and is run once for each that is found (`tests.thorough.conftest`). There
is no limit of time; what is not here is skipped by name, as everywhere.
"""
