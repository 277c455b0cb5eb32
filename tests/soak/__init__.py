"""The random nemesis: `ops/soak`. What its report says: ops/reference/soak.md."""
