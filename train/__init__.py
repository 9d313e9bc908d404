"""The programs: `python -m train.main`, `python -m train.evaluate`."""
