"""What `cdc check` judges: one module a place, one function a check. Reading is done elsewhere (cdc/check_ports.py)."""
