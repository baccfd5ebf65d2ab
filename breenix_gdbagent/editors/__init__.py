"""Editors: the Debug Adapter Protocol over our own debugger, and launch configurations."""
