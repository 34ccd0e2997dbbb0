"""How good, and why: metrics, baselines, tables, pages."""
