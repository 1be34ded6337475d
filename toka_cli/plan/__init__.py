"""Decides and shows what will happen, and what each agent may do. Pure."""
