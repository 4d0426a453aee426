"""Figures to tables, pages and pictures; the only room that imports a plotting library."""
